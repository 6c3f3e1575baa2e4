// Keys are hashed relative to a mean. What does it cost when that mean was taken over the first part of the context only,
// because the context has grown since? The tables of one context are built around means of ever shorter beginnings of it,
// and sampled attention is compared with exact attention in every sampled layer; for a text that goes on as it began, and
// for one that changes its subject and language after a quarter.
//
//   node bench/mean-drift.mjs --model smollm2 --tokens 7000
import { readFileSync } from 'node:fs';
import { SimHashProjection, SimHashTables } from '@magicpig/lsh';
import { MAGICPIG_DEFAULTS, resolveAttention } from '../dist/index.js';
import { attentionError } from './attention-error.mjs';
import { benchOptions, benchText, writeResults } from './common.mjs';
import { openLlama, prefill } from './open-llama.mjs';

const STEPS = 64;
/** Shares of the sampled keys that the mean is taken over; 0 is no centring at all. */
const SHARES = [1, 7 / 8, 3 / 4, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 0];
const { model: source, threads, contexts } = benchOptions();
const contextTokens = contexts.at(-1);
const { sink, window } = MAGICPIG_DEFAULTS;

let compared;
const { config, tokenizer, backend, store, llama } = await openLlama({
  source,
  threads,
  format: 'bf16',
  watch: (cache, shape) => (compared = attentionError(cache, shape)).cache,
});
const { layers, kvHeads, queryHeads, headDim } = config;
const { denseLayers } = resolveAttention({ policy: 'magicpig' }, layers);
const { K: bits, L: tables } = MAGICPIG_DEFAULTS;
const projection = new SimHashProjection({ dim: headDim, bits, tables });

const prose = tokenizer.encode(benchText());
const code = tokenizer.encode(
  ['engine', 'llama', 'sampler', 'scheduler', 'magicpig-policy', 'load-llama', 'worker-model']
    .map((name) => readFileSync(new URL(`../src/${name}.ts`, import.meta.url), 'utf8'))
    .join('\n'),
);
const quarter = contextTokens >> 2;
const texts = {
  'one text': prose.subarray(0, contextTokens + STEPS),
  'prose, then code': Int32Array.from([
    ...prose.subarray(0, quarter),
    ...code.subarray(0, contextTokens + STEPS - quarter),
  ]),
};

console.log(
  `${source}, ${contextTokens} tokens of context, (${bits}, ${tables}), ${STEPS} steps, ${backend.description}\n`,
);
console.log('text              mean over  keys drawn  attention error');
const rows = [];
for (const [text, tokens] of Object.entries(texts)) {
  if (tokens.length < contextTokens + STEPS) throw new Error(`--tokens: the text "${text}" has ${tokens.length} only`);
  const context = store.open();
  prefill(llama, context, tokens.subarray(0, contextTokens));
  for (const share of SHARES) {
    const row = { text, share, ...measure(context, tokens, share) };
    rows.push(row);
    console.log(
      `${text.padEnd(16)}  ${percent(share)}     ${percent(row.sampledShare)}     ${row.attentionError.toFixed(3).padStart(12)}`,
    );
  }
  context[Symbol.dispose]();
}
writeResults('mean-drift', { model: source, contextTokens, steps: STEPS, K: bits, L: tables, rows });

function measure(context, tokens, share) {
  const end = contextTokens - window;
  const centred = Math.round((end - sink) * share);
  const index = new SimHashTables({
    heads: layers * kvHeads,
    dim: headDim,
    projection,
    center: share === 0 ? 'none' : 'auto',
    pool: backend.pool,
  });
  for (let layer = 0; layer < layers; layer += 1) {
    if (denseLayers.includes(layer)) continue;
    for (let head = 0; head < kvHeads; head += 1) {
      const keys = store.readKeys(context, layer, head, sink, end);
      if (centred > 0) index.add(layer * kvHeads + head, keys.subarray(0, centred * headDim));
      if (centred < end - sink) index.add(layer * kvHeads + head, keys.subarray(centred * headDim));
    }
  }
  const sampling = { selector: index.selector, begin: sink, end };
  const attention = { sampling: (layer) => (denseLayers.includes(layer) ? null : sampling) };
  const sequence = context.fork();
  const sampledHeads = (layers - denseLayers.length) * queryHeads;
  let drawn = 0;
  for (let i = 0; i < STEPS; i += 1) {
    const next = tokens.subarray(contextTokens + i, contextTokens + i + 1);
    const { keysRead } = llama.forward([
      { sequence, tokens: next, promptTokens: contextTokens, attention, logits: 'none' },
    ]);
    const exact = sequence.length - (end - sink);
    // Layer `layers - 1` is not attended when no logits are wanted.
    drawn += keysRead[0] - denseLayers.length * queryHeads * sequence.length - (sampledHeads - queryHeads) * exact;
  }
  sequence[Symbol.dispose]();
  index[Symbol.dispose]();
  const sampledShare = drawn / (STEPS * (sampledHeads - queryHeads) * (end - sink));
  return { sampledShare, attentionError: compared.take() };
}

function percent(share) {
  return `${(100 * share).toFixed(1)}%`.padStart(6);
}
