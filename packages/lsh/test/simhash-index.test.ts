import { describe, expect, it } from 'vitest';
import {
  DisposedError,
  InvalidArgumentError,
  inclusionProbability,
  NonFiniteError,
  SimHashIndex,
  SimHashProjection,
  UnsupportedError,
} from '../src/index.js';
import { candidates, normals, philox, Reference } from './reference.js';

const rowsOf = (codes: Uint16Array, tables: number) =>
  Array.from({ length: codes.length / tables }, (_, i) => codes.subarray(i * tables, (i + 1) * tables));

describe('SimHashProjection', () => {
  it('hashes as the reference does', () => {
    const shape = { dim: 40, bits: 9, tables: 13, seed: 99 };
    const vectors = normals(5, 70 * 40);
    const codes = new SimHashProjection(shape).hash(vectors);
    const reference = new Reference(shape);
    rowsOf(codes, 13).forEach((row, i) => {
      expect(Array.from(row)).toEqual(reference.codes(vectors.subarray(i * 40, (i + 1) * 40)));
    });
  });

  it.each([
    [64, 4, 40],
    [100, 10, 150],
    [7, 3, 5],
  ])('hadamard: codes follow from dense rotations, dim %i', (dim, bits, tables) => {
    // The same rotations as matrices, without rounding: they may differ only where a projection is nearly zero.
    const size = Math.max(64, 2 ** Math.ceil(Math.log2(dim)));
    const seed = 2 ** 35 + 3;
    const vectors = normals(8, 3 * dim);
    const codes = new SimHashProjection({ dim, bits, tables, seed, kind: 'hadamard' }).hash(vectors);
    let compared = 0;
    for (let row = 0; row < 3; row++) {
      for (let block = 0; block * size < bits * tables; block++) {
        let x = Float64Array.from({ length: size }, (_, i) => (i < dim ? vectors[row * dim + i]! : 0));
        const norm = Math.hypot(...x);
        for (let r = 0; r < 3; r++) {
          const flipped = x.map((value, i) => {
            const word = philox([i >> 7, r, block, 1], [seed % 2 ** 32, Math.floor(seed / 2 ** 32)])[(i & 127) >> 5]!;
            return Math.floor(word / 2 ** (i & 31)) % 2 === 1 ? -value : value;
          });
          x = x.map(
            (_, k) => flipped.reduce((sum, value, i) => sum + (parity(i & k) ? -value : value), 0) / Math.sqrt(size),
          );
        }
        for (let k = 0; k < size && block * size + k < bits * tables; k++) {
          if (Math.abs(x[k]!) < 0.01 * norm) continue;
          const c = block * size + k;
          const code = codes[row * tables + (c % tables)]!;
          expect((code >> Math.floor(c / tables)) & 1).toBe(x[k]! > 0 ? 1 : 0);
          compared++;
        }
      }
    }
    expect(compared).toBeGreaterThan(2.5 * bits * tables);
  });

  it('refuses an unknown kind', () => {
    expect(() => new SimHashProjection({ dim: 4, kind: 'dct' as 'hadamard' })).toThrow(InvalidArgumentError);
  });
});

function parity(bits: number): boolean {
  let odd = false;
  for (let rest = bits; rest; rest &= rest - 1) odd = !odd;
  return odd;
}

