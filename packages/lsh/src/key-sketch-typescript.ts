/** Key sketches in TypeScript: what native/sketch.h computes, to the last bit; native/sketch_kernels.h has the definitions. */
import type {
  EngineSketch,
  EngineSketchBudget,
  EngineSketchOptions,
  EngineSketchSample,
  EngineSketchStats,
  SketchEngine,
} from './key-sketch-engine.js';
import { BINS, noiseInflation, planDraw, planLevels } from './key-sketch-plan.js';
import { BLOCK, fromBf16, keysOf, SketchCodec, sizeOf } from './key-sketch-typescript-codes.js';
import { openSketch, readHeads, writeSketch } from './key-sketch-typescript-file.js';
import { prepareQuery, quartersOf, type SketchKeys, scoresOf, sumsOf } from './key-sketch-typescript-query.js';
import { type Container, saveFile } from './typescript-engine-container.js';
import { engineError } from './typescript-engine-error.js';
import { philox } from './typescript-engine-projection.js';

const NOISE = [0.364, 0.42, 0.4, 0.39];
const TEMPER = [0.55, 0.85, 0.95, 1].map(Math.fround);
const NOISE_BLOCKS = 16;
const DRAW_DOMAIN = 3;
const HISTOGRAM_KEYS = 2048;
const LEAST_HISTOGRAM_LANES = 2;
const EXACT_BINS = 16;
const EXACT_SHARE = 256;

class TypeScriptSketch implements EngineSketch {
  readonly #options: EngineSketchOptions;
  readonly #codec: SketchCodec;
  #heads: SketchKeys[];

