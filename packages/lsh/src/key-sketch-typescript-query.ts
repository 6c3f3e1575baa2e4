/** Queries of key sketches in TypeScript: the integers of native/sketch_draw.cc. */
import { BLOCK, fromBf16, type SketchCodec, UNIT } from './key-sketch-typescript-codes.js';
import { dot } from './typescript-engine-projection.js';

const FIRST_SPAN = 248;
const SPAN_STEP = 8;
const SPAN_LIMIT = 255;
const LARGEST_ROUNDED = 127;
const ROUND = 1.5 * 2 ** 23;
const LARGEST_LIFT = 14;
const LARGEST_GAIN = 2 ** 14;

/** A query, rounded. */
export interface SketchQuery {
  rounded: Int32Array;
  sigma: number;
  offset: number;
  /** 0 for a query that is rounded to zero. */
  norm: number;
  /** The largest sum. */
  shift: number;
}

/** The keys of one head. */
export interface SketchKeys {
  size: number;
  /** [blocks][bits][size / 8][BLOCK] and room for more. */
  codes: Uint8Array;
  /** [blocks][BLOCK] bfloat16, and room for more. */
  factors: Uint16Array;
  centre?: Float32Array;
}

/** Throws NON_FINITE. */
export function prepareQuery(
  codec: SketchCodec,
  { dim, bits, scale }: { dim: number; bits: number; scale: number },
  centre: Float32Array | undefined,
  query: Float32Array,
): SketchQuery {
  const y = new Int32Array(codec.size);
  const inverseNorm = codec.rotate(query, 0, undefined, y);
  const { rounded, gain } = roundQuery(y, bits);
  const sigma = gain > 0 ? Math.fround(scale / (inverseNorm * codec.norm * gain)) : 0;
  const offset = centre ? Math.fround(dot(query, 0, centre, 0, dim) * scale) : 0;
  const shift = (2 ** bits - 1) * rounded.reduce((sum, value) => sum + Math.abs(value), 0);
  return { rounded, sigma, offset, norm: gain > 0 ? 1 / inverseNorm : 0, shift };
}

/** <u, q> and the negative part of q, of all keys: sums of native/sketch_kernels.h. */
export function sumsOf({ size, codes }: SketchKeys, { rounded, shift }: SketchQuery, bits: number): Uint16Array {
  const groups = rounded.length / 8;
  // Sums of the coordinates of each byte's set bits.
  const tables = new Int32Array(groups * 256);
  for (let group = 0; group < groups; group++) {
    for (let byte = 1; byte < 256; byte++) {
      const rest = byte & (byte - 1);
      const bit = 31 - Math.clz32(byte ^ rest);
      tables[group * 256 + byte] = tables[group * 256 + rest]! + rounded[8 * group + bit]!;
    }
  }
  const negative = (shift - (2 ** bits - 1) * rounded.reduce((sum, value) => sum + value, 0)) / 2;
  const sums = new Uint16Array(size);
  for (let key = 0; key < size; key++) {
    let at = Math.floor(key / BLOCK) * bits * groups * BLOCK + (key % BLOCK);
    let sum = 0;
    for (let plane = 0; plane < bits; plane++) {
      sum *= 2;
      for (let group = 0; group < groups; group++, at += BLOCK) sum += tables[group * 256 + codes[at]!]!;
    }
    sums[key] = sum + negative;
  }
  return sums;
}

/** r of native/sketch_kernels.h: sigma r + offset estimates the score. */
export function scoresOf(
  { factors }: SketchKeys,
  { shift, sigma, offset }: SketchQuery,
  sums: Uint16Array,
): Float32Array {
  return Float32Array.from(sums, (sum, key) => {
    const r = Math.fround((2 * sum - shift) * fromBf16(factors[key]!));
    return Math.fround(Math.fround(r * sigma) + offset);
  });
}

/** S of native/sketch_kernels.h: scores, times `temper`, in quarters of a nat. */
export function quartersOf(
  { factors }: SketchKeys,
  { shift, sigma }: SketchQuery,
  temper: number,
  sums: Uint16Array,
): Int16Array {
  let exponent = 0;
  for (let key = 0; key < sums.length; key++) exponent = Math.max(exponent, (factors[key]! >> 7) & 0xff);
  const half = shift >> 1;
  let lift = LARGEST_LIFT;
  while ((shift - half) << lift > 0x7fff) lift--;
  const gain = Math.min(Math.floor(Math.fround(sigma * temper) * 2 ** (exponent - 108 - lift) + 0.5), LARGEST_GAIN);
  return Int16Array.from(sums, (sum, key) => {
    const factor = factors[key]!;
    const below = exponent - ((factor >> 7) & 0xff);
    const fixed = (factor & 0x7f80) === 0 ? 0 : (((factor & 0x7f) | 0x80) << 7) >> Math.min(below, 15);
    return multiplyHigh(multiplyHigh((sum - half) << lift, fixed), gain);
  });
}

function multiplyHigh(a: number, b: number): number {
  return (a * b + 0x4000) >> 15;
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
