import { isDeepStrictEqual } from 'node:util';
import { describe, expect, it } from 'vitest';
import { SimHashProjection, SimHashTables } from '../src/index.js';
import { normals } from './reference.js';

const dim = 4;
const sizes = [1, 100, 8192, 70_000]; // the last is more than a part of a segment
const keys = normals(1, 70_000 * dim);
const queries = normals(2, 8 * dim);
const heads = [0, 2, 3]; // of four; head 1 stays empty

/** Ids of the first n rows of `codes` that equal `code` in at least `least` places, by counting. */
function counted(codes: Uint16Array, code: Uint16Array, n: number, least: number): number[] {
  const tables = code.length;
  const ids: number[] = [];
  for (let id = 0, at = 0; id < n; id++, at += tables) {
    let equal = 0;
    for (let t = 0; t < tables; t++) if (codes[at + t] === code[t]) equal++;
    if (equal >= least) ids.push(id);
  }
  return ids;
}

const grid = [1, 4, 8, 10, 12, 16].flatMap((bits) => [1, 50, 150, 300].map((tables) => ({ bits, tables })));

describe('candidates equal a count over all codes', () => {
  it.each(grid)('$bits bits, $tables tables', ({ bits, tables }) => {
    let state = bits * 1000 + tables;
    const random = (below: number) => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
      return Math.floor((state / 2 ** 32) * below);
    };
    const projection = new SimHashProjection({ dim, bits, tables, seed: bits });
    const codes = projection.hash(keys);
    // With few bits nearly all keys share a bucket in some table: ask for more than chance gives.
    const minCollisions = Math.min(tables, bits === 1 ? Math.ceil(0.8 * tables) : 2);
    using index = new SimHashTables({ heads: 4, dim, projection, minCollisions, center: 'none', threads: 2 });
    const check = (tables: SimHashTables, head: number) => {
      const query = queries.subarray(random(8) * dim).subarray(0, dim);
      const expected = counted(codes, projection.hash(query), tables.length(head), minCollisions);
      expect(isDeepStrictEqual(tables.query(head, query), Uint32Array.from(expected))).toBe(true);
    };
    const grow = (tables: SimHashTables, head: number, to: number) => {
      for (let from = tables.length(head); from < to; from = tables.length(head)) {
        // One key, some, or all that are missing.
        const count = Math.min(to - from, [1, 1 + random(300), 1 + random(20_000), to - from][random(4)]!);
        tables.add(head, keys.subarray(from * dim, (from + count) * dim));
      }
    };
    for (const head of [0, 1]) check(index, head);
    for (const size of sizes) {
      // Heads grow in turns; only one of them to the end.
      for (const head of size <= 8192 ? heads : [2]) grow(index, head, size);
      for (const head of size <= 8192 ? heads : [2]) check(index, head);
    }
    using read = SimHashTables.fromBuffer(index.toBuffer(), { projection, threads: 2 });
    check(read, 3);
    check(read, 1);
    index.truncate(2, random(8000));
    check(index, 2);
    read.truncate(2, 66_000 + random(3000));
    check(read, 2);
    read.truncate(2, random(8000));
    check(read, 2);
    grow(read, 2, 8192);
    check(read, 2);
  });
});
