// How fast is decode at a context that no prompt can be read for in a benchmark's time? A model of random weights whose KV
// cache is filled directly: `dense` beside the memory's measured speed (every weight, key and value read once a token), and
// a policy that samples beside `dense`. Random queries and keys are spread evenly, unlike real ones, and would draw too few
// keys; both are replaced by ones shaped as those measured in SmolLM2-135M at 6,000 tokens of prose (medians over layers and
// heads). `error` is that of the sampled layers' outputs against exact attention; `possibleRatio` what sampling could be beside
// `dense` if both read at the memory's speed: weights, exact layers, and the rows that each query head draws.
//
//   node bench/long-context.mjs --tokens 98304 --attention '{"policy":"magicpig","K":12,"L":300}'
//
// One context and one policy a run, some 100 s at 96K; results of others are kept.
import { CpuBackend, OperatorProfile } from '@magicpig/cpu-kernels';
import { KvStore } from '@magicpig/kv-offload';
import {
  Llama,
  loadLlamaWeights,
  MagicPigPolicy,
  openCheckpoint,
  resolveAttention,
  SketchPolicy,
} from '../dist/index.js';
import { benchOptions, median, writeRows } from './common.mjs';
import { normalValues, ShapedContext } from './shaped-context.mjs';

const FORMATS = ['bf16', 'q8', 'q4'];
/** The memory's speed varies with what else the machine does: exact and sampled steps, and measurements of it, take turns. */
const ROUNDS = 6;
const STEPS = 3;
const {
  model: source,
  threads,
  contexts,
  attention: asked,
} = benchOptions({
  model: 'random:llama-3.2-1b',
  tokens: '98304',
  attention: '{"policy":"magicpig"}',
});
const context = contexts.at(-1);
const checkpoint = await openCheckpoint(source);
const { config } = checkpoint;
const { layers, kvHeads, queryHeads, headDim } = config;
const backend = new CpuBackend(threads === undefined ? {} : { threads });
const shapes = new ShapedContext(config, normalValues(backend));
const shaped = Array.from({ length: STEPS }, () => Array.from({ length: layers }, (_, layer) => shapes.queries(layer)));
const store = new KvStore({ layers, kvHeads, queryHeads, headDim, pool: backend.pool });
const sequence = await timed('keys and values', () => shapes.fill(store, context));
const settings = resolveAttention({ ...asked, minContext: 0 }, layers);
const Policy = { magicpig: MagicPigPolicy, sketch: SketchPolicy }[settings.policy];
const attention = new Policy({ settings, config, cache: store, pool: backend.pool }).open(sequence);
await timed('index', () => attention.prepare(Number.POSITIVE_INFINITY));
const rowBytes = 2 * headDim * 2;
const keyBytes = context * layers * kvHeads * rowBytes;

/** Of the step under way: its queries and, where they are kept, the outputs of its attention, [layer][queryHeads * headDim]. */
let layerQueries;
let outputs;

console.log(
  `\n${source}, ${context} tokens, ${backend.description}, ${JSON.stringify(asked)}, medians of ${ROUNDS * STEPS} tokens\n` +
    `keys and values ${gigabytes(keyBytes)}, index ${gigabytes(attention.bytes)}\n`,
);
const formats = [];
let error;
for (const format of FORMATS) formats.push(await measure(format));
const { sampledShare, keysReadShare } = attention.report();
const exactLayers = settings.denseLayers.length / layers;
const drawnBytes = keyBytes * (exactLayers + (1 - exactLayers) * Math.min((sampledShare * queryHeads) / kvHeads, 1));
for (const one of formats) one.possibleRatio = (one.weightBytes + keyBytes) / (one.weightBytes + drawnBytes);
console.log(
  `keys drawn ${percent(sampledShare)}, error ${error.toFixed(3)}; possible at the memory's speed: ` +
    formats.map(({ format, possibleRatio }) => `${format} ${possibleRatio.toFixed(2)}x`).join(', '),
);
const row = {
  context,
  policy: describe(settings),
  keyBytes,
  indexBytes: attention.bytes,
  sampledShare,
  keysReadShare,
  error,
  formats,
};
const steps = ROUNDS * STEPS;
writeRows('long-context', { model: source, threads: backend.threads, steps, rows: [row] }, ['context', 'policy']);

