import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  InvalidArgumentError,
  NonFiniteError,
  ReadOnlyError,
  SimHashProjection,
  type SimHashSegment,
  SimHashTables,
} from '../src/index.js';
import { normals, Reference } from './reference.js';

const PART = 65_535;

/** Hashes keys around a centre and sorts each table by bucket, as a device does. */
function segmentOf(keys: Float32Array, centre: Float32Array, projection: SimHashProjection): SimHashSegment {
  const { dim, bits, tables } = projection;
  const count = keys.length / dim;
  const centred = keys.map((value, i) => value - centre[i % dim]!);
  const codes = projection.hash(centred);
  const parts = Math.ceil(count / PART);
  const starts: number[] = [];
  const ids = new Uint16Array(tables * count);
  for (let t = 0; t < tables; t++) {
    const buckets = Array.from({ length: 2 ** bits }, () => Array.from({ length: parts }, (): number[] => []));
    for (let i = 0; i < count; i++) buckets[codes[i * tables + t]!]![Math.floor(i / PART)]!.push(i % PART);
    const before = new Array<number>(parts).fill(0);
    let at = t * count;
    for (const bucket of buckets) {
      starts.push(...before);
      for (const [part, keys] of bucket.entries()) {
        ids.set(keys, at);
        at += keys.length;
        before[part]! += keys.length;
      }
    }
    starts.push(...before);
  }
  const inverseNorms = Float32Array.from({ length: count }, (_, i) => {
    const norm = Math.hypot(...centred.subarray(i * dim, (i + 1) * dim));
    return norm > 0 ? 1 / norm : 0;
  });
  return { count, starts: Uint16Array.from(starts), ids, inverseNorms };
}

