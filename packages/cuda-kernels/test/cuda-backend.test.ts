// The operators of a Llama on the emulated device, against those of @magicpig/cpu-kernels.
import { CpuBackend } from '@magicpig/cpu-kernels';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CudaBackend, InvalidArgumentError, type Tensor, type WeightFormat, type WeightSource } from '../src/index.js';
import { randoms } from './randoms.js';
import { relativeError } from './relative-error.js';

let cpu: CpuBackend;
let cuda: CudaBackend;

beforeAll(() => {
  cpu = new CpuBackend({ threads: 1 });
  cuda = new CudaBackend({ pool: cpu.pool, threads: cpu.threads, emulate: true });
});
afterAll(() => {
  cuda[Symbol.dispose]();
  cpu[Symbol.dispose]();
});

const both = () => [cpu, cuda] as const;

function filled(backend: CpuBackend | CudaBackend, values: Float32Array): Tensor {
  const tensor = backend.tensor(values.length);
  tensor.host.set(values);
  backend.toDevice(tensor, values.length);
  return tensor;
}

function read(backend: CpuBackend | CudaBackend, tensor: Tensor): Float32Array {
  backend.toHost(tensor, tensor.length);
  return tensor.host.slice();
}

const source = (values: Float32Array, cols: number): WeightSource => ({
  type: 'f32',
  data: new Uint8Array(values.buffer),
  rows: values.length / cols,
  cols,
});

// Weights and inputs are rounded alike, but for the 8-bit inputs that the CPU takes with quantised weights.
const LIMITS: Record<Exclude<WeightFormat, 'f32'>, number> = { bf16: 2e-4, q8: 1.5e-2, q4: 1.5e-2 };

describe.each(['bf16', 'q8', 'q4'] as const)('products, %s', (format) => {
  it.each([1, 5, 16, 17, 40])('are the CPU’s: %d rows', (rows) => {
    const { normals } = randoms(rows);
    const [cols, outputs] = [96, 40];
    const [x, w, bias, norm, before] = [rows * cols, outputs * cols, outputs, cols, rows * outputs].map(normals);
    const results = both().map((backend) => {
      const weight = backend.weight([source(w!, cols)], { format });
      const [input, out] = [filled(backend, x!), filled(backend, before!)];
      backend.linear(out, input, weight, rows, {
        bias: filled(backend, bias!),
        norm: { weight: filled(backend, norm!), epsilon: 1e-5 },
        accumulate: true,
      });
      const first = read(backend, out);
      backend.linear(out, input, weight, rows);
      return [first, read(backend, out)];
    });
    for (const i of [0, 1]) expect(relativeError(results[1]![i]!, results[0]![i]!)).toBeLessThan(LIMITS[format]);
  });

  it.each([1, 16, 33])('gated ones too: %d rows', (rows) => {
    const { normals } = randoms(rows);
    const [cols, width] = [64, 24];
    const [x, gate, up, down] = [rows * cols, width * cols, width * cols, 8 * width].map(normals);
    const results = both().map((backend) => {
      const scaled = (values: Float32Array) => values.map((value) => value / 8);
      const weight = backend.weight([source(scaled(gate!), cols), source(scaled(up!), cols)], { format, gated: true });
      const out = backend.tensor(rows * width);
      backend.linearGated(out, filled(backend, x!), weight, rows);
      // The product that follows reads what this one left, without a look at it in between.
      const last = backend.tensor(rows * 8);
      backend.linear(last, out, backend.weight([source(down!, width)], { format: 'bf16' }), rows);
      return [read(backend, out), read(backend, last)];
    });
    const limit = LIMITS[format] + 8e-3; // the result is kept in bf16
    for (const i of [0, 1]) expect(relativeError(results[1]![i]!, results[0]![i]!)).toBeLessThan(limit);
  });
});

