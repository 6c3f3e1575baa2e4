import type { SequenceAttention } from './attention-policy.js';
import type { Backend, Tensor } from './backend.js';
import type { LlamaConfig } from './checkpoint.js';
import { type ForwardTap, StepTaps } from './forward-tap.js';
import type { KvCache, KvSequence } from './kv-cache.js';
import { layerAttention } from './layer-attention.js';
import type { LlamaWeights } from './llama-weights.js';
import { Rope } from './rope.js';

/** One sequence's part of a forward step. */
export interface ForwardEntry {
  sequence: KvSequence;
  /** Tokens that follow the ones in the cache, at least one. */
  tokens: Int32Array;
  /** Length of the prompt they belong to; see {@link Rope.fill}. */
  promptTokens: number;
  /** Samples keys where the policy says so; exact attention when absent. */
  attention?: SequenceAttention | undefined;
  /** Rows whose logits are wanted. */
  logits: 'none' | 'last' | 'all';
  /** Is shown the layers that it wants. */
  tap?: ForwardTap | undefined;
}

export interface ForwardResult {
  /** Logits of the wanted rows, in order; each [vocab], valid until the next call. */
  logits: Float32Array[];
  /** Keys read for each entry, summed over its rows, layers and query heads; empty when no entry samples. */
  keysRead: Float64Array;
}

/** The forward pass of a Llama: the model on this page, the arithmetic in the backend, attention in the cache. */
export class Llama implements Disposable {
  readonly config: LlamaConfig;
  /** Rows of all entries of a step, at most. */
  readonly maxRows: number;
  readonly #backend: Backend;
  readonly #cache: Pick<KvCache, 'step'>;
  readonly #weights: LlamaWeights;
  readonly #rope: Rope;

  // Activations of a step of R rows, R <= maxRows. Hq query heads and Hkv KV heads of d elements, MLP width F.
  readonly #x: Tensor; // [R, hidden] residual stream
  readonly #qkv: Tensor; // [R, (Hq + 2 Hkv) d]
  readonly #attended: Tensor; // [R, Hq d]
  readonly #gated: Tensor; // [R, F]
  readonly #rotations: Tensor; // [R, d] cosines, sines
  #last: Tensor; // [rows with logits, hidden]
  #logits: Tensor; // [rows with logits, vocab]

  constructor(options: {
    config: LlamaConfig;
    backend: Backend;
    cache: Pick<KvCache, 'step'>;
    weights: LlamaWeights;
    maxRows: number;
  }) {
    const { config, backend, maxRows } = options;
    const { hiddenSize, intermediateSize, queryHeads, kvHeads, headDim } = config;
    this.config = config;
    this.maxRows = maxRows;
    this.#backend = backend;
    this.#cache = options.cache;
    this.#weights = options.weights;
    this.#rope = new Rope(config);
    this.#x = backend.tensor(maxRows * hiddenSize);
    this.#qkv = backend.tensor(maxRows * (queryHeads + 2 * kvHeads) * headDim);
    this.#attended = backend.tensor(maxRows * queryHeads * headDim);
    this.#gated = backend.tensor(maxRows * intermediateSize);
    this.#rotations = backend.tensor(maxRows * headDim);
    this.#last = backend.tensor(hiddenSize);
    this.#logits = backend.tensor(config.vocabSize);
  }

  /** Bytes of the activations of steps of `maxRows` rows, `logits` of which have logits. */
  static bytesFor(config: LlamaConfig, maxRows: number, logits: number): number {
    const { hiddenSize, intermediateSize, queryHeads, kvHeads, headDim, vocabSize } = config;
    const row = hiddenSize + (2 * queryHeads + 2 * kvHeads + 1) * headDim + intermediateSize;
    return 4 * (maxRows * row + logits * (hiddenSize + vocabSize));
  }