describe('segments built elsewhere', () => {
  const dim = 8;
  const projection = new SimHashProjection({ dim, bits: 5, tables: 16, seed: 2 });

  // Too few for a segment, one that is enough, several, behind and before keys that are added, of two parts.
  it.each([[[40]], [[3000]], [[1500, 900, 2000]], [[-700, 1200, -30, 500, -2000, 1100]], [[-1, 70_000, -5000]]])(
    'are the same as adding their keys: %j (negative ones are added)',
    (counts) => {
      using added = new SimHashTables({ heads: 2, dim, projection, threads: 2 });
      using adopted = new SimHashTables({ heads: 2, dim, projection, threads: 2 });
      for (const [i, n] of counts.entries()) {
        const keys = normals(i, Math.abs(n) * dim).map((value, at) => value + (at % dim));
        const fresh = added.length(1) === 0;
        added.add(1, keys);
        if (n < 0) {
          adopted.add(1, keys);
        } else {
          const centre = added.centre(1);
          adopted.addSegment(1, { ...segmentOf(keys, centre, projection), ...(fresh && { centre }) });
        }
      }
      expect(adopted.length(1)).toBe(added.length(1));
      expect(adopted.centre(1)).toEqual(added.centre(1));
      for (let i = 0; i < 20; i++) {
        const query = normals(100 + i, dim);
        expect(adopted.query(1, query)).toEqual(added.query(1, query));
      }
      // Also afterwards.
      using fork = adopted.fork();
      for (const each of [added, fork]) {
        each.truncate(1, Math.floor(each.length(1) / 2));
        each.add(1, normals(50, 300 * dim));
      }
      for (let i = 0; i < 20; i++) {
        const query = normals(200 + i, dim);
        expect(fork.query(1, query)).toEqual(added.query(1, query));
      }
    },
  );

  it('are refused when something is wrong with them, and nothing changes', () => {
    using tables = new SimHashTables({ heads: 1, dim, projection, threads: 1 });
    const keys = normals(1, 2000 * dim);
    tables.add(0, keys);
    const before = tables.toBuffer();
    const good = segmentOf(normals(2, 1500 * dim), tables.centre(0), projection);
    const { starts, ids, inverseNorms } = good;
    const changed = <T extends Float32Array | Uint16Array>(array: T, at: number, value: number): T => {
      const copy = array.slice() as T;
      copy[at] = value;
      return copy;
    };
    const bad: [Partial<Record<keyof SimHashSegment, unknown>>, RegExp][] = [
      [{ count: 1499 }, /ids has 24000 values and must have 23984/],
      [{ count: 0 }, /count must be an integer from 1 to 131070, not 0/],
      [{ count: 131_071 }, /count/],
      [{ count: 1.5 }, /count/],
      [{ starts: starts.subarray(1) }, /starts has 527 values and must have 528/],
      [{ starts: Array.from(starts) }, /starts must be a Uint16Array, not Array/],
      [{ ids: new Uint32Array(ids) }, /ids must be a Uint16Array/],
      [{ inverseNorms: new Float32Array(1499) }, /inverseNorms has 1499/],
      [{ inverseNorms: changed(inverseNorms, 7, -1) }, /inverseNorms/],
      [{ inverseNorms: changed(inverseNorms, 7, Number.NaN) }, /inverseNorms/],
      [{ inverseNorms: changed(inverseNorms, 7, Number.POSITIVE_INFINITY) }, /inverseNorms/],
      [{ starts: changed(starts, 0, 1) }, /[Tt]able/],
      [{ starts: changed(starts, 33 * 3 + 32, 1499) }, /[Tt]able/],
      [{ starts: changed(starts, 33 + 5, 65_535) }, /[Tt]able/],
      [{ ids: changed(ids, 10, 1500) }, /[Tt]able/],
      [{ ids: changed(ids, 24_000 - 1, 65_535) }, /[Tt]able/],
      [{ ids: changed(ids, 10, ids[11]!) }, /[Tt]able/],
      [{ ids: ids.map((_, i) => ids[i - (i % 1500) + 1499 - (i % 1500)]!) }, /[Tt]able/],
      [{ centre: new Float32Array(dim) }, /centre is given/],
      [{ centre: new Float32Array(dim - 1) }, /centre has 7 values/],
    ];
    for (const [change, message] of bad) {
      expect(() => tables.addSegment(0, { ...good, ...change } as SimHashSegment)).toThrow(message);
      expect(() => tables.addSegment(0, { ...good, ...change } as SimHashSegment)).toThrow(InvalidArgumentError);
      expect(Buffer.compare(tables.toBuffer(), before)).toBe(0);
    }
    expect(() => tables.addSegment(1, good)).toThrow(/head/);
    expect(() => tables.addSegment(0, { ...good, centre: new Float32Array(dim).fill(Number.NaN) })).toThrow(
      NonFiniteError,
    );
    tables.addSegment(0, good);
    expect(tables.length(0)).toBe(3500);
  });

  it('bring the centre of a head that has none', () => {
    const keys = normals(3, 1200 * dim);
    const centre = Reference.mean(keys, dim);
    const segment = segmentOf(keys, centre, projection);
    using auto = new SimHashTables({ heads: 1, dim, projection, threads: 1 });
    expect(() => auto.addSegment(0, segment)).toThrow(/centre is missing/);
    expect(auto.length(0)).toBe(0);
    auto.addSegment(0, { ...segment, centre });
    expect(auto.centre(0)).toEqual(centre);
    auto.truncate(0, 0);
    auto.addSegment(0, segment); // the centre stays
    expect(auto.length(0)).toBe(1200);
    for (const center of ['none', centre] as const) {
      using tables = new SimHashTables({ heads: 1, dim, projection, center, threads: 1 });
      expect(() => tables.addSegment(0, { ...segment, centre })).toThrow(/centre is given/);
      tables.addSegment(0, segment);
      expect(tables.query(0, normals(4, dim))).toEqual(auto.query(0, normals(4, dim)));
    }
    using view = auto.fork();
    view.addSegment(0, segment);
    expect([view.length(0), auto.length(0)]).toEqual([2400, 1200]);
  });

  it('cannot be added to a view', () => {
    using tables = new SimHashTables({ heads: 1, dim, projection, center: 'none', threads: 1 });
    const segment = segmentOf(normals(5, 20 * dim), new Float32Array(dim), projection);
    tables.addSegment(0, segment);
    const folder = mkdtempSync(join(tmpdir(), 'simhash-segments-'));
    try {
      tables.save(join(folder, 'tables'));
      using view = SimHashTables.view(join(folder, 'tables'));
      expect(() => view.addSegment(0, segment)).toThrow(ReadOnlyError);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
