import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { CpuBackend, type SourceType, type WeightSource } from '../src/index.js';
import { f32Source, paths, poisoned, randomArray, sameBits, toBf16 } from './helpers.js';

interface Fixture {
  rows: number;
  cols: number;
  types: Record<string, { data: string; values: string }>;
}
const fixture: Fixture = JSON.parse(readFileSync(new URL('./fixtures/gguf-blocks.json', import.meta.url), 'utf8'));

const bytesOf = (text: string) => new Uint8Array(Buffer.from(text, 'base64'));
const floatsOf = (text: string) => new Float32Array(bytesOf(text).buffer);

/** The bytes at an odd address, as in a memory-mapped file. */
function misaligned(bytes: Uint8Array): Uint8Array {
  const copy = new Uint8Array(bytes.length + 1).subarray(1);
  copy.set(bytes);
  return copy;
}

/** All values of the weight of these sources, row after row. */
function unpack(backend: CpuBackend, parts: WeightSource[], format: 'f32' | 'bf16'): Float32Array {
  using weight = backend.weight(parts, { format });
  const out = poisoned(backend, weight.rows * weight.cols);
  backend.embed(
    out,
    weight,
    Int32Array.from({ length: weight.rows }, (_, i) => i),
  );
  return out.host;
}

describe.each(paths)('%s', (isa) => {
  const backend = new CpuBackend({ isa, threads: 2 });
  const { rows, cols } = fixture;

  it.each(Object.keys(fixture.types))('decodes %s as the gguf package does', (type) => {
    const { data, values } = fixture.types[type]!;
    const source = { type: type as SourceType, data: misaligned(bytesOf(data)), rows, cols };
    const expected = floatsOf(values);
    expect(sameBits(unpack(backend, [source], 'f32'), expected)).toBe(true);
    expect(sameBits(unpack(backend, [source], 'bf16'), expected.map(toBf16))).toBe(true);
  });

  it('decodes bf16 and f32', () => {
    const values = randomArray(rows * cols, 1).map(toBf16);
    const halves = Uint16Array.from(new Uint32Array(values.buffer), (bits) => bits >>> 16);
    const bf16: WeightSource = { type: 'bf16', data: misaligned(new Uint8Array(halves.buffer)), rows, cols };
    expect(sameBits(unpack(backend, [bf16], 'f32'), values)).toBe(true);
    expect(sameBits(unpack(backend, [bf16], 'bf16'), values)).toBe(true);
    expect(sameBits(unpack(backend, [f32Source(values, rows, cols)], 'f32'), values)).toBe(true);
  });

  it('rounds to bfloat16 to nearest even, and keeps infinities and NaN', () => {
    const values = new Float32Array(
      new Uint32Array([0x3f808000, 0x3f818000, 0x3f808001, 0x7f7fffff, 0x7f800001, 0xff800000, 0x80000000, 0x00000001])
        .buffer,
    );
    const bits = new Uint32Array(unpack(backend, [f32Source(values, 1, 8)], 'bf16').slice().buffer);
    expect([...bits].map((b) => (b >>> 16).toString(16))).toEqual([
      '3f80',
      '3f82',
      '3f81',
      '7f80',
      '7fc0',
      'ff80',
      '8000',
      '0',
    ]);
  });

  it('takes rows in the order asked for and stacks parts', () => {
    const cols = 264;
    const parts = [70, 5, 31].map((rows, i) => ({ rows, values: randomArray(rows * cols, 10 + i) }));
    const rowOrder = Uint32Array.from({ length: 70 }, (_, i) => (i * 27) % 70);
    const sources = parts.map((part) => f32Source(part.values, part.rows, cols));
    const got = unpack(backend, [{ ...sources[0]!, rowOrder } as WeightSource, ...sources.slice(1)], 'f32');
    const rowOf = (part: number, row: number) => parts[part]!.values.subarray(row * cols, (row + 1) * cols);
    const expected = [
      ...Array.from(rowOrder, (row) => rowOf(0, row)),
      ...Array.from({ length: 5 }, (_, row) => rowOf(1, row)),
      ...Array.from({ length: 31 }, (_, row) => rowOf(2, row)),
    ];
    for (const [i, row] of expected.entries()) expect(got.subarray(i * cols, (i + 1) * cols)).toEqual(row);
  });

  it('says what it holds', () => {
    using f32 = backend.weight([f32Source(randomArray(40 * 16, 1), 40, 16)], { format: 'f32' });
    expect([f32.rows, f32.cols, f32.bytes]).toEqual([40, 16, 64 * 16 * 4]);
    using bf16 = backend.weight([f32Source(randomArray(40 * 16, 1), 40, 16)], { format: 'bf16' });
    expect(bf16.bytes).toBe(64 * 16 * 2);
  });

  it('makes vectors of any length', () => {
    const values = randomArray(13, 3);
    using vector = backend.vector(f32Source(values, 1, 13));
    expect(vector.host).toEqual(values);
    const { data, values: decoded } = fixture.types.q8_0!;
    using quantised = backend.vector({
      type: 'q8_0',
      data: bytesOf(data).subarray(0, (cols / 32) * 34),
      rows: 1,
      cols,
    });
    expect(quantised.host).toEqual(floatsOf(decoded).subarray(0, cols));
    using ones = backend.vector({ type: 'random', rows: 1, cols: 7, seed: 1, std: 0, mean: 1 });
    expect([...ones.host]).toEqual([1, 1, 1, 1, 1, 1, 1]);
    using drawn = backend.vector({ type: 'random', rows: 1, cols: 7, seed: 3, std: 1 });
    using longer = backend.vector({ type: 'random', rows: 1, cols: 600, seed: 3, std: 1 });
    expect(drawn.host).toEqual(longer.host.slice(0, 7));
  });
});
