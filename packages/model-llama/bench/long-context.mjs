// How fast is decode at a context that no prompt can be read for in a benchmark's time? A model of random weights whose KV
// cache is filled directly: `dense` beside the memory's measured speed (every weight, key and value read once a token), and
// `magicpig` beside `dense`. Random queries and keys are spread evenly, unlike real ones, and would draw too few keys; both
// are replaced by ones shaped as those measured in SmolLM2-135M at 6,000 tokens of prose (medians over layers and heads).
//
//   node bench/long-context.mjs --model random:llama-3.2-1b --tokens 98304
//
// One context a run, some 100 s at 96K; results of other contexts are kept.
import { CpuBackend } from '@magicpig/cpu-kernels';
import { KvStore } from '@magicpig/kv-offload';
import { Llama, loadLlamaWeights, MagicPigPolicy, openCheckpoint, resolveAttention } from '../dist/index.js';
import { benchOptions, median, writeRows } from './common.mjs';

const FORMATS = ['bf16', 'q8', 'q4'];
const STEPS = 16;
/** Steps before them, which do not count. */
const WARM_STEPS = 2;
const CHUNK_TOKENS = 2048;
/** Lengths of queries, of the keys' mean, of what keys differ from it by, and of the first key; cosines to the query. */
const SHAPE = {
  query: 14.1,
  mean: 11.8,
  deviation: 12.6,
  sink: 5.4,
  cosineMean: -0.44,
  cosineSink: 0.28,
  cosineSpread: 0.16,
};
/** Queries that share keys differ from their common direction by about this share of their length. */
const QUERY_NOISE = 0.3;

const { model: source, threads, contexts } = benchOptions({ model: 'random:llama-3.2-1b', tokens: '98304' });
const context = contexts.at(-1);
const checkpoint = await openCheckpoint(source);
const { config } = checkpoint;
const { layers, kvHeads, queryHeads, headDim } = config;
const backend = new CpuBackend(threads === undefined ? {} : { threads });
const normal = normalValues();
const directions = Array.from({ length: layers * kvHeads }, direction);
let decoded = 0;

const shaped = Array.from({ length: STEPS + WARM_STEPS }, () =>
  Array.from({ length: layers }, (_, layer) => queriesOf(layer)),
);
const { readBandwidth } = backend.ceilings();
const store = new KvStore({ layers, kvHeads, queryHeads, headDim, pool: backend.pool });
const sequence = await timed('keys and values', () => fill(context));
const settings = resolveAttention({ policy: 'magicpig', minContext: 0 }, layers);
const policy = new MagicPigPolicy({ settings, config, cache: store, pool: backend.pool });
const attention = policy.open(sequence);
await timed('tables', () => attention.prepare(Number.POSITIVE_INFINITY));
const keyBytes = 2 * context * layers * kvHeads * headDim * 2;

console.log(
  `\n${source}, ${context} tokens, ${backend.description}, medians of ${STEPS} tokens\n` +
    `memory read at ${gigabytes(readBandwidth)}/s; keys and values ${gigabytes(keyBytes)}, tables ${gigabytes(attention.bytes)}\n\n` +
    'weights          dense, ms  of the memory speed  magicpig, ms         keys read',
);
const formats = [];
for (const format of FORMATS) formats.push(await measure(format));
const { sampledShare, keysReadShare } = attention.report();
writeRows('long-context', {
  model: source,
  threads: backend.threads,
  steps: STEPS,
  rows: [{ context, readBandwidth, keyBytes, tableBytes: attention.bytes, sampledShare, keysReadShare, formats }],
});

/** Decode with weights of one format, exact and sampled. */
async function measure(format) {
  const weights = await loadLlamaWeights(checkpoint, backend, { format });
  const llama = new Llama({ config, backend, cache: shapedQueries(store), weights, maxRows: 1 });
  const matrices = [...weights.layers.flatMap(({ qkv, o, gateUp, down }) => [qkv, o, gateUp, down]), weights.output];
  const weightBytes = matrices.reduce((sum, { bytes }) => sum + bytes, 0);
  const denseMs = decode(llama, undefined);
  const magicpigMs = decode(llama, attention);
  const denseBandwidthShare = (weightBytes + keyBytes) / (denseMs / 1e3) / readBandwidth;
  llama[Symbol.dispose]();
  weights[Symbol.dispose]();
  console.log(
    `${format.padEnd(5)} ${gigabytes(weightBytes)}  ${denseMs.toFixed(1).padStart(12)}  ${percent(denseBandwidthShare).padStart(19)}  ` +
      `${magicpigMs.toFixed(1).padStart(12)} (${(denseMs / magicpigMs).toFixed(2)}x)  ${percent(attention.report().keysReadShare)}`,
  );
  return { format, weightBytes, denseMs, denseBandwidthShare, magicpigMs, magicpigRatio: denseMs / magicpigMs };
}

