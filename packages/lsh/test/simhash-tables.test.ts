import { describe, expect, it } from 'vitest';
import {
  DisposedError,
  InvalidArgumentError,
  inclusionProbability,
  NonFiniteError,
  SimHashIndex,
  SimHashProjection,
  SimHashTables,
} from '../src/index.js';
import { candidates, normals, philox, Reference } from './reference.js';

describe('the reference itself', () => {
  it('reproduces the published Philox4x32-10 vectors', () => {
    expect(philox([0, 0, 0, 0], [0, 0])).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
    const ones = 0xffffffff;
    expect(philox([ones, ones, ones, ones], [ones, ones])).toEqual([0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
    expect(philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0])).toEqual([
      0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1,
    ]);
  });
});

describe('candidates', () => {
  const shapes = [
    { dim: 8, bits: 1, tables: 1 },
    { dim: 64, bits: 4, tables: 50 },
    { dim: 80, bits: 8, tables: 75, seed: 7 },
    { dim: 128, bits: 10, tables: 150 },
    { dim: 7, bits: 10, tables: 300, seed: 2 ** 40 + 5 },
    { dim: 33, bits: 16, tables: 20 },
  ];

  it.each(shapes)('equal brute force: %o', (shape) => {
    const { dim } = shape;
    const reference = new Reference(shape);
    const minCollisions = Math.min(2, shape.tables);
    using tables = new SimHashTables({ ...shape, heads: 3, minCollisions, threads: 2 });
    const n = 100;
    for (const head of [0, 2]) {
      const keys = normals(head, n * dim).map((value, i) => value + (i % dim));
      const centre = Reference.mean(keys.subarray(0, 40 * dim), dim);
      // First the keys that fix the centre, then one, then the rest.
      tables.add(head, keys.subarray(0, 40 * dim));
      tables.add(head, keys.subarray(40 * dim, 41 * dim));
      tables.add(head, keys.subarray(41 * dim));
      expect(tables.centre(head)).toEqual(centre);
      const codes = Array.from({ length: n }, (_, i) => reference.codes(keys.subarray(i * dim, (i + 1) * dim), centre));
      for (let i = 0; i < 5; i++) {
        const query = normals(1000 + i, dim);
        const expected = candidates(codes, reference.codes(query), minCollisions);
        expect(Array.from(tables.query(head, query))).toEqual(expected);
      }
    }
    expect(tables.length(1)).toBe(0);
    expect(tables.query(1, normals(1, dim)).length).toBe(0);
  });

  // From 256 tables on, collisions are counted in 16 bits; odd lengths leave part of a block of counters unused.
  it.each([256, 300, 1000])('equal a count over the codes, %i tables', (tables) => {
    const dim = 16;
    const bits = 4;
    const projection = new SimHashProjection({ dim, bits, tables, seed: tables });
    for (const n of [1101, 2063, 4099]) {
      const keys = normals(n, n * dim);
      const codes = projection.hash(keys);
      using index = new SimHashIndex({ dim, bits, tables, seed: tables, keepVectors: false, threads: 2 });
      index.addCodes(codes);
      for (const minCollisions of [1, 2, 3, 4, 5, 6, tables >> 2]) {
        for (let i = 0; i < 4; i++) {
          // Every other query opposite to one of the keys, which then collides in no table.
          const query = i % 2 === 0 ? normals(i, dim) : keys.slice(i * dim, (i + 1) * dim).map((value) => -value);
          const code = projection.hash(query);
          const expected: number[] = [];
          for (let id = 0; id < n; id++) {
            let equal = 0;
            for (let t = 0; t < tables; t++) if (codes[id * tables + t] === code[t]) equal++;
            if (equal >= minCollisions) expected.push(id);
          }
          expect(Array.from(index.query(query, { minCollisions }).ids)).toEqual(expected);
        }
      }
    }
  });

  it.each([[5000], [70_000]])('do not depend on how %i keys were added', (n) => {
    const options = { heads: 1, dim: 16, bits: 6, tables: 20, threads: 2, center: 'none' as const };
    const keys = normals(3, n * 16);
    using atOnce = new SimHashTables(options);
    using piecewise = new SimHashTables(options);
    atOnce.add(0, keys);
    for (let at = 0, step = 1; at < n; at += step, step = (step * 7 + 13) % 1500) {
      piecewise.add(0, keys.subarray(at * 16, Math.min(n, at + step) * 16));
      if (at % 3 === 0) {
        const query = normals(at, 16);
        const limit = piecewise.length(0);
        expect(piecewise.query(0, query)).toEqual(atOnce.query(0, query).filter((id) => id < limit));
      }
    }
    expect(piecewise.length(0)).toBe(n);
    for (const cut of [n - 1, n - 700, n - 3000, 4000, 1500, 100, 0]) {
      if (cut > piecewise.length(0)) continue;
      piecewise.truncate(0, cut);
      expect(piecewise.length(0)).toBe(cut);
      const query = normals(cut, 16);
      expect(piecewise.query(0, query)).toEqual(atOnce.query(0, query).filter((id) => id < cut));
    }
    piecewise.add(0, keys.subarray(0, 3000 * 16));
    expect(piecewise.query(0, normals(9, 16))).toEqual(atOnce.query(0, normals(9, 16)).filter((id) => id < 3000));
  });

  // With as many tables as a rotation has coordinates, the bits of a table come from different rotations, as the closed form
  // supposes.
  it.each([
    { kind: 'gaussian', dim: 32, bits: 6, tables: 12, cosines: [0.3, 0.6, 0.8] },
    { kind: 'hadamard', dim: 64, bits: 8, tables: 64, cosines: [0.2, 0.45] },
  ] as const)(
    'include keys as often as the closed form says ($kind)',
    ({ kind, dim, bits, tables: count, cosines }) => {
      const heads = 100;
      const seeds = 60;
      const trials = heads * seeds;
      for (const cosine of cosines) {
        // One key a head, at a fixed angle to that head's query.
        let found = 0;
        for (let seed = 0; seed < seeds; seed++) {
          const projection = new SimHashProjection({ dim, bits, tables: count, seed, kind });
          using tables = new SimHashTables({ heads, dim, projection, center: 'none', threads: 1 });
          for (let head = 0; head < heads; head++) {
            const pair = normals(seed * heads + head, 2 * dim);
            const query = pair.slice(0, dim);
            tables.add(head, atAngle(query, pair.subarray(dim), cosine));
            found += tables.query(head, query).length;
          }
        }
        const u = inclusionProbability(cosine, { bits, tables: count });
        expect(u).toBeGreaterThan(0.05);
        expect(u).toBeLessThan(0.95);
        expect(Math.abs(found / trials - u)).toBeLessThan(4.5 * Math.sqrt((u * (1 - u)) / trials));
      }
    },
  );
});

