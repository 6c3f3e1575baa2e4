import { CudaKvCache, deviceWorkingBytes, SKETCH_PAGE, SketchPool } from '@magicpig/cuda-kernels';
import { Llama, resolveAttention } from '../../dist/index.js';
import { median } from '../common.mjs';
import { normalValues, ShapedContext } from '../shaped-context.mjs';
import { identityRotations, ShapedQueries } from './shaped-queries.mjs';

/** Pages of a sampled layer that the device keeps for a sequence: of its first tokens, of a window twice as long, and parts. */
const STATIC_PAGES = 5;

/** Decodes after contexts of one length, which are there without a prompt having been read, and says how long it takes. */
export class DecodeRun {
  shapes;
  #machine;
  #context;

  constructor(machine, context) {
    this.#machine = machine;
    this.#context = context;
    this.shapes = new ShapedContext(machine.config, normalValues(machine.cpu));
  }

  /** Sequences whose keys and values fit the device, of so many bytes of its memory, at most as many as are measured. */
  mostDense(cap) {
    return this.#fitting(this.#roomFor(cap, undefined) / CudaKvCache.bytesFor(this.#machine.config, this.#tokens));
  }

  /** Sequences whose sampled layers' keys are in host memory, likewise. */
  mostSampled(cap) {
    return this.#fitting(this.#roomFor(cap, {}) / this.#sampledBytes);
  }

  /** Batches of such sizes, random keys and values on the device. */
  dense(sizes) {
    const { config, backend, effort } = this.#machine;
    const most = Math.max(...sizes);
    const deviceBytes = most * CudaKvCache.bytesFor(config, this.#tokens);
    const cache = new CudaKvCache({ backend, ...config, maxRows: effort.maxRows, deviceBytes });
    const sequences = Array.from({ length: most }, () => this.#fillOnDevice(cache));
    const results = this.#each(sizes, (size) => this.#decode(cache, cache, sequences.slice(0, size), []));
    cache[Symbol.dispose]();
    return results;
  }

  /** Batches of such sizes of contexts in host memory; with `sketches` the device draws. */
  sampled(contexts, policy, sizes, { sketches = false } = {}) {
    return this.#each(sizes, (size) => this.#sampled(contexts, policy, size, sketches));
  }

  #sampled(contexts, policy, size, sketches) {
    const { config, backend, effort } = this.#machine;
    const { maxRows } = effort;
    const host = contexts.lent;
    const deviceBytes = Math.max(CudaKvCache.leastBytes({ ...config, maxRows, host }), size * this.#sampledBytes);
    const pages = config.layers * Math.ceil(this.#tokens / SKETCH_PAGE);
    const { bits } = resolveAttention({ policy: 'sketch' }, 1);
    const sketchBytes = sketches ? pages * SketchPool.pageBytes(config, bits) : 0;
    const cache = new CudaKvCache({ backend, ...config, maxRows, deviceBytes, sketchBytes, host });
    const sequences = Array.from({ length: size }, (_, i) => cache.load(i).sequence);
    const queries = new ShapedQueries(cache, this.#machine, this.shapes, sequences);
    const attention = sequences.map((_, i) => contexts.attention(policy, i));
    const result = this.#decode(cache, queries, sequences, attention);
    for (const owned of [queries, cache]) owned[Symbol.dispose]();
    return { ...result, keysReadShare: attention[0].report().keysReadShare };
  }

  #each(sizes, run) {
    const results = [];
    for (const size of sizes) {
      if (this.#machine.late) {
        console.log(`  no time is left for batches of ${size} and more`);
        break;
      }
      results.push(run(size));
      print(results.at(-1));
    }
    return results;
  }

  get #tokens() {
    const { steps, warmSteps, mostSequences } = this.#machine.effort;
    const batches = Math.ceil(Math.log2(mostSequences)) + 5; // powers of two, and the most of each limit
    return this.#context + batches * (steps + warmSteps);
  }

  #fitting(sequences) {
    return Math.max(Math.min(Math.floor(sequences), this.#machine.effort.mostSequences), 0);
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
    const { config, weights, effort } = this.#machine;
    const { maxRows, mostSequences: maxSequences } = effort;
    const shape = { ...config, maxRows, maxSequences, contextTokens: this.#tokens };
    return cap - weights.bytes - deviceWorkingBytes(shape) - CudaKvCache.bufferBytes({ ...shape, host });
  }

  /** Milliseconds a step, where they went, and tokens a second. */
  #decode(cache, stepped, sequences, attention) {
    const { config, weights, backend, effort } = this.#machine;
    const { steps, warmSteps, maxRows } = effort;
    const llama = new Llama({ config, backend, cache: stepped, weights, maxRows });
    const times = [];
    let before;
    for (let i = 0; i < steps + warmSteps; i += 1) {
      if (i === warmSteps) before = { ...cache.times };
      const tokens = Int32Array.of(i);
      const entries = sequences.map((sequence, j) => {
        return { sequence, tokens, promptTokens: 1, attention: attention[j], logits: 'last' };
      });
      const start = performance.now();
      const { keysRead } = llama.forward(entries);
      times.push(performance.now() - start);
      for (const [j, { sequence }] of entries.entries()) attention[j]?.afterDecode(sequence.length, keysRead[j]);
    }
    llama[Symbol.dispose]();
    const stepMs = median(times.slice(warmSteps));
    const split = ['gpu', 'transfer', 'attend', 'idle'].map((name) => [
      `${name}Ms`,
      (cache.times[name] - before[name]) / steps,
    ]);
    const tokensPerSecond = (1e3 * sequences.length) / stepMs;
    return { sequences: sequences.length, stepMs, tokensPerSecond, ...Object.fromEntries(split) };
  }

  /** A sequence of random keys and values, written where they live. */
  #fillOnDevice(cache) {
    const { config, backend, effort } = this.#machine;
    const { layers, queryHeads, kvHeads, headDim } = config;
    const { maxRows } = effort;
    const sequence = cache.open();
    const width = (queryHeads + 2 * kvHeads) * headDim;
    const tensors = {
      qkv: backend.vector({ type: 'random', rows: 1, cols: maxRows * width, seed: 1, std: 1 }),
      rotations: identityRotations(backend, maxRows, headDim),
      output: backend.tensor(maxRows * queryHeads * headDim),
    };
    for (let done = 0; done < this.#context; done += maxRows) {
      const step = cache.step([{ sequence, tokens: Math.min(maxRows, this.#context - done) }]);
      for (let layer = 0; layer < layers; layer += 1) step.begin(layer, tensors, {}, false);
      step.end();
    }
    for (const tensor of Object.values(tensors)) tensor[Symbol.dispose]();
    return sequence;
  }
}

function print({ sequences, stepMs, tokensPerSecond, gpuMs, transferMs, attendMs, idleMs }) {
  const ms = (value) => value.toFixed(2);
  console.log(
    `  ${String(sequences).padStart(3)} sequences: ${ms(stepMs).padStart(8)} ms a step, ${tokensPerSecond.toFixed(1).padStart(8)} tokens/s ` +
      `(device ${ms(gpuMs)}, rows under way ${ms(transferMs)}, host attends ${ms(attendMs)}, host waits ${ms(idleMs)} ms)`,
  );
}
