/** Key sketches in TypeScript: what native/sketch.cc computes, to the last bit; native/sketch_kernels.h has the definitions. */
import type {
  EngineSketch,
  EngineSketchBudget,
  EngineSketchFile,
  EngineSketchOptions,
  EngineSketchSample,
  EngineSketchStats,
  SketchEngine,
} from './key-sketch-engine.js';
import { BINS, noiseInflation, planDraw, UNIFORM_ONE } from './key-sketch-plan.js';
import { Container, openFile, type Section, saveFile, writeContainer } from './typescript-engine-container.js';
import { engineError } from './typescript-engine-error.js';
import { dot, philox, quantise, transform } from './typescript-engine-projection.js';

const FILE_KIND = { kind: 'SKCH', version: 1 };
const MAX_HEADS = 2 ** 20;
const MAX_SIZE = 256;
const MAX_BITS = 4;
const MAX_KEYS = 2 ** 32 - 1025;
/** Keys of a block: [bits][size / 8][BLOCK] bytes, the highest plane first. */
const BLOCK = 64;
const UNIT = 64;
const ROTATED_NORM = 11_500;
const ROTATIONS = 3;
const FLIP_DOMAIN = 2;
const DRAW_DOMAIN = 3;
const OPTIMAL_STEP = [1.5958, 0.9957, 0.586, 0.3352];
const STEP_SCALES = [0.8, 0.93, 1.06, 1.2];
const NOISE = [0.364, 0.42, 0.4, 0.39];
const TEMPER = [0.55, 0.85, 0.95, 1].map(Math.fround);
const NOISE_BLOCKS = 16;
const FIRST_SPAN = 248;
const SPAN_STEP = 8;
const SPAN_LIMIT = 255;
const LARGEST_ROUNDED = 127;
const LEAST_INVERSE_NORM = 2 ** -60;
const LOG2_E = Math.fround(Math.LOG2E);
const ROUND = 1.5 * 2 ** 23;
const HISTOGRAM_KEYS = 16384;
const LEAST_HISTOGRAM_LANES = 8;

const float = new Float32Array(1);
const bits32 = new Uint32Array(float.buffer);

interface Head {
  size: number;
  /** [blocks][bits][size / 8][BLOCK] and room for more. */
  codes: Uint8Array;
  /** [blocks][BLOCK] bfloat16, and room for more. */
  factors: Uint16Array;
  centre?: Float32Array;
}

interface Query {
  rounded: Int32Array;
  sigma: number;
  offset: number;
  /** Of the query; 0 for one that is rounded to zero. */
  norm: number;
}

class TypeScriptSketch implements EngineSketch {
  readonly #options: EngineSketchOptions;
  /** Coordinates of a rotated vector. */
  readonly #size: number;
  /** Norm of a rotated vector. */
  readonly #norm: number;
  readonly #steps: number[];
  /** [3][size] of +1 and -1. */
  readonly #flips: Int8Array;
  #heads: Head[];

