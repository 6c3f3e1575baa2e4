import { CudaKvCache, deviceWorkingBytes, SKETCH_PAGE, SketchPool } from '@magicpig/cuda-kernels';
import { KvStore } from '@magicpig/kv-offload';
import { Llama, MagicPigPolicy, resolveAttention, SketchPolicy } from '../../dist/index.js';
import { median } from '../common.mjs';
import { normalValues, ShapedContext } from '../shaped-context.mjs';

const GIB = 2 ** 30;
const STEPS = 12;
const WARM_STEPS = 4;
const MOST_ROWS = 512;
const MOST_SEQUENCES = 32;
/** Pages of a sampled layer that the device keeps for a sequence: of its first tokens, of a window twice as long, and parts. */
const STATIC_PAGES = 5;

/** Decoding at one length: `dense` at each cap on device memory, `magicpig` by batch and at each cap, `sketch` for one sequence. */
export function measureContext(machine, context, caps) {
  const run = new DecodeRun(machine, context);
  console.log(`\n${context} tokens of context`);
  const fitting = caps.filter((cap) => cap <= machine.backend.device.freeMemory + machine.weights.bytes);
  const dense = fitting.map((cap) => ({ vramGiB: cap / GIB, ...run.dense(cap) }));
  for (const one of dense) print(`dense at ${one.vramGiB} GiB`, one);

  const host = run.hostContext();
  const batches = [];
  const most = Math.min(run.mostSampled(Math.max(...fitting)), machine.emulate ? 2 : MOST_SEQUENCES);
  for (let sequences = 1; sequences <= most; sequences *= 2) {
    batches.push(run.sampled(host, host.magicpig, sequences));
    print('magicpig', batches.at(-1));
  }
  const magicpig = fitting.map((cap) => {
    const fit = batches.filter(({ sequences }) => sequences <= run.mostSampled(cap));
    const best = fit.reduce((a, b) => (b.tokensPerSecond > (a?.tokensPerSecond ?? 0) ? b : a), undefined);
    return { vramGiB: cap / GIB, ...(best ?? { sequences: 0 }) };
  });
  for (const [i, one] of magicpig.entries()) {
    const ratio = one.tokensPerSecond / dense[i].tokensPerSecond;
    console.log(
      `  at ${one.vramGiB} GiB: magicpig over dense ${Number.isFinite(ratio) ? `${ratio.toFixed(2)}x` : 'alone'}`,
    );
  }
  const sketch = run.sampled(host, host.sketch, 1, { sketches: true });
  print('sketch', sketch);
  const keysReadShare = host.magicpig.report().keysReadShare;
  host[Symbol.dispose]();
  return { context, dense, batches, magicpig, sketch, keysReadShare };
}

class DecodeRun {
  #machine;
  #context;
  #shapes;
  #steps;
  #warmSteps;

  constructor(machine, context) {
    this.#machine = machine;
    this.#context = context;
    this.#shapes = new ShapedContext(machine.config, normalValues(machine.cpu));
    this.#steps = machine.emulate ? 2 : STEPS;
    this.#warmSteps = machine.emulate ? 2 : WARM_STEPS;
  }

