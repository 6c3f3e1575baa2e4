// From how many tokens of context on is sampled attention the faster one? Decode of one text at growing contexts, exact and
// sampled in turns; the crossover is the default of `minContext` of each policy.
//
//   node bench/min-context.mjs --model smollm2
import { MagicPigPolicy, resolveAttention, SketchPolicy } from '../dist/index.js';
import { benchOptions, benchText, median, writeResults } from './common.mjs';
import { openLlama, prefill } from './open-llama.mjs';

/** Decoded tokens of a turn. */
const STEPS = 16;
const options = benchOptions({ tokens: '512,1024,1536,2048,2560,3072,3584,4096,5120,6144,7168' });
const { model: source, rounds, contexts } = options;
const { config, tokenizer, backend, store, llama } = await openLlama({ source, threads: options.threads });
const POLICIES = { magicpig: MagicPigPolicy, sketch: SketchPolicy };
const openers = Object.fromEntries(
  Object.entries(POLICIES).map(([name, Policy]) => {
    const settings = resolveAttention({ policy: name, minContext: 0 }, config.layers);
    const policy = new Policy({ settings, config, cache: store, pool: backend.pool });
    return [name, (sequence) => policy.open(sequence)];
  }),
);
const tokens = tokenizer.encode(benchText());

console.log(`${source}, ${backend.description}, medians of ${rounds} x ${STEPS} tokens\n`);
console.log(`context  dense, ms  ${Object.keys(openers).map(heading).join('  ')}`);
const context = store.open();
const rows = contexts.map((length) => {
  prefill(llama, context, tokens.subarray(context.length, length));
  const times = { dense: [] };
  for (let round = 0; round < rounds; round += 1) {
    times.dense.push(...decode(undefined));
    for (const [name, open] of Object.entries(openers)) (times[name] ??= []).push(...decode(open));
  }
  const dense = median(times.dense);
  const row = { context: length, denseMs: dense };
  for (const name of Object.keys(openers)) row[name] = { ms: median(times[name]), ratio: dense / median(times[name]) };
  const sampled = Object.keys(openers).map((name) =>
    `${row[name].ms.toFixed(2)} (${row[name].ratio.toFixed(2)}x)`.padStart(15),
  );
  console.log(`${String(length).padStart(7)}  ${dense.toFixed(2).padStart(9)}  ${sampled.join('  ')}`);
  return row;
});
const crossover = Object.fromEntries(
  Object.keys(openers).map((name) => {
    const last = rows.findLastIndex((row) => row[name].ratio < 1);
    return [name, rows[last + 1]?.context ?? null];
  }),
);
for (const [name, from] of Object.entries(crossover)) {
  console.log(`${name} is faster from ${from ?? 'beyond the longest context measured'}`);
}
writeResults('min-context', { model: source, threads: backend.threads, rounds, steps: STEPS, crossover, rows });

function heading(name) {
  return `${name}, ms`.padStart(15);
}

/** Milliseconds of each token that goes on a copy of the context. */
function decode(openAttention) {
  const sequence = context.fork();
  const attention = openAttention?.(sequence);
  while (attention && !attention.ready) attention.prepare(Number.POSITIVE_INFINITY);
  const times = [];
  for (let i = 0; i < STEPS; i += 1) {
    const next = tokens.subarray(sequence.length, sequence.length + 1);
    const start = performance.now();
    llama.forward([{ sequence, tokens: next, promptTokens: context.length, attention, logits: 'last' }]);
    times.push(performance.now() - start);
  }
  attention?.[Symbol.dispose]();
  sequence[Symbol.dispose]();
  return times;
}
