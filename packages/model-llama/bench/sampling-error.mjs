// How far is sampled attention from exact attention on a real model and text? After an exact prefill of the context, the
// text's next tokens are decoded with sampling, and each sampled layer's output is compared with exact attention for the
// same queries; the predictions are compared with those of an exact run over the same tokens.
//
//   node bench/sampling-error.mjs --model smollm2 --tokens 6000
import { MagicPigPolicy, resolveAttention } from '../dist/index.js';
import { attentionError } from './attention-error.mjs';
import { benchOptions, benchText, writeResults } from './common.mjs';
import { openLlama, prefill } from './open-llama.mjs';

const STEPS = 128;
const SETTINGS = [
  { K: 10, L: 150 },
  { K: 9, L: 120 },
  { K: 8, L: 75 },
  { K: 10, L: 300 },
];
const { model: source, threads, contexts } = benchOptions();
const contextTokens = contexts.at(-1);

let compared;
const { config, tokenizer, backend, store, llama } = await openLlama({
  source,
  threads,
  format: 'bf16',
  watch(store, config) {
    compared = attentionError(store, config);
    return compared.cache;
  },
});
const tokens = tokenizer.encode(benchText()).subarray(0, contextTokens + STEPS);
const context = store.open();
prefill(llama, context, tokens.subarray(0, contextTokens));
const exact = decode(() => undefined);

console.log(`${source}, ${contextTokens} tokens of context, ${STEPS} decoded, ${backend.description}\n`);
console.log('   K    L  keys drawn  keys read  attention error  same prediction');
const rows = SETTINGS.map(({ K, L }) => {
  const settings = resolveAttention({ policy: 'magicpig', K, L, minContext: 0 }, config.layers);
  const policy = new MagicPigPolicy({ settings, config, cache: store, pool: backend.pool });
  const { predictions, report } = decode((sequence) => policy.open(sequence));
  const row = {
    K,
    L,
    sampledShare: report.sampledShare,
    keysReadShare: report.keysReadShare,
    attentionError: compared.take(),
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

function percent(share) {
  return `${(100 * share).toFixed(1)}%`.padStart(6);
}
