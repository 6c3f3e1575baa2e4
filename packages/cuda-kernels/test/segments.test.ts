// Tables of keys that the device holds, built there, beside those of @magicpig/lsh.
import { SimHashProjection, SimHashTables } from '@magicpig/lsh';
import { describe, expect, it } from 'vitest';
import { CudaBackend, CudaKvCache, DeviceLostError, type SegmentTables } from '../src/index.js';
import { FakeHostCache } from './fake-host-cache.js';
import { FakeNative } from './fake-native.js';
import { randoms } from './randoms.js';

const ILLEGAL_ADDRESS = 700;
const OUT_OF_MEMORY = 2;

/** A cache on the emulated device with random keys in it. */
function filled(shape: { layers: number; kvHeads: number; headDim: number }, tokens: number) {
  const { layers, kvHeads, headDim } = shape;
  const backend = new CudaBackend({ pool: {}, threads: 1, emulate: true });
  const deviceBytes = CudaKvCache.bytesFor(shape, tokens);
  const maxRows = Math.min(tokens, 2048);
  const cache = new CudaKvCache({ backend, ...shape, queryHeads: kvHeads, maxRows, deviceBytes });
  const sequence = cache.open();
  const width = 3 * kvHeads * headDim;
  const tensors = {
    qkv: backend.tensor(maxRows * width),
    rotations: backend.tensor(maxRows * headDim),
    output: backend.tensor(maxRows * kvHeads * headDim),
  };
  const { normals } = randoms(7);
  tensors.rotations.host.forEach((_, i, all) => {
    all[i] = i % headDim < headDim / 2 ? 1 : 0;
  });
  backend.toDevice(tensors.rotations, maxRows * headDim);
  for (let done = 0; done < tokens; done += maxRows) {
    const rows = Math.min(maxRows, tokens - done);
    const step = cache.step([{ sequence, tokens: rows }]);
    for (let layer = 0; layer < layers; layer += 1) {
      // In a narrow cone, as a transformer's keys are, so that the centre matters.
      tensors.qkv.host.set(normals(rows * width).map((value, i) => value + 2 * Math.sin(i % width)));
      backend.toDevice(tensors.qkv, rows * width);
      step.begin(layer, tensors, {}, false);
    }
    step.end();
  }
  return { backend, cache, sequence };
}

function expectSame(
  { cache, sequence }: ReturnType<typeof filled>,
  layer: number,
  kvHead: number,
  range: { begin: number; end: number; meanKeys: number },
  tables: SegmentTables,
) {
  const { begin, end, meanKeys } = range;
  const { dim } = tables;
  const keys = cache.readKeys(sequence, layer, kvHead, begin, end);
  const projection = new SimHashProjection({ ...tables, kind: tables.projection });
  const options = { heads: 1, dim, projection, threads: 1 };
  using expected = new SimHashTables(options);
  expected.add(0, keys.subarray(0, meanKeys * dim));
  expected.add(0, keys.subarray(meanKeys * dim));
  using adopted = new SimHashTables(options);
  const segments = cache.segments(sequence, { layer, kvHead, ...range }, tables)!;
  for (const segment of segments) adopted.addSegment(0, segment);
  expect(adopted.centre(0)).toEqual(expected.centre(0));
  const centre = expected.centre(0);
  let found = 0;
  for (let i = 0; i < 20; i += 1) {
    const near = Math.floor((i / 20) * (end - begin)) * dim;
    const query = keys.subarray(near, near + dim).map((value, j) => value - centre[j]!);
    const ids = expected.query(0, query);
    expect([...adopted.query(0, query)]).toEqual([...ids]);
    found += ids.length;
  }
  expect(found).toBeGreaterThan(20);
  return segments;
}

