import { describe, expect, it } from 'vitest';
import {
  InvalidArgumentError,
  inclusionProbability,
  NonFiniteError,
  SimHashIndex,
  type TuneOptions,
  tune,
} from '../src/index.js';
import { normals } from './reference.js';

/** Rows around a few centres, all shifted: what real vectors look like, and what makes even directions a bad guess. */
function clustered(seed: number, rows: number, dim: number): Float32Array {
  const centres = normals(seed + 1000, 8 * dim);
  const shift = normals(seed + 2000, dim);
  return normals(seed, rows * dim).map((value, i) => {
    const row = Math.floor(i / dim);
    return value + 0.8 * centres[(row % 8) * dim + (i % dim)]! + 0.5 * shift[i % dim]!;
  });
}

/** Mean share of the vectors that queries return, over queries and seeds, and its standard error over seeds. */
function measured(
  options: { bits: number; tables: number; minCollisions: number },
  dim: number,
  vectors: Float32Array,
  queries: Float32Array,
  center: 'none' | 'auto' = 'none',
): { share: number; error: number } {
  const shares: number[] = [];
  for (let seed = 0; seed < 12; seed++) {
    const { bits, tables, minCollisions } = options;
    using index = new SimHashIndex({ dim, bits, tables, minCollisions, seed, center, keepVectors: false, threads: 1 });
    index.add(vectors);
    let returned = 0;
    const asked = queries.length / dim;
    for (let i = 0; i < asked; i++) returned += index.query(queries.subarray(i * dim, (i + 1) * dim)).ids.length;
    shares.push(returned / asked / index.length);
  }
  const share = shares.reduce((sum, each) => sum + each, 0) / shares.length;
  const variance = shares.reduce((sum, each) => sum + (each - share) ** 2, 0) / (shares.length - 1);
  return { share, error: Math.sqrt(variance / shares.length) };
}

