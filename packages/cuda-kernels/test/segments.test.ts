// Tables of keys that the device holds, built there, beside those of @magicpig/lsh.
import { SimHashProjection, SimHashTables } from '@magicpig/lsh';
import { describe, expect, it } from 'vitest';
import { CudaBackend, CudaKernelsError, CudaKvCache, DeviceLostError, type SegmentTables } from '../src/index.js';
import { FakeHostCache } from './fake-host-cache.js';
import { FakeNative } from './fake-native.js';
import { randoms } from './randoms.js';

const INVALID_VALUE = 1;
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
    expect(segments.map(({ count }) => count)).toEqual([65_535, 65, 296]);
    parts.cache[Symbol.dispose]();
    parts.backend[Symbol.dispose]();
  });

  it('end a segment where the mean’s keys end, so that others with the same mean share the memory', () => {
    const { cache, backend, sequence } = filled({ layers: 1, kvHeads: 1, headDim: 16 }, 1800);
    const tables = { dim: 16, bits: 5, tables: 8, seed: 5, projection: 'gaussian' } as const;
    const projection = new SimHashProjection({ ...tables, kind: tables.projection });
    using adopted = new SimHashTables({ heads: 1, dim: 16, projection, threads: 1 });
    const keys = { layer: 0, kvHead: 0, begin: 4, end: 1790, meanKeys: 1536 };
    for (const segment of cache.segments(sequence, keys, tables)!) adopted.addSegment(0, segment);
    const alone = adopted.bytes;
    using fork = adopted.fork();
    fork.truncate(0, keys.meanKeys);
    expect(adopted.bytes + fork.bytes).toBeLessThan(1.5 * alone);
    cache[Symbol.dispose]();
    backend[Symbol.dispose]();
  });

  const SHAPE = { layers: 2, queryHeads: 2, kvHeads: 2, headDim: 16, maxRows: 1200 };
  const TABLES = { dim: 16, bits: 4, tables: 5, seed: 0, projection: 'gaussian' } as const;
  const KEYS = { layer: 1, kvHead: 0, begin: 4, end: 1100, meanKeys: 1000 };

  function fakeCache() {
    const fake = new FakeNative();
    const backend = new CudaBackend({ pool: {}, threads: 1 }, fake.native);
    const host = new FakeHostCache(fake);
    const deviceBytes = 4 * CudaKvCache.bytesFor(SHAPE, 2400);
    const cache = new CudaKvCache({ backend, ...SHAPE, deviceBytes, host });
    const sequence = cache.open();
    const tensors = {
      qkv: backend.tensor(1200 * 6 * 16),
      rotations: backend.tensor(1200 * 16),
      output: backend.tensor(1200 * 2 * 16),
    };
    /** @param beside what the host does while a layer computes */
    const run = (tokens: number, beside = (_layer: number) => {}) => {
      const step = cache.step([{ sequence, tokens }]);
      try {
        for (let layer = 0; layer < SHAPE.layers; layer += 1) {
          step.begin(layer, tensors);
          beside(layer);
          step.finish(layer);
        }
        step.end();
      } catch (error) {
        step.rollback();
        throw error;
      }
    };
    run(1200);
    fake.forget();
    const dispose = () => {
      cache[Symbol.dispose]();
      backend[Symbol.dispose]();
      return [fake.live, fake.problems];
    };
    return { fake, backend, host, cache, sequence, run, dispose };
  }
  /** Of a head with two segments. */
  const KERNELS = ['copyRows', 'columnMean', 'simhash', 'tableBuild', 'simhash', 'tableBuild'];
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
    expect(kernels(fake).slice(-7)).toEqual([...KERNELS, 'synchronizeEvent']);
    expect(dispose()).toEqual([0, []]);
  });

  it('of a layer are built beside the next one, when its keys are written', () => {
    const { fake, cache, sequence, run, dispose } = fakeCache();
    const keys = { ...KEYS, layer: 0, end: 1150 };
    let calls: typeof fake.calls = [];
    run(8, (layer) => {
      if (layer === 0) return;
      const before = fake.calls.length;
      for (const kvHead of [0, 1]) expect(cache.segments(sequence, { ...keys, kvHead }, TABLES)).toHaveLength(2);
      calls = fake.calls.slice(before);
      // Keys that the host is to hash are there too.
      cache.readKeys(sequence, 0, 0, 0, 1);
    });
    const main = fake.calls.find(({ name }) => name === 'ropeSplit')!.args[0];
    const built = calls.filter(({ name }) => KERNELS.includes(name));
    expect(new Set(built.map(({ args }) => args[0])).size).toBe(1);
    expect(built[0]!.args[0]).not.toBe(main);
    // They wait for rows of layer 0 that leave for the host, which follow its keys; nothing waits for what else is queued.
    const [waited] = calls.filter(({ name }) => name === 'waitEvent');
    const events = fake.calls.flatMap(({ name, args }, i) =>
      name === 'recordEvent' && args[0] === waited!.args[1] ? [i] : [],
    );
    const layers = fake.calls.flatMap(({ name }, i) => (name === 'ropeSplit' ? [i] : []));
    expect(events.filter((i) => i > layers[0]! && i < layers[1]!)).toHaveLength(1);
    expect(events.filter((i) => i > layers[1]!)).toEqual([]);
    expect(calls.filter(({ name, args }) => name === 'recordEvent' && args[1] === main)).toEqual([]);
    expect(calls.filter(({ name }) => /^synchronize/.test(name)).map(({ name }) => name)).toEqual([
      'synchronizeEvent',
      'synchronizeEvent',
    ]);
    const host = fake.names.filter((name) => /^host.(append|readKeys)/.test(name));
    expect(host).toEqual(['host.append', 'host.readKeys', 'host.append']);
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
        expect(cache.segments(sequence, { ...KEYS, begin: 40 }, TABLES)).toHaveLength(2);
      }
      expect(dispose(), `call ${calls}`).toEqual([0, []]);
      if (done) break;
      expect(calls).toBeLessThan(200);
    }
  });

  it('fail at any call with an error that says so, and leave host memory as it was', () => {
    for (const status of [INVALID_VALUE, ILLEGAL_ADDRESS]) {
      for (let calls = 1; ; calls += 1) {
        const { fake, host, cache, sequence, run, dispose } = fakeCache();
        const built: number[] = [];
        const build = () => {
          for (const kvHead of [0, 1])
            built.push(cache.segments(sequence, { ...KEYS, layer: 0, kvHead }, TABLES)!.length);
        };
        // While a step is under way, from its second layer on.
        const step = () =>
          run(8, (layer) => {
            if (layer === 0) return;
            fake.failAt ??= { calls, status };
            build();
          });
        let failed: unknown;
        try {
          step();
        } catch (error) {
          failed = error;
        }
        const done = fake.failAt !== undefined; // there are no more calls
        fake.failAt = undefined;
        const lengths = () => [sequence.length, ...[...host.open_].map(({ length }) => length)];
        if (done) expect(lengths()).toEqual([1208, 1208]);
        else {
          expect(failed, `call ${calls}`).toBeInstanceOf(status === INVALID_VALUE ? CudaKernelsError : DeviceLostError);
          expect(lengths(), `call ${calls}`).toEqual([1200, 1200]);
        }
        if (status === ILLEGAL_ADDRESS && !done) expect(build, `call ${calls}`).toThrow(DeviceLostError);
        else if (!done) {
          built.length = 0;
          run(8, (layer) => layer === 1 && build());
          expect(built, `call ${calls}`).toEqual([2, 2]);
        }
        expect(dispose(), `call ${calls}`).toEqual([0, []]);
        if (done) {
          expect(calls).toBeGreaterThan(30);
          break;
        }
      }
    }
  });
});
