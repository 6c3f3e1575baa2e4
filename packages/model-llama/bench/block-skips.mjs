// Must a sketch look at every key? Counts, on a model's keys, values and queries, what becomes of the error of attention when blocks of 64
// keys are looked at with probabilities that follow the scores of their means, in the order of the text or ordered by clusters, and when
// the codes hold what keys differ by from the mean of their block. By the formula of the variance: nothing is drawn, nothing is timed.
//
//   node bench/block-skips.mjs     some five minutes
//
// Of one text, and of all texts behind one another, each later one without its first tokens, which would be sinks within the context.
import { parseArgs } from 'node:util';
import { resolveAttention } from '../dist/index.js';
import { benchText, writeResults } from './common.mjs';
import { openLlama, prefill } from './open-llama.mjs';
import {
  blockProbabilities,
  clusteredBlocks,
  expectedError,
  meansOf,
  positionalBlocks,
  residualWeights,
  sketchOf,
  sketchOfMeans,
  sketchWeights,
} from './samplers/key-blocks.mjs';
import { scoresOf } from './samplers/selections.mjs';

const TEXTS = ['constitution', 'job', 'luke', 'proverbs'];
const CONTEXT_TOKENS = 7700;
/** Layers whose heads are counted; decoded tokens whose queries are, of each text. */
const LAYERS = [2, 10, 18, 26];
const STEPS = 3;
const SHARES = [0.0025, 0.01, 0.05];
const BLOCK = 64;
const CLUSTER_CHUNK = 4096;
/** Tokens at the beginning of a text that become sinks. */
const SINKS = 8;

const { values: flags } = parseArgs({
  options: { model: { type: 'string', default: 'smollm2' }, threads: { type: 'string' } },
});
/** Sees what is appended to a layer, and the queries of one. */
let seen = { append() {}, attend() {} };
const { config, tokenizer, backend, store, llama } = await openLlama({
  source: flags.model,
  ...(flags.threads && { threads: Number(flags.threads) }),
  format: 'bf16',
  watch: (store) => ({
    step(entries) {
      const step = store.step(entries);
      const rows = entries.reduce((sum, { tokens }) => sum + tokens, 0);
      return {
        append(layer, keys, values) {
          seen.append(layer, keys, values, rows);
          step.append(layer, keys, values);
        },
        rollback: () => step.rollback(),
        attend(layer, queries, output, options) {
          step.attend(layer, queries, output, options);
          seen.attend(layer, queries);
        },
      };
    },
  }),
});
const { kvHeads, queryHeads, headDim: dim } = config;
const group = queryHeads / kvHeads;
const { sink, window } = resolveAttention({ policy: 'sketch' }, config.layers);

const texts = TEXTS.map(read);
const variants = [
  ...[1, 2].map((bits) => ({ look: 'every key', bits })),
  ...[1, 2].map((bits) => ({ look: 'every key', bits, residual: true })),
  { look: 'blocks in order', bits: 2 },
  { look: 'blocks of clusters', bits: 2 },
];
const rows = [];
const contexts = { 'one text': texts.map((text) => [text]), 'all texts': [texts] };
for (const [context, parts] of Object.entries(contexts)) {
  const sums = new Map();
  for (const part of parts) {
    for (const layer of LAYERS) for (let head = 0; head < kvHeads; head += 1) count(part, layer, head, sums);
  }
  for (const [key, { squares, looked, count }] of sums) {
    const { share, ...variant } = JSON.parse(key);
    rows.push({ context, ...variant, share, looked: looked / count, error: Math.sqrt(squares / count) });
  }
}
console.log('context    looked at           bits  of        read    looked at  error');
for (const { context, look, bits, residual, share, looked, error } of rows) {
  console.log(
    `${context.padEnd(10)} ${look.padEnd(19)} ${String(bits).padStart(4)}  ${(residual ? 'residual' : 'key').padEnd(8)} ` +
      `${percent(share).padStart(6)}  ${percent(looked).padStart(9)}  ${error.toFixed(4)}`,
  );
}
writeResults('block-skips', { model: flags.model, contextTokens: CONTEXT_TOKENS, texts: TEXTS, layers: LAYERS, rows });