describe('tune', () => {
  it.each<[number, TuneOptions]>([
    [2, { dim: 2, recall: 0.8, cosine: 0.95 }],
    [16, { dim: 16, budget: 0.05 }],
    [48, { dim: 48, budget: 0.03, minCollisions: 2, cosine: 0.7 }],
    [96, { dim: 96, recall: 0.9, cosine: 0.6, budget: 0.02, minCollisions: 3 }],
  ])('foretells the share read of even directions, dim %i', (dim, options) => {
    const tuning = tune(options);
    const { share, error } = measured(tuning, dim, normals(1, 4000 * dim), normals(2, 60 * dim));
    expect(Math.abs(share - tuning.share)).toBeLessThan(4.5 * error + 0.02 * tuning.share);
    // Narrow enough to tell a proposal from its neighbours.
    expect(error).toBeLessThan(0.2 * tuning.share);
  });

  it.each(['none', 'auto'] as const)('foretells the share read from a sample, center %s', (center) => {
    const dim = 32;
    const vectors = clustered(3, 3000, dim);
    const queries = clustered(3, 40, dim).map((value, i) => value + 0.3 * normals(4, 40 * dim)[i]!);
    const tuning = tune({ dim, budget: 0.08, minCollisions: 2, vectors, queries, center });
    expect(tuning.share).toBeLessThanOrEqual(0.08);
    const { share, error } = measured(tuning, dim, vectors, queries, center);
    expect(Math.abs(share - tuning.share)).toBeLessThan(4.5 * error + 0.02 * tuning.share);
    // These vectors lie closer together than even directions do, which would have foretold far less.
    if (center === 'none') {
      const { bits, tables } = tuning;
      const even = tune({
        dim,
        recall: inclusionProbability(0.5, { bits, tables }) * 0.999,
        cosine: 0.5,
        minCollisions: 2,
      });
      expect(share).toBeGreaterThan(2 * even.share);
    }
  });

  it('takes the vectors as queries, each against the others, without queries', () => {
    const dim = 8;
    // Two rays at a right angle: a vector's own angle to itself must not count.
    const vectors = new Float32Array(4 * dim);
    for (let row = 0; row < 4; row++) vectors[row * dim + row] = row + 1;
    const tuning = tune({ dim, budget: 0.5, cosine: 0.9, vectors });
    const { bits, tables, minCollisions } = tuning;
    expect(tuning.share).toBeCloseTo(inclusionProbability(0, { bits, tables, minCollisions }), 2);
  });

  it('reports the closed form at the cosine', () => {
    const tuning = tune({ dim: 64, budget: 0.02, cosine: 0.65 });
    expect(tuning.recall).toBeCloseTo(inclusionProbability(0.65, tuning), 12);
    expect(tuning.cosine).toBe(0.65);
  });

  it('keeps to the budget with the best recall, and to the recall with the least share', () => {
    const most = { dim: 64, maxTables: 100, minCollisions: 2 };
    const byBudget = tune({ ...most, budget: 0.02, cosine: 0.6 });
    const byRecall = tune({ ...most, recall: 0.9, cosine: 0.6 });
    expect(byBudget.share).toBeLessThanOrEqual(0.02);
    expect(byRecall.recall).toBeGreaterThanOrEqual(0.9);
    // Against all shapes, their shares by integrating sin(theta)^(d - 2) u(theta) in another way.
    const samples = Array.from({ length: 2000 }, (_, i) => -1 + (2 * (i + 0.5)) / 2000);
    const density = samples.map((cosine) => (1 - cosine * cosine) ** ((64 - 3) / 2));
    const total = density.reduce((sum, value) => sum + value, 0);
    for (let bits = 1; bits <= 16; bits++) {
      for (let tables = 2; tables <= 100; tables += 7) {
        const shape = { bits, tables };
        const share = samples.reduce((sum, c, i) => sum + (density[i]! / total) * inclusionProbability(c, shape), 0);
        const recall = inclusionProbability(0.6, shape);
        const collide = samples.reduce(
          (sum, c, i) => sum + (density[i]! / total) * (1 - Math.acos(c) / Math.PI) ** bits,
          0,
        );
        if (tables * collide > 0.99) continue;
        if (share < 0.0199) expect(recall).toBeLessThanOrEqual(byBudget.recall + 1e-9);
        if (recall >= 0.9) expect(share).toBeGreaterThanOrEqual(byRecall.share - 1e-4);
      }
    }
  });

  it('needs as few tables as possible for a budget and a recall', () => {
    const goal = { dim: 128, recall: 0.9, cosine: 0.6, budget: 0.01, minCollisions: 2 };
    const tuning = tune({ ...goal, maxTables: 1000 });
    expect(tuning.recall).toBeGreaterThanOrEqual(0.9);
    expect(tuning.share).toBeLessThanOrEqual(0.01);
    expect(tune({ ...goal, maxTables: tuning.tables })).toEqual(tuning);
    expect(() => tune({ ...goal, maxTables: tuning.tables - 1 })).toThrow(
      /No index of at most \d+ tables returns at most 0.01 of the vectors and finds vectors at cosine 0.6/,
    );
  });

  it('takes by default the cosine that the share exceeds', () => {
    const dim = 24;
    const { cosine } = tune({ dim, budget: 0.1 });
    const vectors = normals(5, 4000 * dim);
    const query = normals(6, dim);
    let above = 0;
    for (let i = 0; i < 4000; i++) {
      const row = vectors.subarray(i * dim, (i + 1) * dim);
      const dot = row.reduce((sum, value, j) => sum + value * query[j]!, 0);
      if (dot > cosine * Math.hypot(...row) * Math.hypot(...query)) above++;
    }
    expect(Math.abs(above / 4000 - 0.1)).toBeLessThan(4.5 * Math.sqrt((0.1 * 0.9) / 4000));
  });

  it('foretells the bytes of the tables', () => {
    const tuning = tune({ dim: 16, budget: 0.05, cosine: 0.8, maxTables: 20 });
    const { bits, tables } = tuning;
    using index = new SimHashIndex({ dim: 16, bits, tables, minCollisions: 1, keepVectors: false, threads: 2 });
    index.add(normals(7, 65_535 * 16));
    const { ids, starts } = index.stats().bytes;
    expect((ids + starts) / 65_535).toBeCloseTo(tuning.bytesPerVector, 9);
  });

  it.each<[string, TuneOptions, RegExp]>([
    ['nothing', { dim: 4 }, /needs a budget/],
    ['recall without an angle', { dim: 4, recall: 0.9 }, /recall needs a cosine/],
    ['a budget of everything', { dim: 4, budget: 1 }, /budget must lie between 0 and 1, not at 1/],
    ['no recall', { dim: 4, recall: 0, cosine: 0.5 }, /recall must lie between 0 and 1, not at 0/],
    ['NaN', { dim: 4, budget: Number.NaN }, /budget must be a number from 0 to 1, not NaN/],
    ['no angle', { dim: 4, budget: 0.1, cosine: 1.5 }, /cosine must be a number from -1 to 1, not 1.5/],
    ['more collisions than tables', { dim: 4, budget: 0.1, maxTables: 3, minCollisions: 4 }, /minCollisions/],
    ['a recall out of reach', { dim: 64, recall: 0.9999, cosine: -0.99 }, /No index of at most 150 tables finds/],
    ['a budget out of reach', { dim: 64, budget: 1e-30 }, /returns at most 1e-30/],
    ['a sample of one', { dim: 4, budget: 0.1, vectors: new Float32Array(4) }, /1 rows; a sample needs two/],
    ['zeros only', { dim: 4, budget: 0.1, vectors: new Float32Array(8) }, /no two vectors with an angle/],
    ['no queries', { dim: 4, budget: 0.1, vectors: normals(1, 8), queries: new Float32Array(0) }, /queries is empty/],
    ['queries alone', { dim: 4, budget: 0.1, queries: normals(1, 8) }, /give vectors too/],
    ['ragged rows', { dim: 4, budget: 0.1, vectors: normals(1, 9) }, /no multiple of dim = 4/],
    ['an unknown centre', { dim: 4, budget: 0.1, center: 'mean' as 'auto' }, /center must be/],
  ])('refuses %s', (_, options, message) => {
    expect(() => tune(options)).toThrow(InvalidArgumentError);
    expect(() => tune(options)).toThrow(message);
  });

  it('refuses NaN in a sample', () => {
    const vectors = normals(1, 8);
    vectors[6] = Number.NaN;
    expect(() => tune({ dim: 4, budget: 0.1, vectors })).toThrow(NonFiniteError);
  });
});
