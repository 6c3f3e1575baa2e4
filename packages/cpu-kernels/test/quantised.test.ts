import { describe, expect, it } from 'vitest';
import { CpuBackend, type WeightSource } from '../src/index.js';
import { blocksOf } from './fixtures/gguf-blocks.js';
import {
  expectWithin,
  f32Source,
  paths,
  poisoned,
  product,
  quantisedFormats,
  randomArray,
  rmsNorm,
  sameBits,
  tensorOf,
  unpack,
} from './helpers.js';

const BLOCK = 32;
/** Of the integers that activations are rounded to. */
const MOST = 127 * 256 + 127;
const FLOAT_ERROR = 2e-6;

/** What products see of activations: blocks of 32 rounded to 16-bit integers, ties to even, times a scale. */
function roundInputs(x: ArrayLike<number>): Float64Array {
  const rounded = new Float64Array(x.length);
  for (let first = 0; first < x.length; first += BLOCK) {
    let largest = 0;
    for (let i = first; i < first + BLOCK; ++i) largest = Math.max(largest, Math.abs(x[i]!));
    if (largest === 0) continue;
    const inverse = Math.fround(MOST / largest);
    const scale = Math.fround(largest / MOST);
    for (let i = first; i < first + BLOCK; ++i) {
      const scaled = Math.fround(x[i]! * inverse);
      const floor = Math.floor(scaled);
      const up = scaled - floor > 0.5 || (scaled - floor === 0.5 && floor % 2 !== 0);
      rounded[i] = (floor + (up ? 1 : 0)) * scale;
    }
  }
  return rounded;
}

