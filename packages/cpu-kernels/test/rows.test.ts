import { describe, expect, it } from 'vitest';
import { CpuBackend } from '../src/index.js';
import { f32Source, formats, paths, poisoned, randomArray, tensorOf, toBf16 } from './helpers.js';

describe.each(paths)('%s', (isa) => {
  const backend = new CpuBackend({ isa, threads: 2 });

  it.each(formats)('embed takes rows of a packed %s matrix', (format) => {
    const [vocab, hidden] = [67, 40];
    const values = randomArray(vocab * hidden, 1);
    using table = backend.weight([f32Source(values, vocab, hidden)], { format });
    const tokens = Int32Array.of(66, 0, 31, 32, 33, 0, 64);
    const out = poisoned(backend, tokens.length * hidden + 1);
    backend.embed(out, table, tokens);
    for (const [i, token] of tokens.entries()) {
      const row = values.slice(token * hidden, (token + 1) * hidden);
      expect(out.host.slice(i * hidden, (i + 1) * hidden)).toEqual(format === 'bf16' ? row.map(toBf16) : row);
    }
    expect(out.host[tokens.length * hidden]).toBeNaN();
  });

  it.each([8, 80, 128])('ropeTable and rope rotate pairs of headDim %i', (headDim) => {
    const half = headDim / 2;
    const [heads, stride, scale] = [3, 3 * headDim + 24, 1.25];
    const positions = Int32Array.of(0, 1, 77, 8191, 100_000);
    const rows = positions.length;
    const frequencies = Float32Array.from({ length: half }, (_, j) => 10_000 ** (-j / half));
    const table = poisoned(backend, rows * headDim);
    backend.ropeTable(table, positions, frequencies, scale);
    const values = randomArray(rows * stride, 2);
    const x = tensorOf(backend, values);
    backend.rope(x, table, { rows, stride, heads, headDim });
    for (let row = 0; row < rows; ++row) {
      for (let j = 0; j < half; ++j) {
        const angle = Math.fround(positions[row]! * frequencies[j]!);
        const [cosine, sine] = [Math.cos(angle) * scale, Math.sin(angle) * scale];
        expect(table.host[row * headDim + j]).toBeCloseTo(cosine, 6);
        expect(table.host[row * headDim + half + j]).toBeCloseTo(sine, 6);
        for (let head = 0; head < heads; ++head) {
          const at = row * stride + head * headDim + j;
          const [a, b] = [values[at]!, values[at + half]!];
          expect(x.host[at]).toBeCloseTo(a * cosine - b * sine, 5);
          expect(x.host[at + half]).toBeCloseTo(b * cosine + a * sine, 5);
        }
      }
      // What follows the rotated heads (keys, values) stays.
      const rest = row * stride + heads * headDim;
      expect(x.host.slice(rest, (row + 1) * stride)).toEqual(values.slice(rest, (row + 1) * stride));
    }
  });

  it('rope of many rows is the rope of each', () => {
    const [rows, heads, headDim] = [300, 4, 64];
    const table = backend.tensor(rows * headDim);
    backend.ropeTable(
      table,
      Int32Array.from({ length: rows }, (_, i) => i),
      randomArray(headDim / 2, 3),
      1,
    );
    const values = randomArray(rows * heads * headDim, 4);
    const all = tensorOf(backend, values);
    backend.rope(all, table, { rows, stride: heads * headDim, heads, headDim });
    for (const row of [0, 17, 299]) {
      const one = tensorOf(backend, values.slice(row * heads * headDim, (row + 1) * heads * headDim));
      const oneTable = tensorOf(backend, table.host.slice(row * headDim, (row + 1) * headDim));
      backend.rope(one, oneTable, { rows: 1, stride: heads * headDim, heads, headDim });
      expect(all.host.slice(row * heads * headDim, (row + 1) * heads * headDim)).toEqual(one.host);
    }
  });

  it('copyRows copies rows', () => {
    const x = tensorOf(backend, randomArray(9 * 5, 5));
    const out = poisoned(backend, 3 * 5 + 1);
    backend.copyRows(out, x, Int32Array.of(8, 0, 8), 5);
    expect(out.host.slice(0, 15)).toEqual(
      Float32Array.of(...x.host.slice(40), ...x.host.slice(0, 5), ...x.host.slice(40)),
    );
    expect(out.host[15]).toBeNaN();
  });
});