/** Keys and values [KV heads][tokens, dim] of LAYERS, and queries [steps][query heads, dim]. */
function read(text) {
  const tokens = tokenizer.encode(benchText(text)).subarray(0, CONTEXT_TOKENS + STEPS);
  const layers = new Map(LAYERS.map((layer) => [layer, { keys: heads(), values: heads(), queries: [], length: 0 }]));
  const context = store.open();
  seen = {
    append(layer, keys, values, count) {
      const to = layers.get(layer);
      if (!to || to.length === CONTEXT_TOKENS) return;
      for (let row = 0; row < count; row += 1) {
        for (let head = 0; head < kvHeads; head += 1) {
          const at = (to.length + row) * dim;
          to.keys[head].set(vector(keys, row, head), at);
          to.values[head].set(vector(values, row, head), at);
        }
      }
      to.length += count;
    },
    attend() {},
  };
  prefill(llama, context, tokens.subarray(0, CONTEXT_TOKENS));
  seen = {
    append() {},
    attend: (layer, queries) =>
      layers.get(layer)?.queries.push(queries.data.slice(queries.offset, queries.offset + queryHeads * dim)),
  };
  for (let i = CONTEXT_TOKENS; i < tokens.length; i += 1) {
    const entry = {
      sequence: context,
      tokens: tokens.subarray(i, i + 1),
      promptTokens: CONTEXT_TOKENS,
      logits: 'none',
    };
    llama.forward([entry]);
  }
  context[Symbol.dispose]();
  return layers;
}

function heads() {
  return Array.from({ length: kvHeads }, () => new Float32Array(CONTEXT_TOKENS * dim));
}

function vector({ data, offset, stride }, row, head) {
  const at = offset + row * stride + head * dim;
  return data.subarray(at, at + dim);
}

/** Adds the errors of all variants and budgets of one KV head, its keys being those of the texts of `part` behind one another. */
function count(part, layer, head, sums) {
  const joined = (name) =>
    Float32Array.from(
      part.flatMap((text, i) => Array.from(text.get(layer)[name][head].subarray(i > 0 ? SINKS * dim : 0))),
    );
  const [keys, values] = [joined('keys'), joined('values')];
  const end = keys.length / dim - window;
  const open = keys.subarray(sink * dim, end * dim);
  const n = end - sink;
  const orders = {
    'blocks in order': positionalBlocks(n, BLOCK),
    'blocks of clusters': clusteredBlocks(open, dim, BLOCK, CLUSTER_CHUNK),
  };
  const made = Object.fromEntries(
    Object.entries(orders).map(([name, blocks]) => {
      const means = meansOf(open, dim, blocks);
      return [name, { blocks, means, sketch: sketchOfMeans(means, dim, backend.pool) }];
    }),
  );
  const inOrder = made['blocks in order'];
  const residual = open.slice();
  for (const [b, ids] of inOrder.blocks.entries()) {
    for (const id of ids) for (let j = 0; j < dim; j += 1) residual[id * dim + j] -= inOrder.means[b * dim + j];
  }
  const sketches = [1, 2].map((bits) => [open, residual].map((of) => sketchOf(of, dim, bits, backend.pool)));
  for (const text of part) {
    for (const all of text.get(layer).queries) {
      const queries = Array.from({ length: group }, (_, i) => {
        const at = (head * group + i) * dim;
        return all.slice(at, at + dim);
      });
      const attentions = queries.map((query) => attend(keys, values, query, n));
      for (const variant of variants) {
        const { look, bits } = variant;
        const blocked = made[look];
        const [plain, differences] = sketches[bits - 1];
        const weights = queries.map((query) =>
          variant.residual ? residualWeights(differences, bits, query, inOrder) : sketchWeights(plain, bits, query),
        );
        for (const share of SHARES) {
          const p = blocked && blockProbabilities(blocked.sketch, blocked.blocks, queries, share * n);
          const looked = p ? blocked.blocks.reduce((sum, ids, b) => sum + ids.length * p[b], 0) / n : 1;
          for (const [i, attention] of attentions.entries()) {
            add(
              sums,
              { ...variant, share },
              expectedError(attention, weights[i], share * n, blocked?.blocks, p),
              looked,
            );
          }
        }
      }
    }
  }
  for (const { sketch } of Object.values(made)) sketch[Symbol.dispose]();
  for (const sketch of sketches.flat()) sketch[Symbol.dispose]();
}

/** Exact attention of a query: its output, and of the n keys behind the sinks their share of the softmax, and values. */
function attend(keys, values, query, n) {
  const shares = Float64Array.from(scoresOf(keys, query));
  const largest = shares.reduce((a, b) => Math.max(a, b));
  let total = 0;
  for (let i = 0; i < shares.length; i += 1) total += shares[i] = Math.exp(shares[i] - largest);
  const output = new Float64Array(dim);
  for (let i = 0; i < shares.length; i += 1) {
    shares[i] /= total;
    for (let j = 0; j < dim; j += 1) output[j] += shares[i] * values[i * dim + j];
  }
  return { shares: shares.subarray(sink, sink + n), values: values.subarray(sink * dim, (sink + n) * dim), output };
}

function add(sums, of, square, looked) {
  const key = JSON.stringify(of);
  const sum = sums.get(key) ?? { squares: 0, looked: 0, count: 0 };
  sums.set(key, { squares: sum.squares + square, looked: sum.looked + looked, count: sum.count + 1 });
}

function percent(share) {
  return `${(100 * share).toFixed(2)}%`;
}
