import { expect } from 'vitest';
import { type CpuBackend, cpuInfo, type Isa, type Tensor, type WeightFormat, type WeightSource } from '../src/index.js';

/** Every code path this machine can run. */
export const paths: Isa[] = cpuInfo().available;
/** Weights and inputs rounded one by one. */
export const formats: WeightFormat[] = ['f32', 'bf16'];
/** Weights and inputs rounded in blocks. */
export const quantisedFormats: WeightFormat[] = ['q8', 'q4'];

/** A small generator for test data (mulberry32), independent of the package's own. Uniform in [-1, 1). */
export function uniform(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 31 - 1;
  };
}

export function randomArray(length: number, seed: number): Float32Array {
  const next = uniform(seed);
  return Float32Array.from({ length }, next);
}

export function f32Source(data: Float32Array, rows: number, cols: number): WeightSource {
  return { type: 'f32', data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength), rows, cols };
}

const bits = new Uint32Array(1);
const value = new Float32Array(bits.buffer);

/** Nearest bfloat16, ties to even. */
export function toBf16(x: number): number {
  value[0] = x;
  const b = bits[0]!;
  bits[0] = ((b + 0x7fff + ((b >>> 16) & 1)) & 0xffff0000) >>> 0;
  return value[0]!;
}

export function tensorOf(backend: CpuBackend, values: ArrayLike<number>): Tensor {
  const tensor = backend.tensor(values.length);
  tensor.host.set(values);
  return tensor;
}

/** A tensor full of a value that no result may keep. */
export function poisoned(backend: CpuBackend, length: number): Tensor {
  const tensor = backend.tensor(length);
  tensor.host.fill(Number.NaN);
  return tensor;
}

/** x W^T in double precision, and the sum of absolute products, which rounding errors are proportional to. */
export function product(
  x: ArrayLike<number>,
  w: ArrayLike<number>,
  rows: number,
  outputs: number,
  cols: number,
): { sums: Float64Array; sizes: Float64Array } {
  const sums = new Float64Array(rows * outputs);
  const sizes = new Float64Array(rows * outputs);
  for (let r = 0; r < rows; ++r) {
    for (let o = 0; o < outputs; ++o) {
      let sum = 0;
      let size = 0;
      for (let k = 0; k < cols; ++k) {
        const term = x[r * cols + k]! * w[o * cols + k]!;
        sum += term;
        size += Math.abs(term);
      }
      sums[r * outputs + o] = sum;
      sizes[r * outputs + o] = size;
    }
  }
  return { sums, sizes };
}

/** RMSNorm in double precision. */
export function rmsNorm(x: ArrayLike<number>, weight: ArrayLike<number>, rows: number, epsilon: number): Float64Array {
  const cols = weight.length;
  const out = new Float64Array(rows * cols);
  for (let r = 0; r < rows; ++r) {
    let squares = 0;
    for (let k = 0; k < cols; ++k) squares += x[r * cols + k]! ** 2;
    const scale = 1 / Math.sqrt(squares / cols + epsilon);
    for (let k = 0; k < cols; ++k) out[r * cols + k] = x[r * cols + k]! * scale * weight[k]!;
  }
  return out;
}

/** Same bits, so that NaN, -0 and the last place count. */
export function sameBits(a: Float32Array, b: Float32Array): boolean {
  return (
    Buffer.compare(
      Buffer.from(a.buffer, a.byteOffset, a.byteLength),
      Buffer.from(b.buffer, b.byteOffset, b.byteLength),
    ) === 0
  );
}

/** All values of the weight of these sources, row after row. */
export function unpack(backend: CpuBackend, parts: WeightSource[], format: WeightFormat): Float32Array {
  using weight = backend.weight(parts, { format });
  const out = poisoned(backend, weight.rows * weight.cols);
  backend.embed(
    out,
    weight,
    Int32Array.from({ length: weight.rows }, (_, i) => i),
  );
  return out.host.slice();
}

/** Expects a value within an error; NaN is never within. Much cheaper than a matcher, for loops over whole results. */
export function expectWithin(got: number, expected: number, error: number): void {
  if (!(Math.abs(got - expected) <= error)) expect.fail(`${got} is not ${expected} within ${error}`);
}