  /**
   * Runs the rows of all entries through the model and appends them to their sequences. A row's result depends on its own
   * sequence alone. On failure the sequences are as they were.
   *
   * @throws RangeError for no rows or more than `maxRows`, KvOutOfMemoryError when the cache is full.
   */
  forward(entries: readonly ForwardEntry[]): ForwardResult {
    const { config } = this;
    const { hiddenSize, layers, rmsNormEps: epsilon } = config;
    const backend = this.#backend;
    const { tokens, positions, contexts, wanted } = this.#layout(entries);
    const rows = tokens.length;
    const tensors = { qkv: this.#qkv, rotations: this.#rotations, output: this.#attended };
    const keysRead = new Float64Array(entries.some(({ attention }) => attention) ? rows : 0);

    const taps = new StepTaps(entries, config, backend);
    const step = this.#cache.step(entries.map(({ sequence, tokens }) => ({ sequence, tokens: tokens.length })));
    try {
      const attention = layerAttention(step, rows, config, backend);
      backend.embed(this.#x, this.#weights.embedding, tokens);
      this.#rope.fill(backend, this.#rotations, positions, contexts);
      for (const [layer, weights] of this.#weights.layers.entries()) {
        const norm = { weight: weights.attentionNorm, epsilon };
        backend.linear(this.#qkv, this.#x, weights.qkv, rows, { norm, bias: weights.qkvBias });
        // A chunk of prompt leaves only keys and values.
        const attend = layer < layers - 1 || wanted.length > 0 || taps.want(layer);
        const options = {
          sampling: entries.map(({ attention }) => attention?.sampling(layer) ?? null),
          ...(keysRead.length > 0 && { keysRead }),
        };
        attention.begin(layer, tensors, taps.options(layer, options), attend);
        if (!attend) break;
        attention.finish(layer);
        taps.show(layer, tensors, options);
        backend.linear(this.#x, this.#attended, weights.o, rows, { bias: weights.oBias, accumulate: true });

        backend.linearGated(this.#gated, this.#x, weights.gateUp, rows, { norm: { weight: weights.mlpNorm, epsilon } });
        backend.linear(this.#x, this.#gated, weights.down, rows, { bias: weights.downBias, accumulate: true });
      }
      const logits = this.#project(wanted, hiddenSize, epsilon);
      attention.end();
      return { logits, keysRead: sumByEntry(entries, keysRead) };
    } catch (error) {
      step.rollback();
      throw error;
    }
  }

  /** Logits of the wanted rows: final norm and output matrix. */
  #project(wanted: Int32Array, hiddenSize: number, epsilon: number): Float32Array[] {
    if (wanted.length === 0) return [];
    const backend = this.#backend;
    const { vocabSize } = this.config;
    if (this.#logits.length < wanted.length * vocabSize) {
      this.#last[Symbol.dispose]();
      this.#logits[Symbol.dispose]();
      this.#last = backend.tensor(wanted.length * hiddenSize);
      this.#logits = backend.tensor(wanted.length * vocabSize);
    }
    backend.copyRows(this.#last, this.#x, wanted, hiddenSize);
    const norm = { weight: this.#weights.norm, epsilon };
    backend.linear(this.#logits, this.#last, this.#weights.output, wanted.length, { norm });
    backend.toHost(this.#logits, wanted.length * vocabSize);
    return Array.from(wanted, (_, i) => this.#logits.host.subarray(i * vocabSize, (i + 1) * vocabSize));
  }

  /** Tokens, absolute positions and context lengths of all rows, and the rows whose logits are wanted. */
  #layout(entries: readonly ForwardEntry[]) {
    const rows = entries.reduce((sum, { tokens }) => sum + tokens.length, 0);
    if (rows === 0 || rows > this.maxRows) throw new RangeError(`a step has 1..${this.maxRows} rows, not ${rows}`);
    const tokens = new Int32Array(rows);
    const positions = new Int32Array(rows);
    const contexts = new Int32Array(rows);
    const wanted: number[] = [];
    let row = 0;
    for (const entry of entries) {
      const start = entry.sequence.length;
      for (const [i, token] of entry.tokens.entries()) {
        tokens[row] = token;
        positions[row] = start + i;
        contexts[row] = Math.max(entry.promptTokens, start + i + 1);
        if (entry.logits === 'all' || (entry.logits === 'last' && i === entry.tokens.length - 1)) wanted.push(row);
        row += 1;
      }
    }
    return { tokens, positions, contexts, wanted: Int32Array.from(wanted) };
  }

  /** Frees the activations. Weights, cache and backend belong to whoever made them. */
  [Symbol.dispose](): void {
    for (const tensor of [this.#x, this.#qkv, this.#attended, this.#gated, this.#rotations, this.#last, this.#logits]) {
      tensor[Symbol.dispose]();
    }
  }
}

function sumByEntry(entries: readonly ForwardEntry[], perRow: Float64Array): Float64Array {
  if (perRow.length === 0) return perRow;
  let row = 0;
  return Float64Array.from(entries, ({ tokens }) => {
    let sum = 0;
    for (let i = 0; i < tokens.length; i += 1) sum += perRow[row++]!;
    return sum;
  });
}
