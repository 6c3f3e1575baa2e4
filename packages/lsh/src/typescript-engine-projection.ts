/** Rounding, random hyperplanes and hashing in TypeScript: the integers of native/quantise.h, projection.cc and hadamard.h. */
import type { EngineProjection, Vectors } from './engine.js';
import { engineError } from './typescript-engine-error.js';

const LARGEST_WEIGHT = 127;
const LARGEST_ROUNDED = 32_767;
/** Sums of a rotation that are not scaled yet grow a norm by 2 sqrt(2), which 16 bits must hold in the native engine. */
const HADAMARD_NORM = 11_500;
const LEAST_SIZE = 64;
const ROTATIONS = 3;
/** The native engine keeps the weights of so many projections together; one that is not full takes as much memory. */
const COLUMNS = 16;

/** round(2^31 erf(m / (16 sqrt 2))), m = 1..63: where the magnitude of a normal value passes m / 16. */
const QUANTILES = Uint32Array.of(
  ...[107020574, 213624049, 319398199, 423940441, 526862429, 627794368, 726388972, 822325010, 915310351, 1005084500],
  ...[1091420552, 1174126581, 1253046430, 1328059925, 1399082539, 1466064521, 1528989550, 1587872958, 1642759586],
  ...[1693721325, 1740854428, 1784276636, 1824124209, 1860548903, 1893714977, 1923796256, 1950973325, 1975430879],
  ...[1997355270, 2016932268, 2034345075, 2049772575, 2063387850, 2075356946, 2085837890, 2094979938, 2102923050],
  ...[2109797564, 2115724052, 2120813339, 2125166657, 2128875924, 2132024106, 2134685662, 2136927043, 2138807224],
  ...[2140378265, 2141685880, 2142769997, 2143665313, 2144401827, 2145005344, 2145497953, 2145898468, 2146222837],
  ...[2146484514, 2146694792, 2146863108, 2146997311, 2147103899, 2147188222, 2147254673, 2147306835],
);

/** Upper half of the 64-bit product of two unsigned 32-bit integers. */
function multiplyHigh(a: number, b: number): number {
  const low = a & 0xffff;
  const high = a >>> 16;
  const lower = low * (b & 0xffff);
  const middle = high * (b & 0xffff) + (lower >>> 16);
  const upper = low * (b >>> 16) + (middle & 0xffff);
  return (high * (b >>> 16) + Math.floor(middle / 0x10000) + Math.floor(upper / 0x10000)) >>> 0;
}

/**
 * Philox4x32-10, the counter-based generator of Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011):
 * replaces the counter in `words` [4] by four random words.
 */
export function philox(words: Uint32Array, key0: number, key1: number): void {
  let [c0, c1, c2, c3] = words as unknown as [number, number, number, number];
  for (let round = 0; round < 10; round++) {
    const low0 = Math.imul(0xd2511f53, c0);
    const low2 = Math.imul(0xcd9e8d57, c2);
    const high0 = multiplyHigh(0xd2511f53, c0);
    c0 = (multiplyHigh(0xcd9e8d57, c2) ^ c1 ^ key0) >>> 0;
    c2 = (high0 ^ c3 ^ key1) >>> 0;
    c1 = low2;
    c3 = low0;
    key0 = (key0 + 0x9e3779b9) | 0;
    key1 = (key1 + 0xbb67ae85) | 0;
  }
  words[0] = c0;
  words[1] = c1;
  words[2] = c2;
  words[3] = c3;
}

/** 2 floor(16 g) + 1, clamped to +-127, of the normal value g at the quantile of the word's low 31 bits; the top bit is the sign. */
function weightOf(word: number): number {
  const magnitude = word & 0x7fffffff;
  let low = 0;
  let high = QUANTILES.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (QUANTILES[middle]! <= magnitude) low = middle + 1;
    else high = middle;
  }
  return word >>> 31 ? -(2 * low + 1) : 2 * low + 1;
}

/** The float32 values of vectors; bfloat16 is the upper half of one. */
export function toFloats(vectors: Vectors): Float32Array {
  if (vectors instanceof Float32Array) return vectors;
  const bits = new Uint32Array(vectors.length);
  for (let i = 0; i < bits.length; i++) bits[i] = vectors[i]! << 16;
  return new Float32Array(bits.buffer);
}

