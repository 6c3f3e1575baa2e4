import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { describe, expect, it } from 'vitest';
import type { Engine, EngineQuery, EngineTables, EngineTablesOptions, KeptVectors } from '../src/engine.js';
import { logInclusionTable } from '../src/log-inclusion-table.js';
import { loadNativeEngine } from '../src/native-engine.js';
import { typescriptEngine } from '../src/typescript-engine.js';
import { philox } from '../src/typescript-engine-projection.js';
import { normals, philox as reference } from './reference.js';

const native = loadNativeEngine();

describe('Philox in 32-bit arithmetic', () => {
  it('draws the published words, and those of arbitrary precision', () => {
    const draw = (counter: number[], key0: number, key1: number) => {
      const words = Uint32Array.from(counter);
      philox(words, key0, key1);
      return Array.from(words);
    };
    const ones = 0xffffffff;
    expect(draw([0, 0, 0, 0], 0, 0)).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
    expect(draw([ones, ones, ones, ones], ones, ones)).toEqual([0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
    expect(draw([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], 0xa4093822, 0x299f31d0)).toEqual([
      0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1,
    ]);
    for (let i = 0; i < 200; i++) {
      const counter = [i * 0x9e3779b9, i, ones - i, i << 20].map((word) => word >>> 0);
      expect(draw(counter, ones - 7 * i, i)).toEqual(reference(counter, [ones - 7 * i, i]));
    }
  });
});

describe('hashing', () => {
  it.each<[boolean, number, number, number, number]>([
    [false, 1, 1, 1, 0],
    [false, 7, 3, 5, 2 ** 40 + 5],
    [false, 200, 16, 33, 2 ** 53 - 1],
    [false, 3000, 5, 20, 1],
    [true, 1, 1, 1, 0],
    [true, 64, 10, 150, 1],
    [true, 200, 16, 33, 2 ** 53 - 1],
    [true, 256, 4, 300, 9],
    [true, 3000, 5, 20, 1],
  ])('gives the codes of the addon: hadamard %s, dim %i, %i bits, %i tables', (hadamard, dim, bits, tables, seed) => {
    const rows = 40;
    const vectors = normals(seed % 1000, rows * dim);
    vectors.fill(0, 0, dim);
    for (let i = 0; i < dim; i++) {
      vectors[dim + i]! *= 2 ** -95;
      vectors[2 * dim + i]! *= 2 ** -101;
      vectors[3 * dim + i]! *= 1e37;
      vectors[4 * dim + i]! *= i % 3 === 0 ? 1e-6 : 1;
    }
    const halves = Uint16Array.from(new Uint32Array(vectors.buffer), (word) => word >>> 16);
    for (const given of [vectors, halves]) {
      const [expected, codes] = [native, typescriptEngine].map((engine) => {
        const out = new Uint16Array(rows * tables);
        engine.createProjection(hadamard, dim, bits, tables, seed).hash(given, out, 1);
        return out;
      });
      expect(codes).toEqual(expected);
    }
  });
});

/** The same tables in both engines, on which every call is made twice and must give the same. */
class Twins {
  readonly both: [EngineTables, EngineTables];

  constructor(make: (engine: Engine) => EngineTables) {
    this.both = [make(native), make(typescriptEngine)];
  }

  same<T>(call: (tables: EngineTables) => T): T {
    const [expected, given] = this.both.map((tables) => {
      try {
        return call(tables);
      } catch (error) {
        return { code: (error as { code: string }).code };
      }
    });
    // To the last bit, and faster than a matcher, which is left to say what differs.
    if (!isDeepStrictEqual(given, expected)) expect(given).toStrictEqual(expected);
    return expected as T;
  }
}

const shape = { dim: 12, bits: 5, tables: 9 };
const logTable = logInclusionTable({ ...shape, minCollisions: 2 });

function makeTables(engine: Engine, options: Partial<EngineTablesOptions> = {}): EngineTables {
  return engine.createTables({
    projection: engine.createProjection(false, shape.dim, shape.bits, shape.tables, 7),
    heads: 3,
    minCollisions: 2,
    minProbability: 1e-4,
    norms: true,
    keep: 'none',
    logTable,
    center: 'auto',
    pool: 2,
    ...options,
  });
}

const questions = (keep: KeptVectors): EngineQuery[] => [
  { minCollisions: 1, collisions: false, dots: false },
  { minCollisions: 2, collisions: true, dots: false },
  ...(keep === 'none'
    ? []
    : [
        { minCollisions: 2, collisions: true, dots: true, logTable },
        { minCollisions: 3, collisions: false, dots: false, logTable },
        { minCollisions: 1, collisions: false, dots: true, nearest: 5 },
        { minCollisions: 1, collisions: false, dots: true, nearest: 100_000 },
      ]),
];

describe('tables', () => {
  it.each<[KeptVectors, 'auto' | 'none' | Float32Array]>([
    ['none', 'auto'],
    ['f32', 'auto'],
    ['bf16', 'none'],
    ['f32', normals(50, 3 * shape.dim)],
    ['bf16', normals(51, 3 * shape.dim)],
  ])('agree with the addon call by call, keeping %s, whatever is done', (keep, center) => {
    const { dim } = shape;
    const twins = new Twins((engine) => makeTables(engine, { keep, center }));
    let seed = 0;
    const ask = (head: number) => {
      const query = normals(++seed, dim);
      for (const what of questions(keep)) twins.same((tables) => tables.query(head, query, what));
      twins.same((tables) => {
        const { segments, listed, occupied, largest, squares } = tables.stats(head);
        return [tables.length(head), tables.centre(head), segments, listed, occupied, largest, squares];
      });
    };
    ask(0);
    for (const [head, rows] of [
      [0, 3],
      [2, 900],
      [0, 1100],
      [0, 1],
      [2, 4000],
      [0, 9000],
      [0, 1500],
      [0, 130_000],
      [0, 2000],
    ] as const) {
      const vectors = normals(++seed, rows * dim);
      twins.same((tables) => tables.add(head, vectors));
      ask(head);
    }
    twins.same((tables) => Buffer.from(tables.toBuffer()));
    // A vector whose values cannot be hashed, in the middle of others.
    const bad = normals(1, 100 * dim);
    bad[50 * dim] = Number.NaN;
    twins.same((tables) => tables.add(2, bad));
    twins.same((tables) => tables.query(2, bad.subarray(50 * dim, 51 * dim), questions(keep)[0]!));
    const halves = Uint16Array.from(new Uint32Array(normals(2, 70 * dim).buffer), (word) => word >>> 16);
    twins.same((tables) => tables.add(1, halves));
    ask(1);
    for (const length of [140_000, 131_070, 131_069, 66_000, 9000, 1400, 700, 0]) {
      twins.same((tables) => tables.truncate(0, length));
      twins.same((tables) => Buffer.from(tables.toBuffer()));
      ask(0);
    }
    twins.same((tables) => tables.clear());
    ask(0);
    ask(2);
  });

  it('take codes as the addon does', () => {
    const twins = new Twins((engine) => makeTables(engine));
    const codes = Uint16Array.from(normals(3, 2000 * shape.tables), (value) => Math.floor(Math.abs(value) * 1000) % 32);
    twins.same((tables) => tables.addCodes(1, codes));
    twins.same((tables) => tables.addCodes(1, Uint16Array.of(1, 2, 3, 4, 5, 6, 7, 8, 32)));
    twins.same((tables) => tables.query(1, normals(4, shape.dim), questions('none')[1]!));
    twins.same((tables) => tables.length(1));
  });

  it('answer batches and into given arrays as the addon does', () => {
    const twins = new Twins((engine) => makeTables(engine, { keep: 'f32' }));
    const { dim } = shape;
    twins.same((tables) => tables.add(0, normals(5, 3000 * dim)));
    const queries = normals(6, 20 * dim);
    for (const what of questions('f32')) {
      twins.same((tables) => tables.queryBatch(0, queries, what));
      for (const room of [0, 7, 5000]) {
        twins.same((tables) => {
          const out = {
            ids: new Uint32Array(room),
            note: 'ignored',
            collisions: undefined,
            ...(what.collisions && { collisions: new Uint16Array(room + 3) }),
            ...(what.dots && { dots: new Float64Array(room + 2) }),
            ...(what.logTable && { probabilities: new Float32Array(room + 1) }),
          };
          return { count: tables.queryInto(0, queries.subarray(dim, 2 * dim), what, out), out };
        });
      }
    }
    twins.same((tables) => tables.queryBatch(0, new Float32Array(0), questions('f32')[2]!));
  });

  it('write the files of the addon, and read them', () => {
    const folder = mkdtempSync(join(tmpdir(), 'magicpig-lsh-'));
    const { dim } = shape;
    for (const keep of ['none', 'f32', 'bf16'] as const) {
      for (const center of ['auto', 'none', normals(50, 3 * dim)] as const) {
        const twins = new Twins((engine) => makeTables(engine, { keep, center, norms: keep !== 'none' }));
        twins.same((tables) => tables.toBuffer());
        twins.same((tables) => tables.add(0, normals(7, 2500 * dim)));
        twins.same((tables) => tables.add(2, normals(8, 10 * dim)));
        const bytes = twins.same((tables) => Buffer.from(tables.toBuffer()));
        twins.both.forEach((tables, i) => {
          const path = join(folder, `${i}`);
          tables.save(path);
          expect(readFileSync(path).equals(bytes)).toBe(true);
        });

        for (const mode of ['load', 'view', 'view-verified'] as const) {
          const read = new Twins((engine) => {
            const file = engine.openTables(join(folder, engine === native ? '1' : '0'));
            expect(file.shape).toMatchObject({ ...shape, heads: 3, keep, minCollisions: 2, minProbability: 1e-4 });
            const { hadamard, seed } = file.shape;
            const projection = engine.createProjection(hadamard, shape.dim, shape.bits, shape.tables, seed);
            return file.tables(projection, logTable, 2, mode);
          });
          for (const what of questions(keep)) read.same((tables) => tables.query(0, normals(9, dim), what));
          read.same((tables) => [
            tables.length(0),
            tables.length(1),
            tables.length(2),
            tables.centre(0),
            tables.centre(1),
          ]);
          if (mode !== 'load') continue;
          read.same((tables) => tables.add(1, normals(10, 30 * dim)));
          read.same((tables) => tables.add(0, normals(11, 30 * dim)));
          read.same((tables) => Buffer.from(tables.toBuffer()));
        }
      }
    }
    rmSync(folder, { recursive: true });
  });
});
