// What a GPU makes of long contexts: milliseconds a token of `magicpig` with keys in host memory and of `dense` with keys in the
// device's, tokens/s of both at equal device memory with the best batch of each, and prompts read with and without tables being
// built. Weights are random; keys and queries are shaped as real ones (shaped-context.mjs).
//
//   node bench/cuda.mjs [--model random:llama-3.1-8b] [--tokens 98304,16384] [--vram 24,40,48,80]
//
// Writes benchmarks/results/cuda.json, or cuda.json in the folder that MAGICPIG_RESULTS names. `--emulate --model random:tiny --tokens 300 --vram 1` only shows that it runs.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { CpuBackend } from '@magicpig/cpu-kernels';
import { CudaBackend, CudaKvCache, deviceWorkingBytes } from '@magicpig/cuda-kernels';
import { KvStore } from '@magicpig/kv-offload';
import { Llama, loadLlamaWeights, MagicPigPolicy, openCheckpoint, resolveAttention } from '../dist/index.js';
import { median, writeResults } from './common.mjs';
import { normalValues, ShapedContext } from './shaped-context.mjs';

const { values: flags } = parseArgs({
  options: {
    model: { type: 'string', default: 'random:llama-3.1-8b' },
    tokens: { type: 'string', default: '98304,16384' },
    vram: { type: 'string', default: '24,40,48,80' },
    emulate: { type: 'boolean', default: false },
  },
});
const GIB = 2 ** 30;
const STEPS = flags.emulate ? 2 : 12;
const WARM_STEPS = flags.emulate ? 1 : 3;
const PROMPT_ROWS = 512;
const MOST_SEQUENCES = flags.emulate ? 2 : 32;

const checkpoint = await openCheckpoint(flags.model);
const { config } = checkpoint;
const { layers, queryHeads, kvHeads, headDim } = config;
const cpu = new CpuBackend();
const backend = new CudaBackend({ pool: cpu.pool, threads: cpu.threads, emulate: flags.emulate });
const { device } = backend;
console.log(`${backend.description}\nhost: ${cpu.description}\n`);
const weights = await loadLlamaWeights(checkpoint, backend, { format: 'bf16' });
const shapes = new ShapedContext(config, normalValues(cpu));
const caps = flags.vram.split(',').map((gib) => Number(gib) * GIB);
const results = {
  device: device.properties.name,
  host: cpu.description,
  model: flags.model,
  keys: 'shaped',
  contexts: [],
};
for (const context of flags.tokens.split(',').map(Number)) results.contexts.push(measureContext(context));
results.prefill = measurePrefill(Math.min(16384, Number(flags.tokens.split(',').at(-1))));
const folder = process.env.MAGICPIG_RESULTS;
const about = { date: new Date().toISOString().slice(0, 10), ...results };
if (folder !== undefined) writeFileSync(join(folder, 'cuda.json'), `${JSON.stringify(about, null, 2)}\n`);
else if (!flags.emulate) writeResults('cuda', results);

/** Memory for keys and values on the device beside weights and activations, of a cap on all of it. */
function roomFor(cap, context, host) {
  const shape = {
    ...config,
    maxRows: PROMPT_ROWS,
    maxSequences: MOST_SEQUENCES,
    contextTokens: context + STEPS + WARM_STEPS,
  };
  const buffers = CudaKvCache.bufferBytes({ ...shape, host });
  return cap - weights.bytes - deviceWorkingBytes(shape) - buffers;
}