describe('tables built on the device', () => {
  it.each(['gaussian', 'hadamard'] as const)('are those of @magicpig/lsh: %s', (projection) => {
    const parts = filled({ layers: 2, kvHeads: 2, headDim: 16 }, 1100);
    const tables = { dim: 16, bits: 5, tables: 8, seed: 5, projection };
    const range = { begin: 4, end: 1090, meanKeys: 1000 };
    for (const layer of [0, 1]) {
      for (const kvHead of [0, 1]) expectSame(parts, layer, kvHead, range, tables);
    }
    // Other keys, and other tables.
    expectSame(parts, 1, 0, { begin: 50, end: 1080, meanKeys: 900 }, tables);
    expectSame(parts, 1, 1, range, { ...tables, seed: 6, tables: 6 });
    parts.cache[Symbol.dispose]();
    parts.backend[Symbol.dispose]();
  });

  it('come in segments of 65,535 keys', () => {
    const parts = filled({ layers: 1, kvHeads: 1, headDim: 8 }, 66_000);
    const range = { begin: 4, end: 65_900, meanKeys: 65_600 };
    const tables = { dim: 8, bits: 12, tables: 2, seed: 1, projection: 'gaussian' } as const;
    const segments = expectSame(parts, 0, 0, range, tables);
    expect(segments.map(({ count }) => count)).toEqual([65_535, 361]);
    parts.cache[Symbol.dispose]();
    parts.backend[Symbol.dispose]();
  });

  const SHAPE = { layers: 2, queryHeads: 2, kvHeads: 2, headDim: 16, maxRows: 1200 };
  const TABLES = { dim: 16, bits: 4, tables: 5, seed: 0, projection: 'gaussian' } as const;
  const KEYS = { layer: 1, kvHead: 0, begin: 4, end: 1100, meanKeys: 1000 };

  function fakeCache() {
    const fake = new FakeNative();
    const backend = new CudaBackend({ pool: {}, threads: 1 }, fake.native);
    const host = new FakeHostCache(fake);
    const deviceBytes = 4 * CudaKvCache.bytesFor(SHAPE, 1200);
    const cache = new CudaKvCache({ backend, ...SHAPE, deviceBytes, host });
    const sequence = cache.open();
    const tensors = {
      qkv: backend.tensor(1200 * 6 * 16),
      rotations: backend.tensor(1200 * 16),
      output: backend.tensor(1200 * 2 * 16),
    };
    const run = (tokens: number) => {
      const step = cache.step([{ sequence, tokens }]);
      for (let layer = 0; layer < SHAPE.layers; layer += 1) {
        step.begin(layer, tensors);
        step.finish(layer);
      }
      step.end();
    };
    run(1200);
    fake.forget();
    const dispose = () => {
      cache[Symbol.dispose]();
      backend[Symbol.dispose]();
      return [fake.live, fake.problems];
    };
    return { fake, backend, cache, sequence, run, dispose };
  }
  const KERNELS = ['copyRows', 'columnMean', 'simhash', 'tableBuild'];
  const kernels = (fake: FakeNative) => fake.names.filter((name) => [...KERNELS, 'synchronizeEvent'].includes(name));

  it('are built one head ahead of the one that is waited for', () => {
    const { fake, cache, sequence, run, dispose } = fakeCache();
    cache.segments(sequence, KEYS, TABLES);
    expect(kernels(fake)).toEqual([...KERNELS, ...KERNELS, 'synchronizeEvent']);
    fake.forget();
    cache.segments(sequence, { ...KEYS, kvHead: 1 }, TABLES);
    expect(kernels(fake)).toEqual(['synchronizeEvent']);
    // What was built ahead is of no use for other keys, or once the sequence has gone on.
    cache.segments(sequence, KEYS, TABLES);
    fake.forget();
    cache.segments(sequence, { ...KEYS, kvHead: 1, meanKeys: 900 }, TABLES);
    expect(kernels(fake)).toEqual([...KERNELS, 'synchronizeEvent']);
    cache.segments(sequence, KEYS, TABLES);
    run(1);
    fake.forget();
    cache.segments(sequence, { ...KEYS, kvHead: 1 }, TABLES);
    expect(kernels(fake).slice(-5)).toEqual([...KERNELS, 'synchronizeEvent']);
    expect(dispose()).toEqual([0, []]);
  });

  it('are left to the host where the device lacks the keys, and where there are few', () => {
    const { cache, sequence, dispose } = fakeCache();
    expect(cache.segments(sequence, { ...KEYS, end: 1000 }, TABLES)).toBeUndefined();
    sequence.drop(1);
    expect(cache.segments(sequence, KEYS, TABLES)).toBeUndefined();
    expect(dispose()).toEqual([0, []]);
  });

  it('are left to the host without memory for them, and hold none then', () => {
    for (let calls = 1; ; calls += 1) {
      const { fake, backend, cache, sequence, dispose } = fakeCache();
      const { used, pinned } = backend.memory;
      fake.failAt = { calls, status: OUT_OF_MEMORY };
      const segments = cache.segments(sequence, KEYS, TABLES);
      const done = fake.failAt !== undefined; // there are no more calls
      fake.failAt = undefined;
      if (!done) {
        expect(segments, `call ${calls}`).toBeUndefined();
        expect(backend.memory, `call ${calls}`).toMatchObject({ used, pinned });
        expect(cache.segments(sequence, KEYS, TABLES)).toBeUndefined();
        expect(cache.segments(sequence, { ...KEYS, begin: 40 }, TABLES)).toHaveLength(1);
      }
      expect(dispose(), `call ${calls}`).toEqual([0, []]);
      if (done) break;
      expect(calls).toBeLessThan(200);
    }
  });

  it('are lost with the device', () => {
    const { fake, cache, sequence, dispose } = fakeCache();
    fake.failAt = { calls: 12, status: ILLEGAL_ADDRESS };
    expect(() => cache.segments(sequence, KEYS, TABLES)).toThrow(DeviceLostError);
    expect(() => cache.segments(sequence, KEYS, TABLES)).toThrow(DeviceLostError);
    expect(dispose()).toEqual([0, []]);
  });
});
