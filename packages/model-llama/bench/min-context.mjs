// From how many tokens of context on is sampled attention the faster one? Decode of one text at growing contexts, exact and
// sampled in turns; the crossover is the default of `minContext`.
//
//   node bench/min-context.mjs --model smollm2
import { MagicPigPolicy, resolveAttention } from '../dist/index.js';
import { benchOptions, benchText, median, writeResults } from './common.mjs';
import { openLlama, prefill } from './open-llama.mjs';

/** Decoded tokens of a turn. */
const STEPS = 16;
const options = benchOptions({ tokens: '512,1024,1536,2048,2560,3072,3584,4096,5120,6144,7168' });
const { model: source, rounds, contexts } = options;
const { config, tokenizer, backend, store, llama } = await openLlama({ source, threads: options.threads });
const settings = resolveAttention({ policy: 'magicpig', minContext: 0 }, config.layers);
const policy = new MagicPigPolicy({ settings, config, cache: store, pool: backend.pool });
const tokens = tokenizer.encode(benchText());

console.log(`${source}, ${backend.description}, medians of ${rounds} x ${STEPS} tokens\n`);
console.log('context  dense, ms  magicpig, ms');
const context = store.open();
const rows = contexts.map((length) => {
  prefill(llama, context, tokens.subarray(context.length, length));
  const times = { dense: [], magicpig: [] };
  for (let round = 0; round < rounds; round += 1) {
    times.dense.push(...decode(undefined));
    times.magicpig.push(...decode((sequence) => policy.open(sequence)));
  }
  const row = { context: length, denseMs: median(times.dense), magicpigMs: median(times.magicpig) };
  row.ratio = row.denseMs / row.magicpigMs;
  console.log(
    `${String(length).padStart(7)}  ${row.denseMs.toFixed(2).padStart(9)}  ${row.magicpigMs.toFixed(2).padStart(12)} (${row.ratio.toFixed(2)}x)`,
  );
  return row;
});
const last = rows.findLastIndex(({ ratio }) => ratio < 1);
const crossover = rows[last + 1]?.context ?? null;
console.log(`\nsampling is faster from ${crossover ?? 'beyond the longest context measured'}`);
writeResults('min-context', { model: source, threads: backend.threads, rounds, steps: STEPS, crossover, rows });

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