  /** Keys and values on the device, in the largest batch that a cap on its memory allows. */
  dense(cap) {
    const { config, backend } = this.#machine;
    const each = CudaKvCache.bytesFor(config, this.#tokens);
    const sequences = Math.min(Math.floor(this.#roomFor(cap, undefined) / each), this.#most);
    if (sequences < 1) return { sequences: 0 };
    const cache = new CudaKvCache({ backend, ...config, maxRows: MOST_ROWS, deviceBytes: sequences * each });
    const held = Array.from({ length: sequences }, () => this.#fillOnDevice(cache));
    const result = this.#decode(cache, cache, held, undefined);
    cache[Symbol.dispose]();
    return result;
  }

  /** Shaped keys and values in host memory, and what both policies index of them. */
  hostContext() {
    const { config, cpu } = this.#machine;
    const { layers, queryHeads, kvHeads, headDim } = config;
    const store = new KvStore({ layers, kvHeads, queryHeads, headDim, pool: cpu.pool });
    const filled = this.#shapes.fill(store, this.#context);
    const use = { config, cache: store, pool: cpu.pool };
    const settings = (policy) => resolveAttention({ policy, minContext: 0 }, layers);
    const magicpig = new MagicPigPolicy({ settings: settings('magicpig'), ...use }).open(filled);
    const sketch = new SketchPolicy({ settings: settings('sketch'), ...use }).open(filled);
    for (const one of [magicpig, sketch]) one.prepare(Number.POSITIVE_INFINITY);
    const dispose = () => {
      for (const owned of [magicpig, sketch, store]) owned[Symbol.dispose]();
    };
    return { store, filled, magicpig, sketch, [Symbol.dispose]: dispose };
  }

  /** Sequences whose sampled layers' keys are in host memory, as far as a cap allows what the device holds of them. */
  mostSampled(cap) {
    return Math.floor(this.#roomFor(cap, {}) / this.#sampledBytes);
  }

  /** That many sequences, which share the keys in host memory. */
  sampled({ store, filled }, attention, sequences, { sketches = false } = {}) {
    const { config, backend } = this.#machine;
    const lent = {
      ...methodsOf(store),
      load: () => ({ sequence: filled.fork(), attachments: {} }),
      [Symbol.dispose]() {},
    };
    const least = CudaKvCache.leastBytes({ ...config, maxRows: MOST_ROWS, host: lent });
    const deviceBytes = Math.max(least, sequences * this.#sampledBytes);
    const pages = config.layers * Math.ceil(this.#tokens / SKETCH_PAGE);
    const sketchBytes = sketches
      ? pages * SketchPool.pageBytes(config, resolveAttention({ policy: 'sketch' }, 1).bits)
      : 0;
    const cache = new CudaKvCache({ backend, ...config, maxRows: MOST_ROWS, deviceBytes, sketchBytes, host: lent });
    const held = Array.from({ length: sequences }, () => cache.load('').sequence);
    const result = this.#decode(cache, this.#shapedQueries(cache), held, attention);
    cache[Symbol.dispose]();
    return result;
  }

  get #tokens() {
    return this.#context + 2 * (this.#steps + this.#warmSteps);
  }

  get #most() {
    return this.#machine.emulate ? 2 : MOST_SEQUENCES;
  }

  /** Device memory of a sequence whose keys are sampled in host memory. */
  get #sampledBytes() {
    const { config } = this.#machine;
    const { denseLayers } = resolveAttention({ policy: 'magicpig' }, config.layers);
    const page = CudaKvCache.bytesFor({ ...config, layers: 1 }, 1);
    const whole = CudaKvCache.bytesFor({ ...config, layers: denseLayers.length }, this.#tokens);
    return whole + (config.layers - denseLayers.length) * STATIC_PAGES * page;
  }

  /** Memory for keys and values on the device beside weights and activations, of a cap on all of it. */
  #roomFor(cap, host) {
    const { config, weights } = this.#machine;
    const shape = { ...config, maxRows: MOST_ROWS, maxSequences: this.#most, contextTokens: this.#tokens };
    return cap - weights.bytes - deviceWorkingBytes(shape) - CudaKvCache.bufferBytes({ ...shape, host });
  }

  /** Milliseconds a step, where they went, and tokens a second. */
  #decode(cache, stepped, sequences, attention) {
    const { config, weights, backend } = this.#machine;
    const llama = new Llama({ config, backend, cache: stepped, weights, maxRows: MOST_ROWS });
    const times = [];
    let before;
    for (let i = 0; i < this.#steps + this.#warmSteps; i += 1) {
      if (i === this.#warmSteps) before = { ...cache.times };
      const tokens = Int32Array.of(i);
      const entries = sequences.map((sequence) => ({ sequence, tokens, promptTokens: 1, attention, logits: 'last' }));
      const start = performance.now();
      const { keysRead } = llama.forward(entries);
      times.push(performance.now() - start);
      attention?.afterDecode(sequences[0].length, keysRead[0]);
    }
    llama[Symbol.dispose]();
    const stepMs = median(times.slice(this.#warmSteps));
    const split = Object.entries(cache.times).map(([name, ms]) => [`${name}Ms`, (ms - before[name]) / this.#steps]);
    const tokensPerSecond = (1e3 * sequences.length) / stepMs;
    return { sequences: sequences.length, stepMs, tokensPerSecond, ...Object.fromEntries(split) };
  }

  /** A sequence of random keys and values, written where they live. */
  #fillOnDevice(cache) {
    const { config, backend } = this.#machine;
    const { layers, queryHeads, kvHeads, headDim } = config;
    const sequence = cache.open();
    const width = (queryHeads + 2 * kvHeads) * headDim;
    const qkv = backend.vector({ type: 'random', rows: 1, cols: MOST_ROWS * width, seed: 1, std: 1 });
    const output = backend.tensor(MOST_ROWS * queryHeads * headDim);
    const tensors = { qkv, rotations: this.#identity(MOST_ROWS), output };
    for (let done = 0; done < this.#context; done += MOST_ROWS) {
      const step = cache.step([{ sequence, tokens: Math.min(MOST_ROWS, this.#context - done) }]);
      for (let layer = 0; layer < layers; layer += 1) step.begin(layer, tensors, {}, false);
      step.end();
    }
    for (const tensor of Object.values(tensors)) tensor[Symbol.dispose]();
    return sequence;
  }

  /** Rotations that leave everything where it is. */
  #identity(rows) {
    const { backend, config } = this.#machine;
    const { headDim } = config;
    const tensor = backend.tensor(rows * headDim);
    for (let i = 0; i < rows * headDim; i += 1) tensor.host[i] = i % headDim < headDim / 2 ? 1 : 0;
    backend.toDevice(tensor, rows * headDim);
    return tensor;
  }

  /** The cache, with queries shaped as real ones in the place of the model's. */
  #shapedQueries(cache) {
    const { backend, config } = this.#machine;
    const { layers, queryHeads, kvHeads, headDim } = config;
    const width = queryHeads * headDim;
    const stride = width + 2 * kvHeads * headDim;
    const queries = Array.from({ length: layers }, (_, layer) =>
      backend.device.upload('f32', this.#shapes.queries(layer)),
    );
    const rotations = this.#identity(this.#most);
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
        const device = { begin, finish: (layer) => step.finish(layer), end: () => step.end() };
        return { device, rollback: () => step.rollback() };
      },
    };
  }
}

function methodsOf(store) {
  const names = ['open', 'bytesFor', 'step', 'readKeys', 'readValues', 'save'];
  const methods = names.map((name) => [name, store[name].bind(store)]);
  return { dtype: store.dtype, pageTokens: store.pageTokens, bytes: 0, ...Object.fromEntries(methods) };
}

function print(what, { sequences, stepMs, tokensPerSecond, gpuMs, transferMs, attendMs, idleMs }) {
  if (!sequences) {
    console.log(`  ${what}: does not fit`);
    return;
  }
  const ms = (value) => value.toFixed(2);
  console.log(
    `  ${what}: ${String(sequences).padStart(3)} sequences, ${ms(stepMs).padStart(8)} ms a step, ${tokensPerSecond.toFixed(1).padStart(8)} tokens/s ` +
      `(device ${ms(gpuMs)}, rows under way ${ms(transferMs)}, host attends ${ms(attendMs)}, host waits ${ms(idleMs)} ms)`,
  );
}