  constructor(options: EngineSketchOptions | { fork: EngineSketch }) {
    const forked = 'fork' in options ? (options.fork as TypeScriptSketch) : undefined;
    this.#options = forked ? forked.#options : (options as EngineSketchOptions);
    this.#codec = forked ? forked.#codec : new SketchCodec(this.#options);
    const { heads, file } = this.#options;
    if (forked) {
      this.#heads = forked.#heads.map(({ codes, factors, ...rest }) => ({
        ...rest,
        codes: codes.slice(),
        factors: factors.slice(),
      }));
    } else if (file) {
      this.#heads = readHeads(file as Container, this.#options, this.#codec.blockBytes);
    } else {
      this.#heads = Array.from({ length: heads }, emptyHead);
    }
  }

  bytes(): number {
    return this.#heads.reduce(
      (sum, head) => sum + head.codes.byteLength + head.factors.byteLength + (head.centre?.byteLength ?? 0),
      this.#codec.bytes,
    );
  }

  length(head: number): number {
    return this.#heads[head]!.size;
  }

  centre(head: number): Float32Array {
    return this.#heads[head]!.centre?.slice() ?? new Float32Array(this.#options.dim);
  }

  add(at: number, keys: Float32Array): void {
    const { dim, centred } = this.#options;
    const head = this.#heads[at]!;
    const rows = keys.length / dim;
    if (rows === 0) return;
    const centre = head.centre ?? (centred ? meanOf(keys, dim) : undefined);
    const blocks = Math.ceil((head.size + rows) / BLOCK);
    const codes = roomFor(head.codes, blocks * this.#codec.blockBytes);
    const factors = roomFor(head.factors, blocks * BLOCK);
    this.#codec.encode(keys, centre, head.size, codes, factors);
    Object.assign(head, { size: head.size + rows, codes, factors, centre });
  }

  scores(at: number, query: Float32Array): Float32Array {
    const head = this.#heads[at]!;
    const prepared = prepareQuery(this.#codec, this.#options, head.centre, query);
    return scoresOf(head, prepared, sumsOf(head, prepared, this.#options.bits));
  }

  draw(at: number, query: Float32Array, step: number, budget: EngineSketchBudget): EngineSketchSample {
    const head = this.#heads[at]!;
    const { bits, scale, seed, floor } = this.#options;
    const prepared = prepareQuery(this.#codec, this.#options, head.centre, query);
    if (head.size === 0) return { ids: new Uint32Array(0), logProbabilities: new Float32Array(0), error: 0 };
    const temper = TEMPER[bits - 1]!;
    const scores = quartersOf(head, prepared, temper, sumsOf(head, prepared, bits));
    const largest = scores.reduce((most, score) => Math.max(most, score));
    const { counts, counted } = count(scores, largest);
    const length = scale * prepared.norm;
    const inflation = noiseInflation(temper * NOISE[bits - 1]! * length * length * meanSquareFactor(head));
    const plan = planDraw(counts, counted, head.size, budget, floor, inflation);
    const { thresholds, logs } = planLevels(plan);
    const random = new RandomWords(seed, at, step);
    const ids: number[] = [];
    const logProbabilities: number[] = [];
    scores.forEach((score, key) => {
      const level = Math.min(Math.max(largest - plan.base - score, 0), thresholds.length - 1);
      if (random.of(key) >= thresholds[level]!) return;
      ids.push(key);
      logProbabilities.push(logs[level]!);
    });
    return { ids: Uint32Array.from(ids), logProbabilities: Float32Array.from(logProbabilities), error: plan.error };
  }

  truncate(head: number, length: number): void {
    this.#heads[head]!.size = length;
  }

  clear(): void {
    this.#heads = this.#heads.map(emptyHead);
  }

  stats(): EngineSketchStats {
    return { draws: 0, read: 0, keys: 0, error: 0, largestError: 0 };
  }

  resetStats(): void {}

  save(path: string): void {
    saveFile(path, this.toBuffer());
  }

  toBuffer(): Uint8Array {
    return writeSketch(this.#options, this.#codec.blockBytes, this.#heads);
  }

  dispose(): void {
    this.#heads = [];
  }

  selector(): object {
    throw engineError(
      'UNSUPPORTED',
      'Selectors are called by native kernels, and this process runs @magicpig/lsh in TypeScript.',
    );
  }
}

/** The random words of the keys of one draw, 16 bits each. */
class RandomWords {
  readonly #seed: [number, number];
  readonly #counter: [number, number];
  readonly #words = new Uint32Array(4);

  constructor(seed: number, head: number, step: number) {
    this.#seed = keysOf(seed);
    this.#counter = [head, step];
  }

  /** Keys are asked for in order. */
  of(key: number): number {
    if (key % 8 === 0) {
      this.#words.set([key / 8, ...this.#counter, DRAW_DOMAIN]);
      philox(this.#words, ...this.#seed);
    }
    return (this.#words[(key % 8) >> 1]! >>> (16 * (key % 2))) & 0xffff;
  }
}

/** Counts of native/sketch_kernels.h, and their sum. */
function count(scores: Int16Array, largest: number): { counts: Uint32Array; counted: number } {
  let lanes = BLOCK;
  for (let left = Math.floor(scores.length / 2); left >= HISTOGRAM_KEYS && lanes > LEAST_HISTOGRAM_LANES; ) {
    lanes /= 2;
    left = Math.floor(left / 2);
  }
  const sampled = histogram(scores, largest, lanes);
  const all = histogram(scores, largest, BLOCK);
  const most = sum(sampled) / EXACT_SHARE;
  let exact = 0;
  for (let above = sampled[0]!; exact < EXACT_BINS && above <= most; ) above += sampled[++exact]!;
  const counts = sampled.map((each, bin) => (bin < exact ? all[bin]! : (each * BLOCK) / lanes));
  return { counts, counted: sum(counts) };
}

/** Bins of the first `lanes` keys of every block. */
function histogram(scores: Int16Array, largest: number, lanes: number): Uint32Array {
  const counts = new Uint32Array(BINS);
  scores.forEach((score, i) => {
    if (i % BLOCK < lanes) counts[Math.min(BINS - 1, largest - score)]!++;
  });
  return counts;
}

function sum(values: Uint32Array): number {
  return values.reduce((total, value) => total + value, 0);
}

/** Mean of factor^2 over the keys of some blocks. */
function meanSquareFactor({ size, factors }: SketchKeys): number {
  const step = Math.ceil(Math.ceil(size / BLOCK) / NOISE_BLOCKS);
  const sums = [0, 0, 0, 0];
  let count = 0;
  for (let first = 0; first < size; first += step * BLOCK) {
    const keys = Math.min(BLOCK, size - first);
    for (let i = 0; i < keys; i++) sums[i % 4]! += fromBf16(factors[first + i]!) ** 2;
    count += keys;
  }
  return sums.reduce((sum, each) => sum + each) / count;
}

function emptyHead(): SketchKeys {
  return { size: 0, codes: new Uint8Array(0), factors: new Uint16Array(0) };
}

function meanOf(keys: Float32Array, dim: number): Float32Array {
  const sums = new Float64Array(dim);
  for (let i = 0; i < keys.length; i++) sums[i % dim]! += keys[i]!;
  return Float32Array.from(sums, (sum) => sum / (keys.length / dim));
}

/** A copy of `array` with room for `length` elements and more, or the array itself where it has room. */
function roomFor<T extends Uint8Array | Uint16Array>(array: T, length: number): T {
  if (length <= array.length) return array;
  const larger = new (array.constructor as new (size: number) => T)(Math.max(length, Math.ceil(array.length * 1.25)));
  larger.set(array);
  return larger;
}

export const typescriptSketches: SketchEngine = {
  Sketch: TypeScriptSketch,
  openSketch,
  sketchBytes: (dim, bits, keys) =>
    Math.ceil(keys / BLOCK) * BLOCK * ((bits * sizeOf(dim)) / 8 + Uint16Array.BYTES_PER_ELEMENT) + 4 * dim,
};