describe('SimHashIndex', () => {
  const dim = 32;

  it.each([
    ['gaussian', 'none'],
    ['hadamard', 'none'],
  ] as const)('returns the candidates and collisions of brute force (%s)', (projection, center) => {
    for (const n of [100, 3000]) {
      using index = new SimHashIndex({ dim, bits: 5, tables: 30, projection, center, threads: 2 });
      const vectors = normals(n, n * dim);
      expect(index.add(vectors.subarray(0, 50 * dim))).toBe(0);
      expect(index.add(vectors.subarray(50 * dim))).toBe(50);
      const codes = rowsOf(index.projection.hash(vectors), 30);
      for (const minCollisions of [1, 2, 4]) {
        const query = normals(minCollisions, dim);
        const code = index.projection.hash(query);
        const result = index.query(query, { minCollisions, collisions: true });
        expect(Array.from(result.ids)).toEqual(candidates(codes, code, minCollisions));
        result.ids.forEach((id, i) => {
          expect(result.collisions![i]).toBe(codes[id]!.filter((c, t) => c === code[t]).length);
        });
      }
    }
  });

  it('takes codes instead of vectors', () => {
    const options = { dim, bits: 5, tables: 30, keepVectors: false, threads: 1 };
    using index = new SimHashIndex(options);
    using byCodes = new SimHashIndex(options);
    const vectors = normals(4, 2500 * dim);
    index.add(vectors);
    byCodes.addCodes(index.projection.hash(vectors));
    const query = normals(5, dim);
    expect(byCodes.query(query)).toEqual(index.query(query));
    expect(() => byCodes.addCodes(new Uint16Array(30).fill(32))).toThrow(InvalidArgumentError);
    expect(() => byCodes.addCodes(new Uint16Array(31))).toThrow(InvalidArgumentError);
    expect(byCodes.length).toBe(2500);
    expect(() => byCodes.query(query, { probabilities: true })).toThrow(UnsupportedError);
  });

  it('gives the probability of the closed form', () => {
    using index = new SimHashIndex({ dim, bits: 4, tables: 40, center: 'auto', threads: 1 });
    const vectors = normals(6, 500 * dim).map((value) => value + 1);
    index.add(vectors);
    const query = normals(7, dim);
    const { centre } = index;
    const { ids, probabilities } = index.query(query, { probabilities: true });
    expect(ids.length).toBeGreaterThan(20);
    ids.forEach((id, i) => {
      const key = vectors.subarray(id * dim, (id + 1) * dim).map((value, j) => value - centre[j]!);
      const cosine =
        query.reduce((sum, value, j) => sum + value * key[j]!, 0) / (Math.hypot(...query) * Math.hypot(...key));
      expect(probabilities![i]).toBeCloseTo(inclusionProbability(cosine, { bits: 4, tables: 40 }), 3);
    });
  });

  it('estimates sums without bias', () => {
    const n = 400;
    const vectors = normals(9, n * dim);
    const query = normals(10, dim).map((value) => value * 0.3);
    let exact = 0;
    for (let id = 0; id < n; id++) {
      exact += Math.exp(query.reduce((sum, value, i) => sum + value * vectors[id * dim + i]!, 0));
    }
    const estimates: number[] = [];
    for (let seed = 0; seed < 400; seed++) {
      using index = new SimHashIndex({ dim, bits: 4, tables: 20, seed, threads: 1, minProbability: 1e-9 });
      index.add(vectors);
      estimates.push(index.estimate(query, (_, dot) => Math.exp(dot)).sum);
    }
    const mean = estimates.reduce((sum, value) => sum + value, 0) / estimates.length;
    const variance = estimates.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (estimates.length - 1);
    expect(Math.abs(mean - exact)).toBeLessThan(4 * Math.sqrt(variance / estimates.length));
    // The interval must be narrow enough to see a bias.
    expect(Math.sqrt(variance / estimates.length)).toBeLessThan(0.05 * exact);
  });

  it('finds near neighbours', () => {
    using index = new SimHashIndex({ dim, bits: 4, tables: 80, threads: 1 });
    const vectors = normals(11, 2000 * dim);
    index.add(vectors);
    const query = vectors.slice(77 * dim, 78 * dim);
    const { ids, dots } = index.topK(query, 3);
    expect(ids[0]).toBe(77);
    expect(dots[0]).toBeCloseTo(
      query.reduce((sum, value) => sum + value * value, 0),
      4,
    );
    expect(dots[1]).toBeLessThanOrEqual(dots[0]!);
  });

  it('grows, shrinks and clears', () => {
    using index = new SimHashIndex({ dim, bits: 4, tables: 10, center: 'auto', threads: 1 });
    for (let i = 0; i < 30; i++) index.add(normals(i, 7 * dim));
    expect(index.length).toBe(210);
    index.truncate(100);
    expect(index.length).toBe(100);
    expect(() => index.truncate(101)).toThrow(InvalidArgumentError);
    expect(() => index.add(new Float32Array(dim).fill(Number.NaN))).toThrow(NonFiniteError);
    expect(index.length).toBe(100);
    index.clear();
    expect(index.length).toBe(0);
    index[Symbol.dispose]();
    expect(() => index.length).toThrow(DisposedError);
  });
});
