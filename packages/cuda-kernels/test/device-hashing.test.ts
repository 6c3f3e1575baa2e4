// Hashing and tables, beside @magicpig/lsh.
import { SimHashProjection, SimHashTables } from '@magicpig/lsh';
import { expect, it } from 'vitest';
import {
  columnMean,
  projectionLength,
  simhash,
  simhashProjections,
  tableBuild,
  tableBuildWorkspace,
} from '../src/index.js';
import { onDevices } from './on-devices.js';

onDevices((bench) => {
  // The selection of @magicpig/lsh depends on every bit of every code of a key and of a query: equal candidates for many
  // queries mean equal projections, centres, rounded vectors and codes.
  it.each([
    { dim: 64, bits: 8, tables: 40, keys: 300, seed: 1 },
    { dim: 128, bits: 10, tables: 150, keys: 200, seed: 2 ** 40 + 7 },
    { dim: 80, bits: 13, tables: 20, keys: 150, seed: 3 },
  ])(
    'hashes and builds tables as @magicpig/lsh does: $dim dimensions, ($bits, $tables)',
    ({ keys, seed, ...sizes }) => {
      const { device, stream, normals, f32 } = bench;
      const { dim, tables } = sizes;
      // Keys in a narrow cone, as a transformer's are, so that the centre matters.
      const x = normals(keys * dim).map((value, i) => value * (0.5 + (i % 7)) + 2 * Math.sin(i % dim));
      using index = new SimHashTables({ heads: 1, ...sizes, seed, threads: 1 });
      index.add(0, x);

      const dx = f32(x);
      const centre = device.array('f32', dim);
      columnMean(stream, { mean: centre, x: dx, rows: keys, dim });
      expect(centre.read()).toEqual(index.centre(0));
      const projections = device.array('i8', projectionLength(sizes));
      simhashProjections(stream, { out: projections, ...sizes, seed });
      const codes = device.array('u16', keys * tables);
      const inverseNorms = device.array('f32', keys);
      simhash(stream, { codes, inverseNorms, x: dx, rows: keys, centre, projections, layout: 'tables', ...sizes });
      const buckets = 2 ** sizes.bits;
      const starts = device.array('u16', tables * (buckets + 1));
      const ids = device.array('u16', tables * keys);
      const workspace = device.array('u8', tableBuildWorkspace(stream, { keys, ...sizes }));
      tableBuild(stream, { starts, ids, codes, keys, workspace, ...sizes });

      const [hostStarts, hostIds, norms] = [starts.read(), ids.read(), inverseNorms.read()];
      const mean = index.centre(0);
      for (const row of [0, 1, keys - 1]) {
        const norm = Math.hypot(...x.subarray(row * dim, (row + 1) * dim).map((value, i) => value - mean[i]!));
        expect(norms[row]! * norm).toBeCloseTo(1, 5);
      }

      const queries = 24;
      // Near a key each, so that there are candidates.
      const q = normals(queries * dim).map((noise, i) => {
        const row = (Math.floor(i / dim) * 5) % keys;
        return x[row * dim + (i % dim)]! - mean[i % dim]! + noise / 2;
      });
      const queryCodes = device.array('u16', queries * tables);
      simhash(stream, { codes: queryCodes, x: f32(q), rows: queries, projections, ...sizes });
      const hostCodes = queryCodes.read();
      let candidates = 0;
      for (let query = 0; query < queries; ++query) {
        const collisions = new Uint16Array(keys);
        for (let t = 0; t < tables; ++t) {
          const bucket = t * (buckets + 1) + hostCodes[query * tables + t]!;
          for (let i = hostStarts[bucket]!; i < hostStarts[bucket + 1]!; ++i) ++collisions[hostIds[t * keys + i]!]!;
        }
        const chosen = [...collisions.keys()].filter((id) => collisions[id]! >= 2);
        expect(chosen).toEqual([...index.query(0, q.subarray(query * dim, (query + 1) * dim))]);
        candidates += chosen.length;
      }
      expect(candidates).toBeGreaterThan(20);
    },
  );

  it.each(['gaussian', 'hadamard'] as const)('gives every code of @magicpig/lsh: %s', (projection) => {
    const { device, stream, normals, f32 } = bench;
    for (const [dim, bits, tables, rows] of [
      [64, 10, 40, 60],
      [80, 16, 9, 50],
      [128, 12, 20, 40],
      [256, 7, 30, 30],
    ] as const) {
      const sizes = { dim, bits, tables, projection };
      const x = normals(rows * dim).map((value, i) => value * (0.5 + (i % 7)));
      const projections = device.array('i8', projectionLength(sizes));
      simhashProjections(stream, { out: projections, ...sizes, seed: 2 ** 50 + dim });
      const codes = device.array('u16', rows * tables);
      simhash(stream, { codes, x: f32(x), rows, projections, ...sizes });
      const expected = new SimHashProjection({ dim, bits, tables, seed: 2 ** 50 + dim, kind: projection }).hash(x);
      const differing = codes.read().reduce((count, code, i) => count + (code === expected[i] ? 0 : 1), 0);
      expect(differing).toBe(0);
    }
  });

  it('counts vectors that are not finite', () => {
    const { device, stream, normals, f32, i32 } = bench;
    const sizes = { dim: 8, bits: 4, tables: 3 };
    const x = normals(5 * 8);
    x[8] = Number.NaN;
    x[31] = Number.POSITIVE_INFINITY;
    const projections = device.array('i8', projectionLength(sizes));
    simhashProjections(stream, { out: projections, ...sizes });
    const codes = device.array('u16', 15);
    const nonFinite = i32([0]);
    simhash(stream, { codes, nonFinite, x: f32(x), rows: 5, projections, ...sizes });
    expect([...nonFinite.read()]).toEqual([2]);
    expect([...codes.read().subarray(3, 6)]).toEqual([0, 0, 0]);
  });
});