/** A vector as long as `query` at the given cosine to it, in the plane of the two. */
function atAngle(query: Float32Array, other: Float32Array, cosine: number): Float32Array {
  const dot = query.reduce((sum, value, i) => sum + value * other[i]!, 0);
  const square = query.reduce((sum, value) => sum + value * value, 0);
  const orthogonal = other.map((value, i) => value - (dot / square) * query[i]!);
  const size = Math.sqrt(square / orthogonal.reduce((sum, value) => sum + value * value, 0));
  return query.map((value, i) => cosine * value + Math.sqrt(1 - cosine ** 2) * size * orthogonal[i]!);
}

describe('SimHashTables', () => {
  const make = () => new SimHashTables({ heads: 2, dim: 4, bits: 3, tables: 5, threads: 1 });

  it('shares a projection and counts its bytes apart', () => {
    const projection = new SimHashProjection({ dim: 64, bits: 8, tables: 75 });
    expect(projection.bytes).toBe(2 * 64 * Math.ceil(600 / 16) * 16);
    using a = new SimHashTables({ heads: 90, dim: 64, bits: 8, tables: 75, projection });
    expect(a.projection).toBe(projection);
    expect(a.bytes).toBeLessThan(90 * 8 + 20_000);
    expect(() => new SimHashTables({ heads: 1, dim: 64, bits: 9, projection })).toThrow(InvalidArgumentError);
  });

  it('is smaller than the cache it serves', () => {
    using tables = new SimHashTables({ heads: 1, dim: 16, bits: 10, tables: 150, threads: 2 });
    tables.add(0, normals(1, 32_768 * 16));
    // 2 L bytes a key for the ids, the buckets' starts, and a float32 inverse norm.
    expect(tables.bytes / 32_768).toBeLessThan(314);
  });

  it('refuses NaN and infinities, unharmed', () => {
    using tables = make();
    tables.add(0, Float32Array.of(1, 2, 3, 4));
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      expect(() => tables.add(0, Float32Array.of(1, 1, 1, 1, 0, bad, 0, 0))).toThrow(NonFiniteError);
      expect(() => tables.add(1, Float32Array.of(0, bad, 0, 0))).toThrow(NonFiniteError);
      expect(() => tables.query(0, Float32Array.of(0, bad, 0, 0))).toThrow(NonFiniteError);
    }
    expect(tables.length(0)).toBe(1);
    expect(tables.length(1)).toBe(0);
    tables.add(1, Float32Array.of(3e38, 0, 0, 0));
    expect(() => tables.add(1, Float32Array.of(-3e38, 0, 0, 0))).toThrow(NonFiniteError);
  });

  it('refuses wrong arguments with errors that say what was wrong', () => {
    using tables = make();
    expect(() => tables.add(0, new Float32Array(7))).toThrow(/7 values.*dim = 4/);
    expect(() => tables.add(2, new Float32Array(4))).toThrow(/head must be an integer from 0 to 1, not 2/);
    expect(() => tables.query(0, new Float32Array(3))).toThrow(/3 values; dim is 4/);
    expect(() => tables.add(0, [1, 2, 3, 4] as unknown as Float32Array)).toThrow(
      /must be a Float32Array, or .* not Array/,
    );
    expect(() => tables.truncate(0, 1)).toThrow(InvalidArgumentError);
    const moved = new Float32Array(4);
    structuredClone(moved.buffer, { transfer: [moved.buffer] });
    expect(() => tables.add(0, moved)).toThrow(/detached/);
    expect(() => new SimHashTables({ heads: 1, dim: 4, tables: 1 })).toThrow(/minCollisions/);
    expect(() => new SimHashTables({ heads: 1, dim: 4, bits: 0 })).toThrow(
      /bits must be an integer from 1 to 16, not 0/,
    );
    expect(() => new SimHashTables({ heads: 1, dim: 4, center: 'mean' as 'auto' })).toThrow(/center/);
  });

  it('hashes the zero vector and huge and tiny ones', () => {
    using tables = new SimHashTables({ heads: 1, dim: 4, bits: 3, tables: 5, threads: 1, center: 'none' });
    const key = Float32Array.of(1, -2, 0.5, 3);
    tables.add(0, new Float32Array(4));
    tables.add(
      0,
      key.map((value) => value * 1e37),
    );
    tables.add(
      0,
      key.map((value) => value * 2 ** -90),
    );
    expect(Array.from(tables.query(0, key))).toEqual(expect.arrayContaining([1, 2]));
    expect(Array.from(tables.query(0, new Float32Array(4)))).toContain(0);
  });

  it('clears, and is unusable after disposal', () => {
    const tables = make();
    tables.add(0, Float32Array.of(1, 2, 3, 4));
    tables.clear();
    expect(tables.length(0)).toBe(0);
    expect(tables.centre(0)).toEqual(new Float32Array(4));
    tables[Symbol.dispose]();
    tables[Symbol.dispose]();
    expect(() => tables.length(0)).toThrow(DisposedError);
    expect(() => tables.selector).toThrow(DisposedError);
  });
});
