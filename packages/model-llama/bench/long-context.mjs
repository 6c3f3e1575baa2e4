// How fast is decode at a context that no prompt can be read for in a benchmark's time? A model of random weights whose KV
// cache is filled directly: `dense` beside the memory's measured speed (every weight, key and value read once a token), and
// `magicpig` beside `dense`. Random queries and keys are spread evenly, unlike real ones, and would draw too few keys; both
// are replaced by ones shaped as those measured in SmolLM2-135M at 6,000 tokens of prose (medians over layers and heads).
// `possibleRatio` is what `magicpig` could be beside `dense` if both read at the memory's speed: weights, exact layers, and the
// rows that each query head draws.
//
//   node bench/long-context.mjs --model random:llama-3.2-1b --tokens 98304
//
// One context a run, some 100 s at 96K; results of other contexts are kept.
import { CpuBackend } from '@magicpig/cpu-kernels';
import { KvStore } from '@magicpig/kv-offload';
import { Llama, loadLlamaWeights, MagicPigPolicy, openCheckpoint, resolveAttention } from '../dist/index.js';
import { benchOptions, median, writeRows } from './common.mjs';
import { normalValues, ShapedContext } from './shaped-context.mjs';

const FORMATS = ['bf16', 'q8', 'q4'];
/** The memory's speed varies with what else the machine does: exact and sampled steps, and measurements of it, take turns. */
const ROUNDS = 6;
const STEPS = 3;
const { model: source, threads, contexts } = benchOptions({ model: 'random:llama-3.2-1b', tokens: '98304' });
const context = contexts.at(-1);
const checkpoint = await openCheckpoint(source);
const { config } = checkpoint;
const { layers, kvHeads, queryHeads, headDim } = config;
const backend = new CpuBackend(threads === undefined ? {} : { threads });
const shapes = new ShapedContext(config, normalValues(backend));
let layerQueries;

const shaped = Array.from({ length: STEPS }, () => Array.from({ length: layers }, (_, layer) => shapes.queries(layer)));
const store = new KvStore({ layers, kvHeads, queryHeads, headDim, pool: backend.pool });
const sequence = await timed('keys and values', () => shapes.fill(store, context));
const settings = resolveAttention({ policy: 'magicpig', minContext: 0 }, layers);
const policy = new MagicPigPolicy({ settings, config, cache: store, pool: backend.pool });
const attention = policy.open(sequence);
await timed('tables', () => attention.prepare(Number.POSITIVE_INFINITY));
const keyBytes = 2 * context * layers * kvHeads * headDim * 2;

console.log(
  `\n${source}, ${context} tokens, ${backend.description}, medians of ${ROUNDS * STEPS} tokens\n` +
    `keys and values ${gigabytes(keyBytes)}, tables ${gigabytes(attention.bytes)}\n\n` +
    'weights          dense, ms (attention)  of the memory speed   magicpig, ms (attention)  keys read',
);
const formats = [];
for (const format of FORMATS) formats.push(await measure(format));
const { sampledShare, keysReadShare } = attention.report();
const exactLayers = settings.denseLayers.length / layers;
const drawnBytes = keyBytes * (exactLayers + (1 - exactLayers) * Math.min((sampledShare * queryHeads) / kvHeads, 1));
for (const one of formats) one.possibleRatio = (one.weightBytes + keyBytes) / (one.weightBytes + drawnBytes);
console.log(
  `possible at the memory's speed: ${formats.map(({ format, possibleRatio }) => `${format} ${possibleRatio.toFixed(2)}x`).join(', ')}`,
);
writeRows('long-context', {
  model: source,
  threads: backend.threads,
  steps: ROUNDS * STEPS,
  rows: [{ context, keyBytes, tableBytes: attention.bytes, sampledShare, keysReadShare, formats }],
});

/** Decode with weights of one format, exact and sampled. */
async function measure(format) {
  const weights = await loadLlamaWeights(checkpoint, backend, { format });
  const llama = new Llama({ config, backend, cache: shapedQueries(store), weights, maxRows: 1 });
  const matrices = [...weights.layers.flatMap(({ qkv, o, gateUp, down }) => [qkv, o, gateUp, down]), weights.output];
  const weightBytes = matrices.reduce((sum, { bytes }) => sum + bytes, 0);
  decode(llama, undefined); // a first round that does not count
  const rounds = Array.from({ length: ROUNDS }, () => ({
    readBandwidth: backend.ceilings().readBandwidth,
    dense: decode(llama, undefined),
    magicpig: decode(llama, attention),
  }));
  const readBandwidth = median(rounds.map(({ readBandwidth }) => readBandwidth));
  const of = (steps) => ({
    ms: median(steps.map(({ ms }) => ms)),
    attendMs: median(steps.map(({ attendMs }) => attendMs)),
  });
  const { ms: denseMs, attendMs: denseAttendMs } = of(rounds.flatMap(({ dense }) => dense));
  const { ms: magicpigMs, attendMs: magicpigAttendMs } = of(rounds.flatMap(({ magicpig }) => magicpig));
  const denseBandwidthShare = (weightBytes + keyBytes) / (denseMs / 1e3) / readBandwidth;
  llama[Symbol.dispose]();
  weights[Symbol.dispose]();
  console.log(
    `${format.padEnd(5)} ${gigabytes(weightBytes)}  ${denseMs.toFixed(1).padStart(12)} (${denseAttendMs.toFixed(1)})  ${percent(denseBandwidthShare).padStart(10)} of ${gigabytes(readBandwidth)}/s  ` +
      `${magicpigMs.toFixed(1).padStart(12)} (${magicpigAttendMs.toFixed(1)}), ${(denseMs / magicpigMs).toFixed(2)}x  ${percent(attention.report().keysReadShare)}`,
  );
  return {
    format,
    weightBytes,
    readBandwidth,
    denseMs,
    denseAttendMs,
    denseBandwidthShare,
    magicpigMs,
    magicpigAttendMs,
    magicpigRatio: denseMs / magicpigMs,
  };
}

/** Milliseconds of some decoded tokens, and of them attention. */
function decode(llama, attention) {
  return shaped.map((queries, i) => {
    layerQueries = queries;
    const start = performance.now();
    const before = llama.attendMs;
    const tokens = Int32Array.of(i);
    const { keysRead } = llama.forward([{ sequence, tokens, promptTokens: context, attention, logits: 'last' }]);
    const result = { ms: performance.now() - start, attendMs: llama.attendMs - before };
    attention?.afterDecode(sequence.length, keysRead[0]);
    return result;
  });
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
          queries.data.set(layerQueries[layer], queries.offset);
          step.attend(layer, queries, output, options);
        },
      };
    },
  };
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