function measureContext(context) {
  const tokens = context + STEPS + WARM_STEPS;
  const each = CudaKvCache.bytesFor(config, tokens);
  const free = device.freeMemory;
  console.log(`${context} tokens of context`);

  // Dense, keys and values on the device: every cap that is there, each with its largest batch.
  const dense = [];
  for (const cap of caps.filter((bytes) => bytes <= free + weights.bytes)) {
    const sequences = Math.min(Math.floor(roomFor(cap, context) / each), MOST_SEQUENCES);
    if (sequences < 1) {
      dense.push({ vramGiB: cap / GIB, sequences: 0 });
      continue;
    }
    const cache = new CudaKvCache({ backend, ...config, maxRows: PROMPT_ROWS, deviceBytes: sequences * each });
    const held = Array.from({ length: sequences }, () => fillOnDevice(cache, context));
    dense.push({ vramGiB: cap / GIB, sequences, ...decode(cache, cache, held, undefined) });
    cache[Symbol.dispose]();
  }

  // Sampled, keys in host memory; forks share them, and what the device holds of the dense layers.
  const store = new KvStore({ layers, kvHeads, queryHeads, headDim, pool: cpu.pool });
  const filled = shapes.fill(store, context);
  const settings = resolveAttention({ policy: 'magicpig', minContext: 0 }, layers);
  const policy = new MagicPigPolicy({ settings, config, cache: store, pool: cpu.pool });
  const start = performance.now();
  const attention = policy.open(filled);
  attention.prepare(Number.POSITIVE_INFINITY);
  const tablesMs = performance.now() - start;
  const exact = settings.denseLayers.length / layers;
  const magicpig = [];
  for (const cap of caps.filter((bytes) => bytes <= free + weights.bytes)) {
    const most = Math.min(Math.floor(roomFor(cap, context, store) / (each * exact)), MOST_SEQUENCES);
    const deviceBytes = Math.max(
      CudaKvCache.leastBytes({ ...config, maxRows: PROMPT_ROWS, host: store }),
      most * each * exact,
    );
    let best;
    for (let sequences = 1; sequences <= most; sequences *= 2) {
      const lent = {
        ...methodsOf(store),
        load: () => ({ sequence: filled.fork(), attachments: {} }),
        [Symbol.dispose]() {},
      };
      const cache = new CudaKvCache({ backend, ...config, maxRows: PROMPT_ROWS, deviceBytes, host: lent });
      const held = Array.from({ length: sequences }, () => cache.load('').sequence);
      const run = { vramGiB: cap / GIB, sequences, ...decode(cache, shapedQueries(cache), held, attention) };
      cache[Symbol.dispose]();
      if (sequences === 1) magicpig.push({ ...run, batch: 1 });
      if (best === undefined || run.tokensPerSecond > best.tokensPerSecond) best = run;
    }
    if (best) magicpig.push(best);
  }
  const report = attention.report();
  attention[Symbol.dispose]();
  store[Symbol.dispose]();
  for (const one of dense) print('dense', one);
  for (const one of magicpig) print('magicpig', one);
  return { context, dense, magicpig, tablesMs, keysReadShare: report.keysReadShare };
}

/** Milliseconds a step, split, and tokens a second. */
function decode(cache, stepped, sequences, attention) {
  const llama = new Llama({ config, backend, cache: stepped, weights, maxRows: PROMPT_ROWS });
  const times = [];
  let before;
  for (let i = 0; i < STEPS + WARM_STEPS; i += 1) {
    if (i === WARM_STEPS) before = { ...cache.times };
    const tokens = Int32Array.of(i);
    const entries = sequences.map((sequence) => ({ sequence, tokens, promptTokens: 1, attention, logits: 'last' }));
    const start = performance.now();
    const { keysRead } = llama.forward(entries);
    times.push(performance.now() - start);
    attention?.afterDecode(sequences[0].length, keysRead[0]);
  }
  llama[Symbol.dispose]();
  const stepMs = median(times.slice(WARM_STEPS));
  const split = Object.fromEntries(
    Object.entries(cache.times).map(([name, ms]) => [name, (ms - before[name]) / STEPS]),
  );
  return {
    stepMs,
    tokensPerSecond: (1e3 * sequences.length) / stepMs,
    waitMs: split.wait,
    appendMs: split.append,
    attendMs: split.attend,
  };
}

/** A sequence of random keys and values, written where they live. */
function fillOnDevice(cache, context) {
  const sequence = cache.open();
  const width = (queryHeads + 2 * kvHeads) * headDim;
  const qkv = backend.vector({ type: 'random', rows: 1, cols: PROMPT_ROWS * width, seed: 1, std: 1 });
  const tensors = { qkv, rotations: identity(PROMPT_ROWS), output: backend.tensor(PROMPT_ROWS * queryHeads * headDim) };
  for (let done = 0; done < context; done += PROMPT_ROWS) {
    const step = cache.step([{ sequence, tokens: Math.min(PROMPT_ROWS, context - done) }]);
    for (let layer = 0; layer < layers; layer += 1) step.begin(layer, tensors, {}, false);
    step.end();
  }
  for (const tensor of Object.values(tensors)) tensor[Symbol.dispose]();
  return sequence;
}