/** Milliseconds a decoded token. */
function decode(llama, attention) {
  const times = [];
  for (decoded = 0; decoded < STEPS + WARM_STEPS; decoded += 1) {
    const start = performance.now();
    const tokens = Int32Array.of(decoded);
    const { keysRead } = llama.forward([{ sequence, tokens, promptTokens: context, attention, logits: 'last' }]);
    times.push(performance.now() - start);
    attention?.afterDecode(sequence.length, keysRead[0]);
  }
  return median(times.slice(WARM_STEPS));
}

/** A sequence of so many tokens, its keys around a mean that is almost opposite to the queries; the first key is on their side. */
function fill(tokens) {
  const sequence = store.open();
  const width = kvHeads * headDim;
  const scale = SHAPE.deviation / Math.sqrt(headDim);
  const spread = Math.sqrt(headDim) * SHAPE.cosineSpread - 1; // along the query, beyond an even spread
  for (let first = 0; first < tokens; first += CHUNK_TOKENS) {
    const count = Math.min(CHUNK_TOKENS, tokens - first);
    const step = store.step([{ sequence, tokens: count }]);
    const values = normal(count * width);
    for (let layer = 0; layer < layers; layer += 1) {
      const keys = normal(count * width);
      for (let i = 0; i < count * kvHeads; i += 1) {
        const { query, mean, sink } = directions[layer * kvHeads + (i % kvHeads)];
        const key = keys.subarray(i * headDim, (i + 1) * headDim);
        const along = spread * dot(key, query);
        for (let j = 0; j < headDim; j += 1) key[j] = mean[j] + scale * (key[j] + along * query[j]);
        if (first === 0 && i < kvHeads) key.set(sink);
      }
      const rows = (data) => ({ data, offset: 0, stride: width });
      step.append(layer, rows(keys), rows(values));
    }
  }
  return sequence;
}

/** A KV head's common direction of queries, its mean key, and its first key. */
function direction() {
  const query = unit(normal(headDim));
  const other = normal(headDim);
  const along = dot(other, query);
  const across = unit(other.map((value, j) => value - along * query[j]));
  const at = (length, cosine) =>
    query.map((value, j) => length * (cosine * value + Math.sqrt(1 - cosine ** 2) * across[j]));
  return { query, mean: at(SHAPE.mean, SHAPE.cosineMean), sink: at(SHAPE.sink, SHAPE.cosineSink) };
}

/** The store, with queries of its own in the place of the model's. */
function shapedQueries(store) {
  return {
    step(entries) {
      const step = store.step(entries);
      return {
        append: (...args) => step.append(...args),
        rollback: () => step.rollback(),
        attend(layer, queries, output, options) {
          queries.data.set(shaped[decoded][layer], queries.offset);
          step.attend(layer, queries, output, options);
        },
      };
    },
  };
}

/** Queries of a layer's heads, around the direction that those of a KV head have in common. */
function queriesOf(layer) {
  const all = new Float32Array(queryHeads * headDim);
  for (let head = 0; head < queryHeads; head += 1) {
    const { query } = directions[layer * kvHeads + Math.floor((head * kvHeads) / queryHeads)];
    const noise = normal(headDim);
    const own = unit(query.map((value, j) => value + (QUERY_NOISE / Math.sqrt(headDim)) * noise[j]));
    all.set(
      own.map((value) => SHAPE.query * value),
      head * headDim,
    );
  }
  return all;
}

/** Standard normal values, other ones at each call. */
function normalValues() {
  let seed = 1;
  return (length) => {
    const tensor = backend.vector({ type: 'random', rows: 1, cols: length, seed: seed++, std: 1 });
    const values = tensor.host.slice();
    tensor[Symbol.dispose]();
    return values;
  };
}

function unit(values) {
  const length = Math.sqrt(dot(values, values));
  return values.map((value) => value / length);
}

function dot(a, b) {
  let sum = 0;
  for (let j = 0; j < a.length; j += 1) sum += a[j] * b[j];
  return sum;
}

async function timed(what, run) {
  const start = performance.now();
  const result = await run();
  console.log(`${what.padEnd(16)} ${((performance.now() - start) / 1e3).toFixed(1)} s`);
  return result;
}

function percent(share) {
  return `${(100 * share).toFixed(1)}%`;
}

function gigabytes(bytes) {
  return `${(bytes / 1e9).toFixed(1)} GB`;
}