/** Sum of products as doubles, in eight interleaved sums that are added from first to last: the order of every engine. */
export function dot(a: Float32Array, aStart: number, b: Float32Array, bStart: number, dim: number): number {
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  let s4 = 0;
  let s5 = 0;
  let s6 = 0;
  let s7 = 0;
  let i = 0;
  for (; i + 8 <= dim; i += 8) {
    const x = aStart + i;
    const y = bStart + i;
    s0 += a[x]! * b[y]!;
    s1 += a[x + 1]! * b[y + 1]!;
    s2 += a[x + 2]! * b[y + 2]!;
    s3 += a[x + 3]! * b[y + 3]!;
    s4 += a[x + 4]! * b[y + 4]!;
    s5 += a[x + 5]! * b[y + 5]!;
    s6 += a[x + 6]! * b[y + 6]!;
    s7 += a[x + 7]! * b[y + 7]!;
  }
  if (i === dim) return s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7;
  const sums = [s0, s1, s2, s3, s4, s5, s6, s7];
  for (let lane = 0; i + lane < dim; lane++) sums[lane]! += a[aStart + i + lane]! * b[bStart + i + lane]!;
  return sums.reduce((sum, each) => sum + each, 0);
}

/**
 * Rounds x[start .. start + dim - 1] - centre to integers, its largest magnitude (its norm, if `byNorm`) becoming `limit`, and
 * fills the rest of `out` with zeros. Throws NON_FINITE.
 *
 * @returns 1 / |x - centre| as a float32, 0 for vectors with no magnitude of at least 2^-100
 */
export function quantise(
  x: Float32Array,
  start: number,
  centre: Float32Array | undefined,
  dim: number,
  limit: number,
  byNorm: boolean,
  out: Int16Array,
): number {
  const value = centre ? (i: number) => Math.fround(x[start + i]! - centre[i]!) : (i: number) => x[start + i]!;
  let peak = 0;
  const sums = new Float64Array(8);
  for (let i = 0; i < dim; i++) {
    const v = value(i);
    if (!Number.isFinite(v)) {
      throw engineError(
        'NON_FINITE',
        'A vector holds NaN or an infinity (or becomes infinite by centring); nothing was changed.',
      );
    }
    peak = Math.max(peak, Math.abs(v));
    sums[i & 7]! += v * v;
  }
  out.fill(0);
  if (peak < 2 ** -100) return 0;
  const norm = Math.sqrt(sums.reduce((sum, each) => sum + each, 0));
  const scale = Math.fround(limit / (byNorm ? norm : peak));
  // Adding 1.5 * 2^23 in float32 leaves the nearest integer, ties to even.
  const round = 1.5 * 2 ** 23;
  for (let i = 0; i < dim; i++) out[i] = Math.fround(Math.fround(value(i) * scale) + round) - round;
  return Math.fround(1 / norm);
}

export class TypeScriptProjection implements EngineProjection {
  /** gaussian: [columns][even dim]; hadamard: signs [blocks][3][size]. */
  readonly #weights: Int16Array;
  /** Even, or a power of two. */
  readonly #size: number;
  /** Vectors are rounded to integers up to this magnitude (gaussian) or norm (hadamard). */
  readonly #limit: number;

  constructor(
    readonly hadamard: boolean,
    readonly dim: number,
    readonly bits: number,
    readonly tables: number,
    readonly seed: number,
  ) {
    const projections = bits * tables;
    const key0 = seed >>> 0;
    const key1 = Math.floor(seed / 2 ** 32);
    if (hadamard) {
      this.#size = Math.max(LEAST_SIZE, 2 ** Math.ceil(Math.log2(dim)));
      this.#limit = HADAMARD_NORM;
      this.#weights = allocate(Math.ceil(projections / this.#size) * ROTATIONS * this.#size);
      this.#drawSigns(key0, key1);
    } else {
      this.#size = dim + (dim % 2);
      this.#limit = Math.min(LARGEST_ROUNDED, Math.floor((2 ** 31 - 1) / (LARGEST_WEIGHT * dim)));
      this.#weights = allocate(Math.ceil(projections / COLUMNS) * COLUMNS * this.#size);
      this.#drawWeights(key0, key1);
    }
  }

  get bytes(): number {
    return this.#weights.byteLength;
  }