/** Rotations that leave everything where it is. */
function identity(rows) {
  const tensor = backend.tensor(rows * headDim);
  for (let i = 0; i < rows * headDim; i += 1) tensor.host[i] = i % headDim < headDim / 2 ? 1 : 0;
  backend.toDevice(tensor, rows * headDim);
  return tensor;
}

/** The cache, with queries shaped as real ones in the place of the model's. */
function shapedQueries(cache) {
  const width = queryHeads * headDim;
  const stride = width + 2 * kvHeads * headDim;
  const queries = Array.from({ length: layers }, (_, layer) => device.upload('f32', shapes.queries(layer)));
  const rotations = identity(MOST_SEQUENCES);
  return {
    step(entries) {
      const step = cache.step(entries);
      const begin = (layer, tensors, ...rest) => {
        const qkv = tensors.qkv.f32();
        for (let row = 0; row < entries.length; row += 1) {
          const place = { rows: 1, width, toStride: stride, fromStride: width, toOffset: row * stride };
          backend.stream.copyMatrix(qkv, queries[layer], place);
        }
        step.begin(layer, { ...tensors, rotations }, ...rest);
      };
      return {
        device: { begin, finish: (layer) => step.finish(layer), end: () => step.end() },
        rollback: () => step.rollback(),
      };
    },
  };
}

function methodsOf(store) {
  const names = ['open', 'bytesFor', 'step', 'readKeys', 'readValues', 'save'];
  return {
    pageTokens: store.pageTokens,
    bytes: 0,
    ...Object.fromEntries(names.map((name) => [name, store[name].bind(store)])),
  };
}

/** A prompt read with keys leaving for host memory, and the tables built of them beside that. */
function measurePrefill(context) {
  const store = new KvStore({ layers, kvHeads, queryHeads, headDim, pool: cpu.pool });
  const deviceBytes = CudaKvCache.bytesFor(config, context + PROMPT_ROWS);
  const cache = new CudaKvCache({ backend, ...config, maxRows: PROMPT_ROWS, deviceBytes, host: store });
  const llama = new Llama({ config, backend, cache, weights, maxRows: PROMPT_ROWS });
  const sequence = cache.open();
  const tokens = Int32Array.from({ length: context }, (_, i) => i % config.vocabSize);
  const start = performance.now();
  for (let done = 0; done < context; done += PROMPT_ROWS) {
    const chunk = tokens.subarray(done, done + PROMPT_ROWS);
    llama.forward([{ sequence, tokens: chunk, promptTokens: context, logits: 'none' }]);
  }
  device.synchronize();
  const readMs = performance.now() - start;
  const settings = resolveAttention({ policy: 'magicpig', minContext: 0 }, layers);
  const attention = new MagicPigPolicy({ settings, config, cache, pool: cpu.pool }).open(sequence);
  attention.prepare(Number.POSITIVE_INFINITY);
  const withTablesMs = performance.now() - start;
  attention[Symbol.dispose]();
  llama[Symbol.dispose]();
  cache[Symbol.dispose]();
  console.log(
    `\nprompt of ${context}: ${(readMs / 1e3).toFixed(2)} s, with tables ${(withTablesMs / 1e3).toFixed(2)} s (${(withTablesMs / readMs).toFixed(2)}x)`,
  );
  return { context, readMs, withTablesMs };
}

function print(policy, { vramGiB, sequences, stepMs, tokensPerSecond, waitMs, appendMs, attendMs }) {
  if (!sequences) {
    console.log(`  ${policy.padEnd(9)} ${vramGiB} GiB: does not fit`);
    return;
  }
  console.log(
    `  ${policy.padEnd(9)} ${vramGiB} GiB: ${String(sequences).padStart(3)} sequences, ${stepMs.toFixed(2).padStart(8)} ms a step, ` +
      `${tokensPerSecond.toFixed(1).padStart(8)} tokens/s (host: waits ${waitMs.toFixed(2)}, appends ${appendMs.toFixed(2)}, attends ${attendMs.toFixed(2)} ms)`,
  );
}
