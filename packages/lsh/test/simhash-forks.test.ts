import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { CorruptFileError, DisposedError, NonFiniteError, ReadOnlyError, SimHashTables } from '../src/index.js';
import { candidates, normals, Reference } from './reference.js';

const SHAPE = { dim: 6, bits: 4, tables: 10, seed: 3 };
const HEADS = 2;
const reference = new Reference(SHAPE);

/** What tables should hold, in the plainest form. */
interface Model {
  /** Of each head: its centre once it has one, and the codes of its keys. */
  heads: { centre?: Float32Array; codes: number[][] }[];
}

const emptyModel = (): Model => ({ heads: Array.from({ length: HEADS }, () => ({ codes: [] })) });

/** Keys from a pool whose codes around a centre are computed once. */
const POOL = normals(5, 400 * SHAPE.dim).map((value, i) => value + (i % 3));
const key = (i: number) => POOL.subarray(i * SHAPE.dim, (i + 1) * SHAPE.dim);
const known = new Map<string, number[]>();
function codesOf(i: number, centre: Float32Array): number[] {
  const name = `${i} ${centre.join()}`;
  const codes = known.get(name) ?? reference.codes(key(i), centre);
  known.set(name, codes);
  return codes;
}

describe('forks of tables', () => {
  // Forks of forks, of loaded tables and of views, that are added to, cut, cleared and disposed of in any order.
  it.each([1, 2, 3, 4, 5])('are as independent lists of keys, seed %i', (seed) => {
    let state = seed;
    const random = (below: number) => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return Math.floor((state / 2 ** 32) * below);
    };
    const folder = mkdtempSync(join(tmpdir(), 'simhash-forks-'));
    const live = [{ tables: new SimHashTables({ heads: HEADS, ...SHAPE, threads: 2 }), model: emptyModel() }];
    try {
      for (let step = 0; step < 60; step++) {
        const at = random(live.length);
        const { tables, model } = live[at]!;
        const head = random(HEADS);
        const { codes } = model.heads[head]!;
        const action = random(10);
        if (action === 0) {
          live.push({ tables: tables.fork(), model: structuredClone(model) });
        } else if (action === 1 && live.length > 1) {
          tables[Symbol.dispose]();
          live.splice(at, 1);
        } else if (action === 2 && random(4) === 0) {
          tables.clear();
          live[at]!.model = emptyModel();
        } else if (action === 3) {
          const length = random(codes.length + 1);
          tables.truncate(head, length);
          codes.length = length;
        } else if (action === 4) {
          const path = join(folder, `${step}`);
          tables.save(path);
          using view = SimHashTables.view(path, { projection: tables.projection });
          const loaded = SimHashTables.load(path, { projection: tables.projection });
          live.push({ tables: random(2) === 0 ? view.fork() : loaded, model: structuredClone(model) });
        } else {
          const ids = Array.from({ length: 1 + random(random(3) === 0 ? 2000 : 100) }, () => random(400));
          const keys = Float32Array.from(ids.flatMap((i) => Array.from(key(i))));
          tables.add(head, keys);
          model.heads[head]!.centre ??= Reference.mean(keys, SHAPE.dim);
          for (const i of ids) codes.push(codesOf(i, model.heads[head]!.centre!));
        }
        for (const { tables, model } of live) {
          for (const [h, { centre, codes }] of model.heads.entries()) {
            expect(tables.length(h)).toBe(codes.length);
            expect(tables.centre(h)).toEqual(centre ?? new Float32Array(SHAPE.dim));
            const query = key(random(400));
            expect(Array.from(tables.query(h, query))).toEqual(candidates(codes, reference.codes(query), 2));
          }
        }
        if (live.length > 6) live.shift()!.tables[Symbol.dispose]();
      }
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('share their memory, which is counted once', () => {
    const options = { heads: 1, dim: 16, bits: 6, tables: 50, threads: 1 };
    using empty = new SimHashTables(options);
    const tables = new SimHashTables(options);
    tables.add(0, normals(1, 5000 * 16));
    const alone = tables.bytes;
    const tableBytes = 5000 * 2 * 50;
    const forks = [tables.fork(), tables.fork()];
    const bytes = () => [tables, ...forks].reduce((sum, each) => sum + each.bytes, 0);
    // Beyond what the first has, no more than forks cost that have no keys; norms are a fiftieth.
    expect(bytes()).toBeGreaterThanOrEqual(alone);
    expect(bytes()).toBeLessThan(alone + 2 * empty.bytes + 0.1 * tableBytes);
    expect(tables.bytes).toBeLessThan(0.45 * alone);
    // A few keys more do not touch what is shared; cutting it copies.
    forks[0]!.add(0, normals(2, 10 * 16));
    expect(bytes()).toBeLessThan(alone + 3 * empty.bytes + 0.15 * tableBytes);
    forks[1]!.truncate(0, 3000);
    expect(bytes()).toBeGreaterThan(alone + 0.55 * tableBytes);
    forks[0]![Symbol.dispose]();
    forks.shift();
    forks[0]![Symbol.dispose]();
    expect(tables.bytes).toBe(alone);
    tables[Symbol.dispose]();
    expect(() => tables.fork()).toThrow(DisposedError);
  });

  it('have the options of what they were made from', () => {
    const center = Float32Array.of(1, 2, 3, 4);
    using tables = new SimHashTables({ heads: 1, dim: 4, bits: 3, tables: 9, minCollisions: 3, center, threads: 1 });
    using fork = tables.fork();
    expect(fork.projection).toBe(tables.projection);
    expect([fork.heads, fork.dim, fork.bits, fork.tables, fork.minCollisions, fork.readOnly]).toEqual([
      1,
      4,
      3,
      9,
      3,
      false,
    ]);
    expect(fork.centre(0)).toEqual(center);
    const keys = normals(1, 40 * 4);
    tables.add(0, keys);
    fork.add(0, keys);
    expect(fork.toBuffer()).toEqual(tables.toBuffer());
    expect(() => fork.add(0, Float32Array.of(Number.NaN, 0, 0, 0))).toThrow(NonFiniteError);
    expect(fork.toBuffer()).toEqual(tables.toBuffer());
  });

  it('of a view can be changed, the view not, and the file stays as it is', () => {
    const folder = mkdtempSync(join(tmpdir(), 'simhash-forks-'));
    const path = join(folder, 'tables');
    try {
      using tables = new SimHashTables({ heads: 2, dim: 8, bits: 5, tables: 20, threads: 1 });
      tables.add(0, normals(1, 3000 * 8));
      tables.add(0, normals(2, 100 * 8));
      tables.add(1, normals(3, 50 * 8));
      tables.save(path);
      const bytes = tables.toBuffer();
      const view = SimHashTables.view(path);
      const fork = view.fork();
      expect(() => view.add(0, normals(4, 8))).toThrow(ReadOnlyError);
      view[Symbol.dispose]();
      for (const each of [fork, tables]) {
        each.add(0, normals(4, 2500 * 8));
        each.truncate(1, 20);
        each.add(1, normals(5, 30 * 8));
        each.truncate(0, 2000);
        each.add(0, normals(6, 10 * 8));
      }
      for (let i = 0; i < 20; i++) {
        for (const head of [0, 1]) expect(fork.query(head, normals(i, 8))).toEqual(tables.query(head, normals(i, 8)));
      }
      expect(SimHashTables.load(path).toBuffer()).toEqual(bytes);
      fork[Symbol.dispose]();
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('of a damaged view refuse to cut what is damaged; and queries of it do no harm to others', () => {
    const folder = mkdtempSync(join(tmpdir(), 'simhash-forks-'));
    const path = join(folder, 'tables');
    try {
      using tables = new SimHashTables({ heads: 1, dim: 8, bits: 5, tables: 20, threads: 1 });
      tables.add(0, normals(1, 3000 * 8));
      const bytes = tables.toBuffer();
      bytes.fill(0x0f, bytes.length >> 1, (bytes.length >> 1) + 64); // ids of no key
      writeFileSync(path, bytes);
      using view = SimHashTables.view(path);
      using fork = view.fork();
      expect(() => fork.truncate(0, 100)).toThrow(CorruptFileError);
      expect(fork.length(0)).toBe(3000);
      tables.add(0, normals(2, 2000 * 8));
      const queries = Array.from({ length: 200 }, (_, i) => normals(10 + i, 8));
      const before = queries.map((query) => tables.query(0, query));
      for (const [i, query] of queries.entries()) {
        fork.query(0, query);
        expect(tables.query(0, query)).toEqual(before[i]);
      }
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
