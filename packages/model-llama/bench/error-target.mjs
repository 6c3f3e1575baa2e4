// Does the error that a sketch's draw reports hold on real keys? For the queries of decoded tokens of several texts: the sum of
// e^score over all sampled keys against its estimate from keys drawn to an error target, and how often the two are less than
// twice the reported standard error apart (95% for a normal distribution).
//
//   node bench/error-target.mjs --model smollm2
import { KeySketch } from '@magicpig/lsh';
import { resolveAttention } from '../dist/index.js';
import { benchOptions, benchText, writeResults } from './common.mjs';
import { openLlama, prefill } from './open-llama.mjs';
import { scoresOf } from './samplers/selections.mjs';

const TEXTS = ['constitution', 'job', 'luke', 'proverbs'];
const TARGETS = [0.1, 0.05, 0.02];
const BITS = [1, 2, 4];
const STEPS = 12;
const { model: source, threads, contexts } = benchOptions({ tokens: '7700' });
const contextTokens = contexts.at(-1);

let seen = () => {};
const { config, tokenizer, backend, store, llama } = await openLlama({
  source,
  threads,
  format: 'bf16',
  watch: (store) => ({
    step(entries) {
      const step = store.step(entries);
      return {
        append: (...args) => step.append(...args),
        rollback: () => step.rollback(),
        attend(layer, queries, output, options) {
          step.attend(layer, queries, output, options);
          seen(layer, queries);
        },
      };
    },
  }),
});
const { kvHeads, queryHeads, headDim } = config;
const { sink, window, denseLayers } = resolveAttention({ policy: 'sketch' }, config.layers);
const end = contextTokens - window;

const rows = BITS.flatMap((bits) =>
  TARGETS.map((target) => ({ bits, target, draws: 0, covered: 0, squares: 0, share: 0 })),
);
for (const text of TEXTS) {
  const tokens = tokenizer.encode(benchText(text)).subarray(0, contextTokens + STEPS);
  const context = store.open();
  prefill(llama, context, tokens.subarray(0, contextTokens));
  /** Of each layer and KV head: keys [end - sink, headDim], and a sketch of each number of bits. */
  const heads = new Map();
  for (let step = 0; step < STEPS; step += 1) {
    seen = (layer, queries) => {
      if (denseLayers.includes(layer)) return;
      for (let head = 0; head < queryHeads; head += 1) {
        const kvHead = Math.floor((head * kvHeads) / queryHeads);
        const at = layer * kvHeads + kvHead;
        if (!heads.has(at)) heads.set(at, sketched(store.readKeys(context, layer, kvHead, sink, end)));
        const begin = queries.offset + head * headDim;
        compare(heads.get(at), queries.data.slice(begin, begin + headDim), step);
      }
    };
    llama.forward([
      {
        sequence: context,
        tokens: tokens.subarray(contextTokens + step, contextTokens + step + 1),
        promptTokens: contextTokens,
        logits: 'last',
      },
    ]);
    seen = () => {};
  }
  for (const { sketches } of heads.values()) for (const sketch of sketches) sketch[Symbol.dispose]();
  context[Symbol.dispose]();
}

console.log(`${source}, ${contextTokens} tokens of context, ${TEXTS.length} texts, ${rows[0].draws} draws each\n`);
console.log('bits  target  keys read  true error  under twice the estimate');
const results = rows.map(({ bits, target, draws, covered, squares, share }) => {
  const row = {
    bits,
    target,
    draws,
    sampledShare: share / draws,
    trueError: Math.sqrt(squares / draws),
    coverage: covered / draws,
  };
  console.log(
    `${String(bits).padStart(4)}  ${String(target).padStart(6)}  ${percent(row.sampledShare).padStart(9)}  ` +
      `${row.trueError.toFixed(4).padStart(10)}  ${percent(row.coverage).padStart(24)}`,
  );
  return row;
});
writeResults('error-target', { model: source, contextTokens, steps: STEPS, texts: TEXTS, rows: results });

function sketched(keys) {
  const sketches = BITS.map((bits) => {
    const sketch = new KeySketch({ dim: headDim, bits, pool: backend.pool });
    sketch.add(keys);
    return sketch;
  });
  return { keys, sketches };
}

/** One query's draws for all targets. */
function compare({ keys, sketches }, query, step) {
  const scores = scoresOf(keys, query);
  const largest = scores.reduce((a, b) => Math.max(a, b));
  const total = scores.reduce((sum, score) => sum + Math.exp(score - largest), 0);
  for (const row of rows) {
    const sketch = sketches[BITS.indexOf(row.bits)];
    const { ids, logProbabilities, error } = sketch.sample(query, { step, budget: { error: row.target } });
    let sum = 0;
    for (let i = 0; i < ids.length; i += 1) sum += Math.exp(scores[ids[i]] - largest - logProbabilities[i]);
    const difference = Math.abs(sum / total - 1);
    row.draws += 1;
    row.covered += difference <= 2 * error ? 1 : 0;
    row.squares += difference ** 2;
    row.share += ids.length / scores.length;
  }
}

function percent(share) {
  return `${(100 * share).toFixed(1)}%`;
}
