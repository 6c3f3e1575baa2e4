import { describe, expect, it } from 'vitest';
import { CpuBackend, type WeightSource } from '../src/index.js';
import { blocksOf, types } from './fixtures/gguf-blocks.js';
import { f32Source, paths, randomArray, sameBits, toBf16, unpack } from './helpers.js';

describe.each(paths)('%s', (isa) => {
  const backend = new CpuBackend({ isa, threads: 2 });

  it.each(types)('decodes %s as the gguf package does', (type) => {
    const { source, values } = blocksOf(type);
    expect(sameBits(unpack(backend, [source], 'f32'), values)).toBe(true);
    expect(sameBits(unpack(backend, [source], 'bf16'), values.map(toBf16))).toBe(true);
  });

  it('decodes bf16 and f32', () => {
    const [rows, cols] = [3, 264];
    const values = randomArray(rows * cols, 1).map(toBf16);
    const halves = Uint16Array.from(new Uint32Array(values.buffer), (bits) => bits >>> 16);
    const bf16: WeightSource = { type: 'bf16', data: new Uint8Array(halves.buffer), rows, cols };
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
    const { source, values: decoded } = blocksOf('q8_0');
    const { cols } = source;
    using quantised = backend.vector({ type: 'q8_0', data: source.data.subarray(0, (cols / 32) * 34), rows: 1, cols });
    expect(quantised.host).toEqual(decoded.subarray(0, cols));
    using ones = backend.vector({ type: 'random', rows: 1, cols: 7, seed: 1, std: 0, mean: 1 });
    expect([...ones.host]).toEqual([1, 1, 1, 1, 1, 1, 1]);
    using drawn = backend.vector({ type: 'random', rows: 1, cols: 7, seed: 3, std: 1 });
    using longer = backend.vector({ type: 'random', rows: 1, cols: 600, seed: 3, std: 1 });
    expect(drawn.host).toEqual(longer.host.slice(0, 7));
  });
});