describe.each(paths)('%s', (isa) => {
  const backend = new CpuBackend({ isa, threads: 2 });

  it('keeps the values of 8-bit and 4-bit blocks', () => {
    for (const [type, format] of [
      ['q8_0', 'q8'],
      ['q8_0', 'q4'],
      ['q4_0', 'q8'],
      ['q4_0', 'q4'],
      ['q4_1', 'q8'],
      ['q4_1', 'q4'],
    ] as const) {
      const { source, values } = blocksOf(type);
      expect(sameBits(unpack(backend, [source], format), values), `${type} as ${format}`).toBe(true);
    }
    // Scales of q4_k and q6_k are rounded to halves, those of q4_k and its minimum apart.
    for (const type of ['q4_k', 'q6_k'] as const) {
      const { source, values } = blocksOf(type);
      const got = unpack(backend, [source], 'q8');
      for (let first = 0; first < values.length; first += BLOCK) {
        const block = values.subarray(first, first + BLOCK);
        const error = (type === 'q6_k' ? 1 : 3) * Math.max(...block.map(Math.abs)) * 2 ** -11;
        for (let i = 0; i < BLOCK; ++i) expectWithin(got[first + i]!, block[i]!, error);
      }
    }
  });

  it('holds sources of 4 and 6 bits in as many and takes 8 for other quantised ones', () => {
    const bytes = (type: 'q4_0' | 'q4_1' | 'q4_k' | 'q8_0' | 'q6_k' | 'q5_1' | 'f16', format: 'q8' | 'q4') => {
      using weight = backend.weight([blocksOf(type).source], { format });
      return weight.bytes / (32 * 256); // one panel of 32 outputs
    };
    for (const format of ['q8', 'q4'] as const) {
      expect(bytes('q4_0', format)).toBe((16 + 2) / 32);
      for (const type of ['q4_1', 'q4_k'] as const) expect(bytes(type, format)).toBe((16 + 4) / 32);
      expect(bytes('q6_k', format)).toBe((16 + 8 + 4) / 32);
      for (const type of ['q8_0', 'q5_1'] as const) expect(bytes(type, format)).toBe((32 + 2) / 32);
    }
    expect(bytes('f16', 'q8')).toBe((32 + 2) / 32);
    expect(bytes('f16', 'q4')).toBe((16 + 4) / 32);
  });

  it('rounds other weights to the nearest level', () => {
    const [rows, cols] = [35, 288];
    const random: WeightSource = { type: 'random', rows, cols, seed: 3, std: 0.02 };
    const drawn = unpack(backend, [random], 'f32');
    const uniform = randomArray(rows * cols, 1);
    uniform.fill(0, 0, BLOCK);
    for (const [source, values] of [
      [f32Source(uniform, rows, cols), uniform],
      [random, drawn],
      [blocksOf('q5_1').source, blocksOf('q5_1').values],
    ] as const) {
      for (const format of quantisedFormats) {
        const got = unpack(backend, [source], format);
        for (let first = 0; first < values.length; first += BLOCK) {
          const block = values.subarray(first, first + BLOCK);
          const largest = Math.max(...block.map(Math.abs));
          const q5 = source.type === 'q5_1'; // has more than 4 bits: kept in 8
          const level = format === 'q8' || q5 ? largest / 127 : (Math.max(...block) - Math.min(...block)) / 15;
          // Half a level, and what rounding the scale and the minimum to halves costs, small scales to subnormal ones.
          const error = level / 2 + largest * 2 ** -9 + 127 * 2 ** -25;
          for (let i = 0; i < BLOCK; ++i) expectWithin(got[first + i]!, block[i]!, error);
        }
      }
    }
  });

  it('stacks parts of different types, also inside a panel', () => {
    const types = ['q4_0', 'q4_1', 'q4_0', 'q8_0'] as const; // 3 rows each
    const parts = types.map((type) => blocksOf(type));
    const { cols } = parts[0]!.source;
    const expected = parts.flatMap(({ values }) => [...values]);
    const worst = Math.max(...expected.map(Math.abs));
    const got = unpack(
      backend,
      parts.map(({ source }) => source),
      'q4',
    );
    for (const [i, value] of expected.entries()) expectWithin(got[i]!, value, worst / 127);
    // Without the 8-bit part all are repacked exactly.
    const exact = unpack(
      backend,
      parts.slice(0, 3).map(({ source }) => source),
      'q4',
    );
    for (let i = 0; i < 9 * cols; ++i) expect(exact[i]).toBeCloseTo(expected[i]!, 6);
    // Panels of their own: 33 rows of q8_0 after 32 of q4_1 leave the first panel in 4 bits.
    const many = (type: 'q4_1' | 'q8_0', count: number): WeightSource => {
      const { source } = blocksOf(type);
      const rowBytes = source.data.length / 3;
      const data = new Uint8Array(count * rowBytes);
      for (let row = 0; row < count; ++row) data.set(source.data.subarray(0, rowBytes), row * rowBytes);
      return { type, data, rows: count, cols };
    };
    using mixed = backend.weight([many('q4_1', 32), many('q8_0', 33)], { format: 'q4' });
    expect(mixed.bytes).toBe(32 * (cols / 32) * (20 + 34 + 34));
  });

  it.each([
    [1, 32, 1],
    [1, 576, 70],
    [2, 64, 33],
    [5, 96, 40],
    [12, 160, 16],
    [25, 224, 50],
    [40, 288, 130],
    [3, 4128, 20],
  ])('products [%i, %i] x [%i] match double precision', (rows, cols, outputs) => {
    const x = randomArray(rows * cols, 1);
    x.fill(0, 0, BLOCK);
    const a = f32Source(randomArray(outputs * cols, 2), outputs, cols);
    const b = f32Source(randomArray(outputs * cols, 3), outputs, cols);
    const norm = randomArray(cols, 4).map((value) => value + 1.5);
    const bias = randomArray(outputs, 5);
    const inputs = roundInputs(x);
    for (const format of quantisedFormats) {
      const wa = unpack(backend, [a], format);
      const wb = unpack(backend, [b], format);
      using plain = backend.weight([a], { format });
      using gated = backend.weight([a, b], { format, gated: true });
      const ya = product(inputs, wa, rows, outputs, cols);
      const yb = product(inputs, wb, rows, outputs, cols);

      const out = poisoned(backend, rows * outputs + 3);
      backend.linear(out, tensorOf(backend, x), plain, rows, { bias: tensorOf(backend, bias) });
      for (let i = 0; i < rows * outputs; ++i) {
        const expected = ya.sums[i]! + bias[i % outputs]!;
        expectWithin(out.host[i]!, expected, FLOAT_ERROR * (ya.sizes[i]! + 1));
      }
      expect([...out.host.slice(rows * outputs)]).toEqual([Number.NaN, Number.NaN, Number.NaN]);

      backend.linearGated(out, tensorOf(backend, x), gated, rows);
      for (let i = 0; i < rows * outputs; ++i) {
        const silu = ya.sums[i]! / (1 + Math.exp(-ya.sums[i]!));
        const size = 1.1 * ya.sizes[i]! * Math.abs(yb.sums[i]!) + Math.abs(silu) * yb.sizes[i]!;
        expectWithin(out.host[i]!, silu * yb.sums[i]!, FLOAT_ERROR * size + 1e-30);
      }

      // With the norm an input may round to the neighbouring integer, half a step away.
      backend.linear(out, tensorOf(backend, x), plain, rows, {
        norm: { weight: tensorOf(backend, norm), epsilon: 1e-5 },
      });
      const normed = rmsNorm(x, norm, rows, 1e-5);
      const yn = product(normed, wa, rows, outputs, cols);
      for (let i = 0; i < rows * outputs; ++i) {
        expectWithin(out.host[i]!, yn.sums[i]!, 1e-4 * yn.sizes[i]!);
      }
    }
  });

  it('products with blocks of a file match double precision, and rows alone and together have the same bits', () => {
    for (const type of ['q8_0', 'q4_0', 'q4_1', 'q4_k', 'q6_k'] as const) {
      const { source } = blocksOf(type);
      const { rows: outputs, cols } = source;
      const values = unpack(backend, [source], 'q8');
      using weight = backend.weight([source], { format: 'q8' });
      for (const rows of [1, 3, 12, 29]) {
        const x = randomArray(rows * cols, rows);
        const { sums, sizes } = product(roundInputs(x), values, rows, outputs, cols);
        const out = poisoned(backend, rows * outputs);
        backend.linear(out, tensorOf(backend, x), weight, rows);
        for (let i = 0; i < sums.length; ++i) expectWithin(out.host[i]!, sums[i]!, FLOAT_ERROR * (sizes[i]! + 1e-3));
        const last = poisoned(backend, outputs);
        backend.linear(last, tensorOf(backend, x.subarray((rows - 1) * cols)), weight, 1);
        expect([...last.host]).toEqual([...out.host.subarray((rows - 1) * outputs, rows * outputs)]);
      }
    }
  });

  it('sees activations of any size', () => {
    const cols = 96;
    const x = new Float32Array(cols);
    x.fill(3e-38, 0, 32);
    x.fill(1e30, 32, 64);
    x.fill(-2e-20, 64, 96);
    const w = new Float32Array(cols);
    w.fill(1, 0, 64);
    const weight = backend.weight([f32Source(w, 1, cols)], { format: 'q8' });
    const out = poisoned(backend, 1);
    backend.linear(out, tensorOf(backend, x), weight, 1);
    expect(out.host[0]! / 32e30).toBeCloseTo(1, 3);
  });
});