  constructor(options: EngineSketchOptions | { fork: EngineSketch }) {
    const forked = 'fork' in options ? (options.fork as TypeScriptSketch) : undefined;
    this.#options = forked ? forked.#options : (options as EngineSketchOptions);
    const { dim, bits, seed, heads, file } = this.#options;
    this.#size = sizeOf(dim);
    this.#norm = Math.log2(this.#size) % 2 === 1 ? ROTATED_NORM * Math.SQRT2 : ROTATED_NORM;
    const deviation = this.#norm / Math.sqrt(this.#size);
    this.#steps = STEP_SCALES.map((scale) => Math.round(deviation * OPTIMAL_STEP[bits - 1]! * scale));
    this.#flips = drawFlips(this.#size, seed);
    if (forked) {
      this.#heads = forked.#heads.map(({ codes, factors, ...rest }) => ({
        ...rest,
        codes: codes.slice(),
        factors: factors.slice(),
      }));
    } else if (file) {
      this.#heads = readHeads(file as Container, this.#options, this.#blockBytes);
    } else {
      this.#heads = Array.from({ length: heads }, emptyHead);
    }
  }

  bytes(): number {
    return this.#heads.reduce(
      (sum, head) => sum + head.codes.byteLength + head.factors.byteLength + (head.centre?.byteLength ?? 0),
      this.#flips.byteLength,
    );
  }

  length(head: number): number {
    return this.#heads[head]!.size;
  }

  centre(head: number): Float32Array {
    return this.#heads[head]!.centre?.slice() ?? new Float32Array(this.#options.dim);
  }

  add(at: number, keys: Float32Array): void {
    const { dim, bits, centred } = this.#options;
    const head = this.#heads[at]!;
    const rows = keys.length / dim;
    if (rows === 0) return;
    const centre = head.centre ?? (centred ? meanOf(keys, dim) : undefined);
    const blocks = Math.ceil((head.size + rows) / BLOCK);
    const codes = roomFor(head.codes, blocks * this.#blockBytes);
    const factors = roomFor(head.factors, blocks * BLOCK);
    const y = new Int32Array(this.#size);
    const levels = new Uint8Array(this.#size);
    const best = new Uint8Array(this.#size);
    for (let row = 0; row < rows; row++) {
      const inverseNorm = this.#rotate(keys, row * dim, centre, y);
      const product = this.#encode(y, levels, best);
      const key = head.size + row;
      const start = Math.floor(key / BLOCK) * this.#blockBytes + (key % BLOCK);
      for (let plane = 0; plane < bits; plane++) {
        for (let group = 0; group < this.#size / 8; group++) {
          let byte = 0;
          for (let j = 0; j < 8; j++) byte |= ((best[8 * group + j]! >> (bits - 1 - plane)) & 1) << j;
          codes[start + ((plane * this.#size) / 8 + group) * BLOCK] = byte;
        }
      }
      const usable = inverseNorm > 0 && product > 0;
      factors[key] = usable ? toBf16(Math.fround(this.#norm / (inverseNorm * product))) : 0;
    }
    Object.assign(head, { size: head.size + rows, codes, factors, centre });
  }

  scores(at: number, query: Float32Array): Float32Array {
    const head = this.#heads[at]!;
    const prepared = this.#prepare(head, query);
    return this.#scan(head, prepared).map((r) => Math.fround(Math.fround(r * prepared.sigma) + prepared.offset));
  }

  draw(at: number, query: Float32Array, step: number, budget: EngineSketchBudget): EngineSketchSample {
    const head = this.#heads[at]!;
    const { bits, scale, seed, floor: floorShare } = this.#options;
    const prepared = this.#prepare(head, query);
    const scores = this.#scan(head, prepared);
    const n = scores.length;
    const ids: number[] = [];
    const logs: number[] = [];
    if (n === 0) return { ids: Uint32Array.from(ids), logProbabilities: Float32Array.from(logs), error: 0 };
    const largest = scores.reduce((most, score) => Math.max(most, score), Number.NEGATIVE_INFINITY);
    const temper = TEMPER[bits - 1]!;
    const sigma = Math.fround(prepared.sigma * temper);
    const { counts, counted } = histogram(scores, largest, Math.fround(sigma * 8));
    const length = scale * prepared.norm;
    const inflation = noiseInflation(temper * NOISE[bits - 1]! * length * length * meanSquareFactor(head));
    const { tau, floor, error } = planDraw(counts, counted, n, budget, floorShare, inflation);
    const gain = Math.fround(sigma * LOG2_E);
    const [key0, key1] = keysOf(seed);
    const words = new Uint32Array(4);
    for (let i = 0; i < n; i++) {
      if (i % 4 === 0) {
        words.set([i / 4, at, step, DRAW_DOMAIN]);
        philox(words, key0, key1);
      }
      const threshold = Math.fround(tau * Math.fround(weightOf(scores[i]!, largest, gain) + floor));
      if (words[i % 4]! >>> 8 < threshold) {
        ids.push(i);
        logs.push(logOf(threshold));
      }
    }
    return { ids: Uint32Array.from(ids), logProbabilities: Float32Array.from(logs), error };
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
    const { heads, dim, bits, seed, centred } = this.#options;
    const sections: Section[] = [
      { index: 0, kind: 'HEAD', pieces: [BigUint64Array.from([heads, dim, bits, seed, centred ? 1 : 0].map(BigInt))] },
      { index: 0, kind: 'SIZE', pieces: [BigUint64Array.from(this.#heads, ({ size }) => BigInt(size))] },
    ];
    this.#heads.forEach(({ size, codes, factors, centre }, at) => {
      const blocks = Math.ceil(size / BLOCK);
      if (blocks > 0) {
        sections.push({ index: at + 1, kind: 'CODE', pieces: [codes.subarray(0, blocks * this.#blockBytes)] });
        sections.push({ index: at + 1, kind: 'FACT', pieces: [factors.subarray(0, blocks * BLOCK)] });
      }
      if (centre) sections.push({ index: at + 1, kind: 'CENT', pieces: [centre] });
    });
    return writeContainer(FILE_KIND, sections);
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

  get #blockBytes(): number {
    return (BLOCK * this.#options.bits * this.#size) / 8;
  }

  /** Writes the rotated x[start ..] - centre to y; returns 1 / |x - centre| as a float32. Throws NON_FINITE. */
  #rotate(x: Float32Array, start: number, centre: Float32Array | undefined, y: Int32Array): number {
    const rounded = new Int16Array(this.#size);
    const inverseNorm = quantise(x, start, centre, this.#options.dim, ROTATED_NORM, true, rounded);
    if (inverseNorm !== 0 && inverseNorm < LEAST_INVERSE_NORM) {
      throw engineError(
        'NON_FINITE',
        'A vector is longer than 2^60 (perhaps by centring), beyond which scores may overflow; nothing was changed.',
      );
    }
    y.set(rounded);
    for (let rotation = 0; rotation < ROTATIONS; rotation++) {
      for (let i = 0; i < y.length; i++) y[i]! *= this.#flips[rotation * y.length + i]!;
      transform(y, rotation === 1);
    }
    return inverseNorm;
  }

  /** Levels of the step with the largest cosine between v and y, in `best`; returns <v, y>. `levels` is working space. */
  #encode(y: Int32Array, levels: Uint8Array, best: Uint8Array): number {
    const { bits } = this.#options;
    const top = 2 ** bits - 1;
    let bestDot = 0n;
    let bestSquare = 0n;
    for (const step of bits === 1 ? this.#steps.slice(0, 1) : this.#steps) {
      let product = 0;
      let square = 0;
      for (let i = 0; i < y.length; i++) {
        const level = Math.min(top, Math.max(0, Math.floor(y[i]! / step) + 2 ** (bits - 1)));
        const v = 2 * level - top;
        levels[i] = level;
        product += v * y[i]!;
        square += v * v;
      }
      const d = BigInt(product);
      const s = BigInt(square);
      if (bestSquare === 0n || d * d * bestSquare > bestDot * bestDot * s) {
        best.set(levels);
        bestDot = d;
        bestSquare = s;
      }
    }
    return Number(bestDot);
  }

  #prepare(head: Head, query: Float32Array): Query {
    const { dim, bits, scale } = this.#options;
    const y = new Int32Array(this.#size);
    const inverseNorm = this.#rotate(query, 0, undefined, y);
    const { rounded, gain } = roundQuery(y, bits);
    const sigma = gain > 0 ? Math.fround(scale / (inverseNorm * this.#norm * gain)) : 0;
    const offset = head.centre ? Math.fround(dot(query, 0, head.centre, 0, dim) * scale) : 0;
    return { rounded, sigma, offset, norm: gain > 0 ? 1 / inverseNorm : 0 };
  }

  /** r of all keys. */
  #scan(head: Head, { rounded }: Query): Float32Array {
    const { bits } = this.#options;
    const groups = this.#size / 8;
    // Sums of the coordinates of each byte's set bits.
    const tables = new Int32Array(groups * 256);
    for (let group = 0; group < groups; group++) {
      for (let byte = 1; byte < 256; byte++) {
        const rest = byte & (byte - 1);
        const bit = 31 - Math.clz32(byte ^ rest);
        tables[group * 256 + byte] = tables[group * 256 + rest]! + rounded[8 * group + bit]!;
      }
    }
    const shift = (2 ** bits - 1) * rounded.reduce((sum, value) => sum + value, 0);
    const scores = new Float32Array(head.size);
    for (let key = 0; key < scores.length; key++) {
      let at = Math.floor(key / BLOCK) * this.#blockBytes + (key % BLOCK);
      let sum = 0;
      for (let plane = 0; plane < bits; plane++) {
        sum *= 2;
        for (let group = 0; group < groups; group++, at += BLOCK) sum += tables[group * 256 + head.codes[at]!]!;
      }
      scores[key] = (2 * sum - shift) * fromBf16(head.factors[key]!);
    }
    return scores;
  }
}

function sizeOf(dim: number): number {
  return Math.max(UNIT, 2 ** Math.ceil(Math.log2(dim)));
}

function keysOf(seed: number): [number, number] {
  return [seed >>> 0, Math.floor(seed / 2 ** 32)];
}

/** The sign of coordinate i in rotation r is bit i % 128 of Philox({i / 128, r, 0, 2}, seed), set for minus. */
function drawFlips(size: number, seed: number): Int8Array {
  const [key0, key1] = keysOf(seed);
  const words = new Uint32Array(4);
  const flips = new Int8Array(ROTATIONS * size);
  for (let at = 0; at < flips.length; at++) {
    const i = at % size;
    if (i % 128 === 0) {
      words.set([i / 128, Math.floor(at / size), 0, FLIP_DOMAIN]);
      philox(words, key0, key1);
    }
    flips[at] = (words[(i % 128) >> 5]! >>> (i % 32)) & 1 ? -1 : 1;
  }
  return flips;
}

function largestSpan(v: Int32Array, bits: number): number {
  const spans = bits >= 3 ? [24, 24, 16] : [UNIT];
  let largest = 0;
  for (let i = 0, s = 0; i < v.length; s = (s + 1) % spans.length) {
    let sum = 0;
    for (const end = i + spans[s]!; i < end; i++) sum += Math.abs(v[i]!);
    largest = Math.max(largest, sum);
  }
  return largest;
}

function roundQuery(y: Int32Array, bits: number): { rounded: Int32Array; gain: number } {
  const rounded = new Int32Array(y.length);
  const largest = y.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  if (largest === 0) return { rounded, gain: 0 };
  const span = largestSpan(y, bits);
  const most = Math.fround(LARGEST_ROUNDED / largest);
  for (let target = FIRST_SPAN; ; target -= SPAN_STEP) {
    const gain = Math.min(Math.fround(target / span), most);
    for (let i = 0; i < y.length; i++) rounded[i] = Math.fround(Math.fround(y[i]! * gain) + ROUND) - ROUND;
    if (largestSpan(rounded, bits) <= SPAN_LIMIT) return { rounded, gain };
  }
}

/** 2^((r - largest) gain), by a polynomial. */
function weightOf(score: number, largest: number, gain: number): number {
  const { fround } = Math;
  const t = Math.max(-60, fround(fround(score - largest) * gain));
  const n = fround(t + ROUND) - ROUND;
  const f = fround(t - n);
  let p = fround(fround(fround(0.0551716648) * f) + fround(0.242611125));
  p = fround(fround(p * f) + fround(0.693260968));
  p = fround(fround(p * f) + fround(0.999928057));
  return p * 2 ** n;
}

/** Coefficients of Cephes' logf (Moshier), the highest first. */
const LOG_COEFFICIENTS = Float32Array.of(
  ...[7.0376836292e-2, -1.151461031e-1, 1.167699874e-1, -1.2420140846e-1, 1.4249322787e-1],
  ...[-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1],
);
const ROOT_HALF = 0x3f3504f3;
const LN_2 = Math.fround(Math.LN2);

/** log pi, pi being the threshold rounded up, over 2^24, and at most 1. */
function logOf(threshold: number): number {
  const { fround } = Math;
  float[0] = Math.ceil(Math.min(threshold, UNIFORM_ONE));
  const word = bits32[0]!;
  const exponent = (word - ROOT_HALF) >> 23;
  bits32[0] = word - (exponent << 23);
  const z = fround(float[0]! - 1);
  const p = LOG_COEFFICIENTS.reduce((sum, coefficient) => fround(fround(sum * z) + coefficient));
  const square = fround(z * z);
  const log = fround(z + fround(fround(fround(p * z) * square) - fround(0.5 * square)));
  return fround(log + fround((exponent - 24) * LN_2));
}

/** Bins of the first keys of every block: all keys of up to twice HISTOGRAM_KEYS, then a half, a quarter, an eighth. */
function histogram(scores: Float32Array, largest: number, eighths: number): { counts: Uint32Array; counted: number } {
  let lanes = BLOCK;
  for (let left = Math.floor(scores.length / 2); left >= HISTOGRAM_KEYS && lanes > LEAST_HISTOGRAM_LANES; ) {
    lanes /= 2;
    left = Math.floor(left / 2);
  }
  const counts = new Uint32Array(BINS);
  let counted = 0;
  for (let i = 0; i < scores.length; i++) {
    if (i % BLOCK >= lanes) continue;
    const depth = Math.fround(Math.fround(largest - scores[i]!) * eighths);
    counts[Math.min(BINS - 1, Math.floor(depth))]!++;
    counted++;
  }
  return { counts, counted };
}

/** Mean of factor^2 over the keys of some blocks. */
function meanSquareFactor({ size, factors }: Head): number {
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

function emptyHead(): Head {
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

function toBf16(value: number): number {
  float[0] = value;
  const word = bits32[0]!;
  return (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
}

function fromBf16(half: number): number {
  bits32[0] = half << 16;
  return float[0]!;
}

function readHeads(file: Container, { heads, dim, centred }: EngineSketchOptions, blockBytes: number): Head[] {
  return Array.from(file.get(0, 'SIZE', heads, BigUint64Array), (big, at) => {
    if (big > MAX_KEYS) throw engineError('CORRUPT_FILE', `A head has ${big} keys.`);
    const size = Number(big);
    const blocks = Math.ceil(size / BLOCK);
    return {
      size,
      codes: file.get(at + 1, 'CODE', blocks * blockBytes, Uint8Array),
      factors: file.get(at + 1, 'FACT', blocks * BLOCK, Uint16Array),
      // A head that was emptied keeps its centre.
      ...(centred && (size > 0 || file.has(at + 1, 'CENT')) && { centre: file.get(at + 1, 'CENT', dim, Float32Array) }),
    };
  });
}

function openSketch(source: string | Uint8Array): EngineSketchFile {
  const file = new Container(typeof source === 'string' ? openFile(source) : source, FILE_KIND);
  if (typeof source !== 'string') file.verify();
  const header = file.get(0, 'HEAD', 5, BigUint64Array);
  const number = (i: number, name: string, least: number, most: number) => {
    const value = header[i]!;
    if (value < least || value > most) throw engineError('CORRUPT_FILE', `${name} is ${value}.`);
    return Number(value);
  };
  return {
    heads: number(0, 'heads', 1, MAX_HEADS),
    dim: number(1, 'dim', 1, MAX_SIZE),
    bits: number(2, 'bits', 1, MAX_BITS),
    seed: number(3, 'seed', 0, Number.MAX_SAFE_INTEGER),
    centred: number(4, 'centred', 0, 1) === 1,
    file,
  };
}

export const typescriptSketches: SketchEngine = {
  Sketch: TypeScriptSketch,
  openSketch,
  sketchBytes: (dim, bits, keys) =>
    Math.ceil(keys / BLOCK) * BLOCK * ((bits * sizeOf(dim)) / 8 + Uint16Array.BYTES_PER_ELEMENT) + 4 * dim,
};
