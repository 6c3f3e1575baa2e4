/** Rotations and codes of key sketches in TypeScript: the integers of native/sketch.cc. */
import { engineError } from './typescript-engine-error.js';
import { philox, quantise, transform } from './typescript-engine-projection.js';

/** Keys of a block: [bits][size / 8][BLOCK] bytes, the highest plane first. */
export const BLOCK = 64;
/** Coordinates whose rounded query values add up to at most 255. */
export const UNIT = 64;
const ROTATED_NORM = 11_500;
const ROTATIONS = 3;
const FLIP_DOMAIN = 2;
const OPTIMAL_STEP = [1.5958, 0.9957, 0.586, 0.3352];
const STEP_SCALES = [0.8, 0.93, 1.06, 1.2];
const LEAST_INVERSE_NORM = 2 ** -60;

const float = new Float32Array(1);
const bits32 = new Uint32Array(float.buffer);

export class SketchCodec {
  /** Coordinates of a rotated vector. */
  readonly size: number;
  /** Norm of a rotated vector. */
  readonly norm: number;
  readonly #dim: number;
  readonly #bits: number;
  readonly #steps: number[];
  /** [3][size] of +1 and -1. */
  readonly #flips: Int8Array;

  constructor({ dim, bits, seed }: { dim: number; bits: number; seed: number }) {
    this.#dim = dim;
    this.#bits = bits;
    this.size = sizeOf(dim);
    this.norm = Math.log2(this.size) % 2 === 1 ? ROTATED_NORM * Math.SQRT2 : ROTATED_NORM;
    const deviation = this.norm / Math.sqrt(this.size);
    this.#steps = STEP_SCALES.map((scale) => Math.round(deviation * OPTIMAL_STEP[bits - 1]! * scale));
    this.#flips = drawFlips(this.size, seed);
  }

  get bytes(): number {
    return this.#flips.byteLength;
  }

  get blockBytes(): number {
    return (BLOCK * this.#bits * this.size) / 8;
  }

  /** Writes the rotated x[start ..] - centre to y; returns 1 / |x - centre| as a float32. Throws NON_FINITE. */
  rotate(x: Float32Array, start: number, centre: Float32Array | undefined, y: Int32Array): number {
    const rounded = new Int16Array(this.size);
    const inverseNorm = quantise(x, start, centre, this.#dim, ROTATED_NORM, true, rounded);
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

  /** Puts keys [n, dim], less the centre, into blocks behind `first` others. Throws NON_FINITE. */
  encode(keys: Float32Array, centre: Float32Array | undefined, first: number, codes: Uint8Array, factors: Uint16Array) {
    const y = new Int32Array(this.size);
    const levels = new Uint8Array(this.size);
    const best = new Uint8Array(this.size);
    for (let start = 0, key = first; start < keys.length; start += this.#dim, key++) {
      const inverseNorm = this.rotate(keys, start, centre, y);
      const product = this.#levels(y, levels, best);
      let at = Math.floor(key / BLOCK) * this.blockBytes + (key % BLOCK);
      for (let plane = this.#bits - 1; plane >= 0; plane--) {
        for (let group = 0; group < this.size / 8; group++, at += BLOCK) {
          let byte = 0;
          for (let j = 0; j < 8; j++) byte |= ((best[8 * group + j]! >> plane) & 1) << j;
          codes[at] = byte;
        }
      }
      const usable = inverseNorm > 0 && product > 0;
      factors[key] = usable ? toBf16(Math.fround(this.norm / (inverseNorm * product))) : 0;
    }
  }

  /** Levels of the step with the largest cosine between v and y, in `best`; returns <v, y>. `levels` is working space. */
  #levels(y: Int32Array, levels: Uint8Array, best: Uint8Array): number {
    const bits = this.#bits;
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
}

export function sizeOf(dim: number): number {
  return Math.max(UNIT, 2 ** Math.ceil(Math.log2(dim)));
}

/** The two halves of a seed. */
export function keysOf(seed: number): [number, number] {
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

function toBf16(value: number): number {
  float[0] = value;
  const word = bits32[0]!;
  return (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
}

export function fromBf16(half: number): number {
  bits32[0] = half << 16;
  return float[0]!;
}