describe('operators', () => {
  it('read embeddings of every format, in stacked and reordered rows', () => {
    const cols = 64;
    const { normals } = randoms(4);
    const rowOrder = Uint32Array.of(3, 1, 0, 2);
    for (const format of ['bf16', 'q8', 'q4'] as const) {
      const parts = [{ ...source(normals(4 * cols), cols), rowOrder }, source(normals(3 * cols), cols)];
      const tables = both().map((backend) => {
        const out = backend.tensor(4 * cols);
        backend.embed(out, backend.weight(parts as WeightSource[], { format }), Int32Array.of(6, 0, 2, 0));
        return read(backend, out);
      });
      expect(relativeError(tables[1]!, tables[0]!)).toBeLessThan(1e-6);
    }
  });

  it('draw the same random weights', () => {
    const recipe = { type: 'random', rows: 7, cols: 40, seed: 77, std: 0.02, mean: 0.5 } as const;
    const drawn = both().map((backend) => {
      const out = backend.tensor(7 * 40);
      backend.embed(
        out,
        backend.weight([recipe], { format: 'bf16' }),
        Int32Array.from({ length: 7 }, (_, i) => i),
      );
      return [read(backend, out), read(backend, backend.vector({ ...recipe, rows: 1 }))];
    });
    expect(relativeError(drawn[1]![1]!, drawn[0]![1]!)).toBeLessThan(1e-6);
    expect(relativeError(drawn[1]![0]!, drawn[0]![0]!)).toBeLessThan(1e-3); // some round to the next bf16
  });

  it('keep the precision of vectors', () => {
    const values = randoms(5).normals(24);
    for (const type of ['f32', 'bf16'] as const) {
      const data = type === 'f32' ? values : Uint16Array.from(new Uint32Array(values.buffer), (bits) => bits >>> 16);
      const part = { type, data: new Uint8Array(data.buffer), rows: 1, cols: 24 };
      const [expected, got] = both().map((backend) => read(backend, backend.vector(part)));
      expect(got).toEqual(expected);
    }
  });

  it('rotate, gather rows, and start from zeros', () => {
    const shape = { rows: 3, stride: 64, heads: 2, headDim: 16 };
    const values = randoms(6).normals(3 * 64);
    const results = both().map((backend) => {
      const table = backend.tensor(3 * 16);
      const frequencies = Float32Array.from({ length: 8 }, (_, j) => 10000 ** (-j / 8));
      backend.ropeTable(table, Int32Array.of(0, 100, 70000), frequencies, 1.5);
      const x = filled(backend, values);
      backend.rope(x, table, shape);
      const out = backend.tensor(3 * 64);
      backend.copyRows(out, x, Int32Array.of(2, 0), 64);
      return [read(backend, table), read(backend, x), read(backend, out)];
    });
    for (const i of [0, 1, 2]) expect(relativeError(results[1]![i]!, results[0]![i]!)).toBeLessThan(1e-4);
    expect(results[1]![2]!.subarray(128).every((value) => value === 0)).toBe(true);
  });

  it('say what does not fit, and keep working', () => {
    const cols = 32;
    const weight = cuda.weight([source(new Float32Array(4 * cols), cols)], { format: 'bf16' });
    const x = cuda.tensor(cols);
    expect(() => cuda.linear(cuda.tensor(3), x, weight, 1)).toThrow(/linear: out holds 3 elements, but 4 are needed/);
    expect(() => cuda.linear(cpu.tensor(4), x, weight, 1)).toThrow(/tensor of another backend/);
    expect(() => cuda.linearGated(cuda.tensor(4), x, weight, 1)).toThrow(/must be made with gated/);
    expect(() => cuda.embed(cuda.tensor(cols), weight, Int32Array.of(4))).toThrow(
      /token must be an integer from 0 to 3/,
    );
    expect(() => cuda.copyRows(cuda.tensor(cols), x, Int32Array.of(1), cols)).toThrow(/index must be/);
    expect(() => cuda.vector(source(new Float32Array(64), 32))).toThrow(/rows must be 1/);
    const weights = (part: object) => () =>
      cuda.weight([{ ...source(new Float32Array(64), 32), ...part }], { format: 'q8' });
    expect(weights({ rows: 3 })).toThrow(/data holds 2 rows of 128 bytes, but row 2 is named/);
    expect(weights({ rowOrder: Uint32Array.of(0, 2) })).toThrow(/row 2 is named/);
    expect(() => cuda.weight([source(new Float32Array(64), 32)], { format: 'f32' })).toThrow(InvalidArgumentError);
    const gone = cuda.tensor(cols);
    gone[Symbol.dispose]();
    expect(() => cuda.linear(cuda.tensor(4), gone, weight, 1)).toThrow(/was disposed of/);
    weight[Symbol.dispose]();
    expect(() => cuda.linear(cuda.tensor(4), x, weight, 1)).toThrow(/was disposed of/);
  });
});