  hash(vectors: Vectors, codes: Uint16Array): void {
    const floats = toFloats(vectors);
    const rows = floats.length / this.dim;
    const rounded = new Int16Array(this.#size);
    for (let row = 0; row < rows; row++) {
      this.hashRow(floats, row, undefined, rounded, codes.subarray(row * this.tables, (row + 1) * this.tables));
    }
  }

  /**
   * Writes the code of x[row] - centre to `codes` [tables]; `rounded` [roundedSize] is working space. Throws NON_FINITE.
   *
   * @returns 1 / |x[row] - centre| as a float32, 0 for vectors with no magnitude of at least 2^-100
   */
  hashRow(
    x: Float32Array,
    row: number,
    centre: Float32Array | undefined,
    rounded: Int16Array,
    codes: Uint16Array,
  ): number {
    const inverseNorm = quantise(x, row * this.dim, centre, this.dim, this.#limit, this.hadamard, rounded);
    if (this.hadamard) this.#rotate(rounded, codes);
    else this.#project(rounded, codes);
    return inverseNorm;
  }

  get roundedSize(): number {
    return this.#size;
  }

  #project(x: Int16Array, codes: Uint16Array): void {
    const { bits, tables } = this;
    const weights = this.#weights;
    const size = this.#size;
    let at = 0;
    for (let t = 0; t < tables; t++) {
      let code = 0;
      for (let j = 0; j < bits; j++) {
        let sum = 0;
        for (let i = 0; i < size; i += 2, at += 2) {
          sum = (sum + Math.imul(x[i]!, weights[at]!) + Math.imul(x[i + 1]!, weights[at + 1]!)) | 0;
        }
        if (sum > 0) code |= 1 << j;
      }
      codes[t] = code;
    }
  }

  #rotate(x: Int16Array, codes: Uint16Array): void {
    const { tables } = this;
    const size = this.#size;
    const projections = this.bits * tables;
    const signs = this.#weights;
    const y = new Int32Array(size);
    codes.fill(0);
    let bit = 1;
    let table = 0;
    let flips = 0;
    for (let first = 0; first < projections; first += size) {
      y.set(x);
      for (let rotation = 0; rotation < ROTATIONS; rotation++, flips += size) {
        for (let i = 0; i < size; i++) y[i]! *= signs[flips + i]!;
        transform(y, rotation === 1);
      }
      for (let i = 0; i < size && first + i < projections; i++) {
        if (y[i]! > 0) codes[table]! |= bit;
        if (++table === tables) {
          table = 0;
          bit <<= 1;
        }
      }
    }
  }

  /** Dimension i of bit j of table t is word i % 4 of Philox({i / 4, j, t, 0}, seed). */
  #drawWeights(key0: number, key1: number): void {
    const words = new Uint32Array(4);
    let row = 0;
    for (let t = 0; t < this.tables; t++) {
      for (let j = 0; j < this.bits; j++, row += this.#size) {
        for (let i = 0; i < this.dim; i++) {
          if (i % 4 === 0) {
            words.set([i / 4, j, t, 0]);
            philox(words, key0, key1);
          }
          this.#weights[row + i] = weightOf(words[i % 4]!);
        }
      }
    }
  }

  /** The sign of coordinate i in rotation r of block b is bit i % 128 of Philox({i / 128, r, b, 1}, seed), set for minus. */
  #drawSigns(key0: number, key1: number): void {
    const words = new Uint32Array(4);
    const blocks = this.#weights.length / (ROTATIONS * this.#size);
    let at = 0;
    for (let b = 0; b < blocks; b++) {
      for (let r = 0; r < ROTATIONS; r++) {
        for (let i = 0; i < this.#size; i++) {
          if (i % 128 === 0) {
            words.set([i / 128, r, b, 1]);
            philox(words, key0, key1);
          }
          this.#weights[at++] = (words[(i % 128) >> 5]! >>> (i % 32)) & 1 ? -1 : 1;
        }
      }
    }
  }
}

/**
 * Fast Hadamard transform of integers. Stages come in runs of four, over groups of 16 elements from the widest to adjacent
 * ones, and within a run the stride grows. Two stages double the norm, so every second one halves; `shift` says whether the
 * last stage of a shorter last run does in any case.
 */
export function transform(y: Int32Array, shift: boolean): void {
  for (let span = y.length; span > 1; span = Math.max(1, span / 16)) {
    const least = Math.max(1, span / 16);
    let stage = 0;
    for (let half = least; half < span; half *= 2, stage++) {
      const halve = stage % 2 === 1 || (shift && span < 16 && 2 * half === span);
      for (let base = 0; base < y.length; base += 2 * half) {
        for (let i = base; i < base + half; i++) {
          const a = y[i]!;
          const b = y[i + half]!;
          y[i] = halve ? (a + b) >> 1 : a + b;
          y[i + half] = halve ? (a - b) >> 1 : a - b;
        }
      }
    }
  }
}

function allocate(length: number): Int16Array {
  try {
    return new Int16Array(length);
  } catch (cause) {
    throw engineError('OUT_OF_MEMORY', `The projections' ${2 * length} bytes could not be allocated.`, cause);
  }
}
