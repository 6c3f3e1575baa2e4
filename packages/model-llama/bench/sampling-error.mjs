// How far is sampled attention from exact attention on a real model and text? After an exact prefill of the context, the
// text's next tokens are decoded with sampling, and each sampled layer's output is compared with exact attention for the
// same queries; the predictions are compared with those of an exact run over the same tokens.
//
//   node bench/sampling-error.mjs --model smollm2 --tokens 6000
import { CpuBackend } from '@magicpig/cpu-kernels';
import { KvStore } from '@magicpig/kv-offload';
import { Llama, loadLlamaWeights, MagicPigPolicy, openCheckpoint, resolveAttention } from '../dist/index.js';
import { benchOptions, benchText, writeResults } from './common.mjs';

const STEPS = 128;
const CHUNK_TOKENS = 512;
const SETTINGS = [
  { K: 10, L: 150 },
  { K: 9, L: 120 },
  { K: 8, L: 75 },
  { K: 10, L: 300 },
];
const { model: source, threads, contexts } = benchOptions();
const contextTokens = contexts.at(-1);

const checkpoint = await openCheckpoint(source);
const { config, tokenizer } = checkpoint;
const backend = new CpuBackend(threads === undefined ? {} : { threads });
const { layers, kvHeads, queryHeads, headDim } = config;
const store = new KvStore({ layers, kvHeads, queryHeads, headDim, pool: backend.pool });
const weights = await loadLlamaWeights(checkpoint, backend, { format: 'bf16' });
const errors = { squares: 0, count: 0 };
const llama = new Llama({ config, backend, cache: comparingCache(store, errors), weights, maxRows: CHUNK_TOKENS });

const tokens = tokenizer.encode(benchText()).subarray(0, contextTokens + STEPS);
const context = store.open();
for (let begin = 0; begin < contextTokens; begin += CHUNK_TOKENS) {
  const chunk = tokens.subarray(begin, Math.min(begin + CHUNK_TOKENS, contextTokens));
  llama.forward([{ sequence: context, tokens: chunk, promptTokens: contextTokens, logits: 'none' }]);
}
const exact = decode(() => undefined);

console.log(`${source}, ${contextTokens} tokens of context, ${STEPS} decoded, ${backend.description}\n`);
console.log('   K    L  keys drawn  keys read  attention error  same prediction');
const rows = SETTINGS.map(({ K, L }) => {
  errors.squares = 0;
  errors.count = 0;
  const settings = resolveAttention({ policy: 'magicpig', K, L, minContext: 0 }, layers);
  const policy = new MagicPigPolicy({ settings, config, cache: store, pool: backend.pool });
  const { predictions, report } = decode((sequence) => policy.open(sequence));
  const row = {
    K,
    L,
    sampledShare: report.sampledShare,
    keysReadShare: report.keysReadShare,
    attentionError: Math.sqrt(errors.squares / errors.count),
    agreement: predictions.filter((token, i) => token === exact.predictions[i]).length / STEPS,
  };
  console.log(
    `${String(K).padStart(4)} ${String(L).padStart(4)}  ${percent(row.sampledShare)}     ${percent(row.keysReadShare)}    ` +
      `${row.attentionError.toFixed(3).padStart(12)}  ${percent(row.agreement).padStart(15)}`,
  );
  return row;
});
writeResults('sampling-error', { model: source, contextTokens, steps: STEPS, rows });

/** Decodes the text's next tokens after a copy of the context; the most likely token after each. */
function decode(openAttention) {
  const sequence = context.fork();
  const attention = openAttention(sequence);
  const predictions = [];
  for (let i = 0; i < STEPS; i += 1) {
    while (attention && !attention.ready) attention.prepare(Number.POSITIVE_INFINITY);
    const next = tokens.subarray(contextTokens + i, contextTokens + i + 1);
    const { logits, keysRead } = llama.forward([
      { sequence, tokens: next, promptTokens: contextTokens, attention, logits: 'last' },
    ]);
    attention?.afterDecode(sequence.length, keysRead[0]);
    predictions.push(logits[0].indexOf(logits[0].reduce((a, b) => Math.max(a, b))));
  }
  const report = attention?.report();
  attention?.[Symbol.dispose]();
  sequence[Symbol.dispose]();
  return { predictions, report };
}

/** A cache that also attends exactly wherever it samples, and adds up |sampled - exact|^2 / |exact|^2 per query head. */
function comparingCache(cache, sums) {
  const scratch = new Float32Array(queryHeads * headDim);
  return {
    step(entries) {
      const step = cache.step(entries);
      return {
        append: (...args) => step.append(...args),
        rollback: () => step.rollback(),
        attend(layer, queries, output, options) {
          step.attend(layer, queries, output, options);
          if (!options.sampling[0]) return;
          step.attend(layer, queries, { data: scratch, offset: 0, stride: scratch.length });
          for (let head = 0; head < queryHeads; head += 1) {
            let difference = 0;
            let norm = 0;
            for (let i = head * headDim; i < (head + 1) * headDim; i += 1) {
              difference += (output.data[i] - scratch[i]) ** 2;
              norm += scratch[i] ** 2;
            }
            sums.squares += difference / norm;
            sums.count += 1;
          }
        },
      };
    },
  };
}

function percent(share) {
  return `${(100 * share).toFixed(1)}%`.padStart(6);
}