/** Decode with weights of one format, exact and sampled. */
async function measure(format) {
  const weights = await loadLlamaWeights(checkpoint, backend, { format });
  const llama = new Llama({ config, backend, cache: shapedAttention(store), weights, maxRows: 1 });
  const matrices = [...weights.layers.flatMap(({ qkv, o, gateUp, down }) => [qkv, o, gateUp, down]), weights.output];
  const weightBytes = matrices.reduce((sum, { bytes }) => sum + bytes, 0);
  error ??= outputError(llama); // and a first round that does not count
  const profiles = { dense: new OperatorProfile(), sampled: new OperatorProfile() };
  const rounds = Array.from({ length: ROUNDS }, () => ({
    readBandwidth: backend.ceilings().readBandwidth,
    dense: decode(llama, undefined, profiles.dense),
    sampled: decode(llama, attention, profiles.sampled),
  }));
  const readBandwidth = median(rounds.map(({ readBandwidth }) => readBandwidth));
  const denseMs = median(rounds.flatMap(({ dense }) => dense));
  const sampledMs = median(rounds.flatMap(({ sampled }) => sampled));
  const ratio = median(rounds.map(({ dense, sampled }) => median(dense) / median(sampled)));
  const bandwidthShare = (weightBytes + keyBytes) / (denseMs / 1e3) / readBandwidth;
  llama[Symbol.dispose]();
  weights[Symbol.dispose]();
  console.log(
    `${format}, weights ${gigabytes(weightBytes)}, memory read at ${gigabytes(readBandwidth)}/s: dense ${denseMs.toFixed(1)} ms (${percent(bandwidthShare)} of the memory's speed), ` +
      `${settings.policy} ${sampledMs.toFixed(1)} ms, ${ratio.toFixed(2)}x`,
  );
  const operators = {};
  for (const [name, profile] of Object.entries(profiles)) {
    console.log(`\n${name}\n${profile.table({ readBandwidth, operations: {} })}\n`);
    operators[name] = profile.entries().map(({ operator, detail, seconds, bytes }) => ({
      operator: `${operator} ${detail}`.trimEnd(),
      ms: (seconds * 1e3) / (ROUNDS * STEPS),
      bytes: bytes / (ROUNDS * STEPS),
      bandwidthShare: bytes / seconds / readBandwidth,
    }));
  }
  return { format, weightBytes, readBandwidth, denseMs, bandwidthShare, sampledMs, ratio, operators };
}

/** Milliseconds of some decoded tokens, each over the same context. */
function decode(llama, attention, profile) {
  backend.profile = profile;
  const times = shaped.map((queries, i) => {
    layerQueries = queries;
    const start = performance.now();
    const entry = { sequence, tokens: Int32Array.of(i), promptTokens: context, attention, logits: 'last' };
    const { keysRead } = llama.forward([entry]);
    const ms = performance.now() - start;
    attention?.afterDecode(sequence.length, keysRead[0]);
    sequence.truncate(context);
    return ms;
  });
  backend.profile = undefined;
  return times;
}

/** Relative error of the sampled layers' outputs against exact attention: mean over tokens, layers and query heads. */
function outputError(llama) {
  outputs = [];
  decode(llama, undefined);
  const exact = outputs;
  outputs = [];
  decode(llama, attention);
  const sampled = outputs;
  outputs = undefined;
  const errors = [];
  for (const [i, { layer, output }] of exact.entries()) {
    if (settings.denseLayers.includes(layer)) continue;
    for (let head = 0; head < queryHeads; head += 1) {
      const [a, b] = [output, sampled[i].output].map((rows) => rows.subarray(head * headDim, (head + 1) * headDim));
      errors.push(Math.hypot(...a.map((value, j) => value - b[j])) / Math.hypot(...a));
    }
  }
  return errors.reduce((sum, value) => sum + value, 0) / errors.length;
}

/** The store, with queries of its own in the place of the model's, its work recorded as an operator's. */
function shapedAttention(store) {
  return {
    step(entries) {
      const step = store.step(entries);
      return {
        append: (...args) => step.append(...args),
        rollback: () => step.rollback(),
        attend(layer, queries, output, options) {
          queries.data.set(layerQueries[layer], queries.offset);
          const sampled = options.sampling.some((sampling) => sampling !== null);
          const before = options.keysRead?.[0] ?? 0;
          const start = performance.now();
          step.attend(layer, queries, output, options);
          const seconds = (performance.now() - start) / 1e3;
          // Exact, the query heads of a KV head share one pass over its keys; sampled, each reads its own.
          const keys = sampled ? options.keysRead[0] - before : sequence.length * kvHeads;
          const detail = sampled ? 'sampled' : 'exact';
          const bytes = keys * rowBytes;
          backend.profile?.record({ operator: 'attend', detail, rows: 1, seconds, bytes, operations: 0 });
          outputs?.push({ layer, output: output.data.slice(output.offset, output.offset + queryHeads * headDim) });
        },
      };
    },
  };
}

function describe({ policy, K, L, bits, budget }) {
  return policy === 'magicpig' ? `magicpig (${K}, ${L})` : `sketch, ${bits} bits, ${JSON.stringify(budget)}`;
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
