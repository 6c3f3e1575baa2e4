import type { Backend, Tensor, Weight, WeightSource } from '../src/backend.js';

interface ReferenceWeight extends Weight {
  /** [rows, cols] */
  readonly values: Float32Array;
}

/** The operators in plain TypeScript: float32 storage, float64 sums. f32 sources only. The independent reference. */
export class ReferenceBackend implements Backend {
  readonly name = 'reference';
  readonly description = 'plain TypeScript';
  readonly threads = 1;
  readonly pool = {};

  tensor(length: number): Tensor {
    return { length, host: new Float32Array(length), [Symbol.dispose]() {} };
  }

  vector(source: WeightSource): Tensor {
    const host = values(source);
    return { length: host.length, host, [Symbol.dispose]() {} };
  }

  weight(parts: WeightSource[]): ReferenceWeight {
    const rows = parts.reduce((sum, part) => sum + part.rows, 0);
    const { cols } = parts[0]!;
    const stacked = new Float32Array(rows * cols);
    let at = 0;
    for (const part of parts) {
      stacked.set(values(part), at);
      at += part.rows * cols;
    }
    return { rows, cols, bytes: stacked.byteLength, values: stacked, [Symbol.dispose]() {} };
  }

  embed(out: Tensor, table: Weight, tokens: Int32Array): void {
    const { values, cols } = table as ReferenceWeight;
    for (const [i, token] of tokens.entries())
      out.host.set(values.subarray(token * cols, (token + 1) * cols), i * cols);
  }

  linear(...[out, x, weight, rows, options = {}]: Parameters<Backend['linear']>): void {
    const { values, rows: outputs, cols } = weight as ReferenceWeight;
    for (let row = 0; row < rows; row += 1) {
      const input = normalised(x, row, cols, options.norm);
      for (let o = 0; o < outputs; o += 1) {
        let sum = options.bias?.host[o] ?? 0;
        for (let i = 0; i < cols; i += 1) sum += input[i]! * values[o * cols + i]!;
        const at = row * outputs + o;
        out.host[at] = options.accumulate ? out.host[at]! + sum : sum;
      }
    }
  }

  linearGated(...[out, x, weight, rows, options = {}]: Parameters<Backend['linearGated']>): void {
    const { values, rows: both, cols } = weight as ReferenceWeight;
    const width = both / 2;
    for (let row = 0; row < rows; row += 1) {
      const input = normalised(x, row, cols, options.norm);
      for (let f = 0; f < width; f += 1) {
        let gate = 0;
        let up = 0;
        for (let i = 0; i < cols; i += 1) {
          gate += input[i]! * values[f * cols + i]!;
          up += input[i]! * values[(width + f) * cols + i]!;
        }
        out.host[row * width + f] = (gate / (1 + Math.exp(-gate))) * up;
      }
    }
  }

  ropeTable(table: Tensor, positions: Int32Array, inverseFrequencies: Float32Array, scale: number): void {
    const half = inverseFrequencies.length;
    for (const [row, position] of positions.entries()) {
      for (const [j, frequency] of inverseFrequencies.entries()) {
        table.host[2 * row * half + j] = Math.cos(position * frequency) * scale;
        table.host[(2 * row + 1) * half + j] = Math.sin(position * frequency) * scale;
      }
    }
  }

  rope(x: Tensor, table: Tensor, shape: { rows: number; stride: number; heads: number; headDim: number }): void {
    const { rows, stride, heads, headDim } = shape;
    const half = headDim / 2;
    for (let row = 0; row < rows; row += 1) {
      for (let head = 0; head < heads; head += 1) {
        for (let j = 0; j < half; j += 1) {
          const at = row * stride + head * headDim + j;
          const [a, b] = [x.host[at]!, x.host[at + half]!];
          const [cos, sin] = [table.host[row * headDim + j]!, table.host[row * headDim + half + j]!];
          x.host[at] = a * cos - b * sin;
          x.host[at + half] = b * cos + a * sin;
        }
      }
    }
  }

  copyRows(out: Tensor, x: Tensor, indices: Int32Array, width: number): void {
    for (const [i, index] of indices.entries()) {
      out.host.set(x.host.subarray(index * width, (index + 1) * width), i * width);
    }
  }

  toHost(): void {}
  toDevice(): void {}
  [Symbol.dispose](): void {}
}

function values(source: WeightSource): Float32Array {
  if (source.type !== 'f32') throw new Error(`the reference takes f32, not ${source.type}`);
  return new Float32Array(source.data.slice().buffer);
}

function normalised(x: Tensor, row: number, cols: number, norm?: { weight: Tensor; epsilon: number }): Float64Array {
  const input = Float64Array.from(x.host.subarray(row * cols, (row + 1) * cols));
  if (!norm) return input;
  const meanSquare = input.reduce((sum, value) => sum + value * value, 0) / cols;
  return input.map((value, i) => (value / Math.sqrt(meanSquare + norm.epsilon)) * norm.weight.host[i]!);
}
