import { describe, expect, it } from 'vitest';
import { type KvDtype, KvStore } from '../src/index.js';
import { rowsOf } from './model.js';
import { Random } from './random.js';

/** What a store gives back of one row. */
function roundTrip(dtype: KvDtype, row: Float32Array): Float32Array {
  using store = new KvStore({ layers: 1, kvHeads: 1, queryHeads: 1, headDim: row.length, dtype });
  const sequence = store.open();
  const rows = rowsOf(row, row.length);
  store.step([{ sequence, tokens: 1 }]).append(0, rows, rows);
  const keys = store.readKeys(sequence, 0, 0, 0, 1);
  expect([...store.readValues(sequence, 0, 0, 0, 1)]).toEqual([...keys]);
  return keys;
}

/** Rounds to `bits` of significand, to nearest even, with exponents from `least` on: the definition of a small float. */
function roundTo(x: number, bits: number, least: number, largest: number): number {
  if (!Number.isFinite(x) || x === 0) return x;
  const exponent = Math.max(Math.floor(Math.log2(Math.abs(x))), least);
  const unit = 2 ** (exponent - bits + 1);
  const scaled = x / unit;
  const floor = Math.floor(scaled);
  const rest = scaled - floor;
  const rounded = rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
  return Math.sign(x) * (Math.abs(rounded * unit) > largest ? Number.POSITIVE_INFINITY : Math.abs(rounded * unit));
}

const random = new Random(1);
const values = Float32Array.from([
  ...[0, 1, -1, 1 / 3, -2 / 3, 65504, 65519, 65520, -65536, 1e-7, 6e-8, 3e-8, 2.98e-8, 6.1e-5, 6.09e-5, 1e38],
  ...[1 + 2 ** -11, 1 + 3 * 2 ** -11, 1 + 2 ** -8, 1 + 3 * 2 ** -8, 2 ** -24, 2 ** -25, 3 * 2 ** -25, -(2 ** -14)],
  ...Array.from({ length: 200 }, () => random.normal() * 10 ** (random.integer(12) - 8)),
]);

describe('stored rows', () => {
  it.each([
    ['f32', (x: number) => x],
    ['bf16', (x: number) => roundTo(x, 8, -126, 3.3895313892515355e38)],
    ['f16', (x: number) => roundTo(x, 11, -14, 65504)],
  ] as const)('%s rounds to nearest even', (dtype, expected) => {
    expect([...roundTrip(dtype, values)]).toEqual([...values].map((x) => Math.fround(expected(x))));
  });

  it.each(['f32', 'bf16', 'f16'] as const)('%s keeps infinities and NaN', (dtype) => {
    const row = Float32Array.from([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 0, -0, 1, 2, 3]);
    expect([...roundTrip(dtype, row)]).toEqual([...row]);
  });

  it('int8 is within half a step of 1/127 of the largest element', () => {
    const row = random.normals(128, 3);
    const largest = row.reduce((max, x) => Math.max(max, Math.abs(x)), 0);
    const back = roundTrip('int8', row);
    for (const [i, x] of row.entries()) expect(Math.abs(back[i]! - x)).toBeLessThanOrEqual((largest / 127) * 0.5001);
    expect(back.reduce((max, x) => Math.max(max, Math.abs(x)), 0)).toBeCloseTo(largest, 5);
    expect([...roundTrip('int8', new Float32Array(8))]).toEqual(Array(8).fill(0));
  });

  it.each(['bf16', 'f16'] as const)('%s are read as bits across pages', (dtype) => {
    using store = new KvStore({ layers: 1, kvHeads: 2, queryHeads: 2, headDim: 24, dtype, pageTokens: 16 });
    const sequence = store.open();
    const tokens = 70;
    const [keys, data] = [random.normals(tokens * 48), random.normals(tokens * 48)];
    store.step([{ sequence, tokens }]).append(0, rowsOf(keys, 48), rowsOf(data, 48));
    for (const read of ['readKeys', 'readValues'] as const) {
      const numbers = store[read](sequence, 0, 1, 3, 67);
      const bits = store[read](sequence, 0, 1, 3, 67, new Uint16Array(64 * 24));
      expect(bits).toHaveLength(numbers.length);
      for (const [i, x] of numbers.entries()) {
        const exponentAndFraction = bits[i]! & 0x7fff;
        const float = new Float32Array(Uint32Array.of(exponentAndFraction << (dtype === 'bf16' ? 16 : 13)).buffer)[0]!;
        expect((bits[i]! >> 15 ? -1 : 1) * float * (dtype === 'bf16' ? 1 : 2 ** 112)).toBe(x);
      }
    }
    expect(() => store.readKeys(sequence, 0, 0, 0, 70, new Uint16Array(3))).toThrow(/Uint16Array of at least 1680/);
  });

  it.each(['f32', 'int8'] as const)('%s have no bits of two bytes', (dtype) => {
    using store = new KvStore({ layers: 1, kvHeads: 1, queryHeads: 1, headDim: 8, dtype });
    const sequence = store.open();
    store.step([{ sequence, tokens: 1 }]).append(0, rowsOf(new Float32Array(8), 8), rowsOf(new Float32Array(8), 8));
    expect(() => store.readKeys(sequence, 0, 0, 0, 1, new Uint16Array(8))).toThrow(`rows are ${dtype}`);
  });

  it('take the bytes that their type says', () => {
    const bytes = (dtype: KvDtype) =>
      new KvStore({ layers: 3, kvHeads: 2, queryHeads: 2, headDim: 64, dtype, pageTokens: 16 }).bytesFor(16);
    expect(bytes('f32')).toBe(3 * 2 * 2 * 16 * 256);
    expect(bytes('bf16')).toBe(3 * 2 * 2 * 16 * 128);
    expect(bytes('f16')).toBe(3 * 2 * 2 * 16 * 128);
    expect(bytes('int8')).toBe(3 * 2 * 2 * 16 * (64 + 4));
  });
});
