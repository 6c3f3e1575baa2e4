// Hashing, tables and sketches, beside @magicpig/lsh.
import { SimHashTables } from '@magicpig/lsh';
import { expect, it } from 'vitest';
import {
  columnMean,
  projectionLength,
  simhash,
  simhashProjections,
  sketchDraw,
  sketchDrawWorkspace,
  sketchEncode,
  sketchFlips,
  sketchLengths,
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

  it('draws keys by their sketches: unbiased sums, the budget met, the same draws again', () => {
    const { device, stream, normals, f32 } = bench;
    const [keys, dim, steps, budget] = [400, 48, 60, 50];
    const sizes = { dim, bits: 3, kvHeads: 1, capacity: keys, queryHeads: 2 };
    const { codes: codeLength, factors: factorLength, flips: flipLength } = sketchLengths(sizes);
    const [x, q] = [normals(keys * dim), normals(2 * dim)];
    const [codes, factors] = [device.array('i32', codeLength), device.array('u16', factorLength)];
    const flips = device.array('i32', flipLength);
    const centres = device.array('f32', dim);
    columnMean(stream, { mean: centres, x: f32(x), rows: keys, dim });
    sketchFlips(stream, { flips, ...sizes, seed: 5 });
    sketchEncode(stream, { codes, factors, x: f32(x), rows: keys, centre: centres, flips, kvHead: 0, ...sizes });
    const [ids, minusLog] = [device.array('i32', 2 * keys), device.array('f32', 2 * keys)];
    const counts = device.array('i32', 2);
    const workspace = device.array('u8', sketchDrawWorkspace(stream, sizes));
    const dq = f32(q);
    const draw = (step: number) => {
      const arrays = { ids, minusLog, counts, codes, factors, flips, q: dq, centres, workspace };
      sketchDraw(stream, { ...arrays, ...sizes, keys, room: keys, budget, layer: 3, step });
      const count = counts.read()[1]!;
      return {
        ids: [...ids.read().subarray(keys, keys + count)],
        logs: minusLog.read().subarray(keys, keys + count),
      };
    };
    const weights = Array.from({ length: keys }, (_, key) => {
      let score = 0;
      for (let i = 0; i < dim; ++i) score += x[key * dim + i]! * q[dim + i]!;
      return Math.exp(score / Math.sqrt(dim));
    });
    const total = weights.reduce((a, b) => a + b);
    const estimates: number[] = [];
    let drawn = 0;
    for (let step = 0; step < steps; ++step) {
      const sample = draw(step);
      expect(sample.ids.every((id, i) => i === 0 || id > sample.ids[i - 1]!)).toBe(true);
      drawn += sample.ids.length / steps;
      estimates.push(sample.ids.reduce((sum, id, i) => sum + weights[id]! * Math.exp(sample.logs[i]!), 0) / total);
    }
    const mean = estimates.reduce((a, b) => a + b) / steps;
    const error = Math.sqrt(estimates.reduce((sum, value) => sum + (value - mean) ** 2, 0) / steps / steps);
    expect(Math.abs(mean - 1)).toBeLessThan(5 * error);
    expect(Math.abs(drawn - budget)).toBeLessThan(6);
    expect(draw(7).ids).toEqual(draw(7).ids);
    expect(draw(7).ids).not.toEqual(draw(8).ids);
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
