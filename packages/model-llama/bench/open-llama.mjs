import { CpuBackend } from '@magicpig/cpu-kernels';
import { KvStore } from '@magicpig/kv-offload';
import { Llama, loadLlamaWeights, openCheckpoint } from '../dist/index.js';

/** Rows of a prefill step. */
const CHUNK_TOKENS = 512;

/**
 * The forward pass of a model over a KV cache, without the engine.
 *
 * @param {{ source: string, threads?: number, format?: string, dtype?: string, watch?: (store, config) => object }} options
 *   `watch` may put something between the model and its cache.
 */
export async function openLlama({
  source,
  threads,
  format = 'q8',
  dtype = format === 'f32' ? 'f32' : 'bf16',
  watch = (store) => store,
}) {
  const checkpoint = await openCheckpoint(source);
  const { config, tokenizer } = checkpoint;
  const { layers, kvHeads, queryHeads, headDim } = config;
  const backend = new CpuBackend(threads === undefined ? {} : { threads });
  const store = new KvStore({ layers, kvHeads, queryHeads, headDim, dtype, pool: backend.pool });
  const weights = await loadLlamaWeights(checkpoint, backend, { format });
  const llama = new Llama({ config, backend, cache: watch(store, config), weights, maxRows: CHUNK_TOKENS });
  const dispose = () => {
    for (const owned of [llama, weights, store, backend, checkpoint]) owned[Symbol.dispose]();
  };
  return { config, tokenizer, backend, store, weights, llama, [Symbol.dispose]: dispose };
}

/** Appends tokens to a sequence; `onLogits`, when given, sees the logits of every row, [vocab], and the row's number. */
export function prefill(llama, sequence, tokens, onLogits) {
  const promptTokens = sequence.length + tokens.length;
  for (let begin = 0; begin < tokens.length; begin += CHUNK_TOKENS) {
    const chunk = tokens.subarray(begin, begin + CHUNK_TOKENS);
    const entry = { sequence, tokens: chunk, promptTokens, logits: onLogits ? 'all' : 'none' };
    for (const [row, logits] of llama.forward([entry]).logits.entries()) onLogits(logits, begin + row);
  }
}
