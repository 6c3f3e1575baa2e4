// What remains of a cache after failures at every call.
import { describe, expect, it } from 'vitest';
import {
  CudaBackend,
  CudaKernelsError,
  CudaKvCache,
  type CudaKvSequence,
  DeviceLostError,
  OutOfMemoryError,
  type Sampling,
} from '../src/index.js';
import { drawn, PAGE, SHAPE, sampled, setUp } from './fake-cache.js';
import { FakeHostCache } from './fake-host-cache.js';
import { FakeNative } from './fake-native.js';

const INVALID_VALUE = 1;
const OUT_OF_MEMORY = 2;
const ILLEGAL_ADDRESS = 700;

describe('failures', () => {
  const scenario = (
    { cache, run, pass }: ReturnType<typeof setUp>,
    kept: { a: CudaKvSequence; b: CudaKvSequence },
    sampling: (layer: number) => Sampling | null = sampled,
  ) => {
    const { a, b } = kept;
    const before = [a.length, b.length];
    try {
      run([{ sequence: a, tokens: 70 }]);
      const groups = [pass([{ sequence: a, tokens: 1, sampling }]), pass([{ sequence: b, tokens: 1, sampling }])];
      try {
        for (let turn = 0; turn <= SHAPE.layers; turn += 1) for (const group of groups) group.next();
      } finally {
        for (const group of groups) group.return();
      }
      using fork = a.fork();
      run([
        { sequence: fork, tokens: 30 },
        { sequence: b, tokens: 1 },
      ]);
    } finally {
      for (const [i, sequence] of [a, b].entries()) if (sequence.length > before[i]!) sequence.truncate(before[i]!);
    }
    return cache;
  };
  const prepared = (options: Parameters<typeof setUp>[0] = {}) => {
    const parts = setUp(options);
    const kept = { a: parts.cache.open(), b: parts.cache.open() };
    parts.run([{ sequence: kept.a, tokens: 40 }]);
    parts.run([{ sequence: kept.b, tokens: 80 }]);
    return { parts, kept };
  };

  it.each([
    ['an error', INVALID_VALUE],
    ['no memory', OUT_OF_MEMORY],
  ])('%s at every call: sequences are as they were, and everything works afterwards', (_, status) => {
    let calls = 1;
    for (; ; calls += 1) {
      const { parts, kept } = prepared();
      parts.fake.failAt = { calls, status };
      let failed: unknown;
      try {
        scenario(parts, kept);
      } catch (error) {
        failed = error;
      }
      const done = parts.fake.failAt !== undefined; // there are no more calls
      parts.fake.failAt = undefined;
      if (!done) expect(failed, `call ${calls}`).toBeInstanceOf(CudaKernelsError);
      expect([kept.a.length, kept.b.length], `call ${calls}`).toEqual([40, 80]);
      expect(
        [...parts.host.open_].map(({ length }) => length),
        `call ${calls}`,
      ).toEqual([40, 80]);
      scenario(parts, kept);
      parts.dispose();
      expect([parts.fake.live, parts.fake.problems], `call ${calls}`).toEqual([0, []]);
      expect(parts.host.open_.size).toBe(0);
      if (done) break;
    }
    expect(calls).toBeGreaterThan(100);
  });

  it.each([
    ['an error', INVALID_VALUE],
    ['no memory', OUT_OF_MEMORY],
  ])('%s at every call where the device draws: the host draws then, or sequences are as they were', (_, status) => {
    let calls = 1;
    for (; ; calls += 1) {
      const { parts, kept } = prepared({ sketchBytes: 2 ** 20 });
      parts.fake.failAt = { calls, status };
      let failed: unknown;
      try {
        scenario(parts, kept, drawn);
      } catch (error) {
        failed = error;
      }
      const done = parts.fake.failAt !== undefined; // there are no more calls
      parts.fake.failAt = undefined;
      if (failed !== undefined) expect(failed, `call ${calls}`).toBeInstanceOf(CudaKernelsError);
      else expect(done || status === OUT_OF_MEMORY, `call ${calls}`).toBe(true);
      expect([kept.a.length, kept.b.length], `call ${calls}`).toEqual([40, 80]);
      scenario(parts, kept, drawn);
      parts.dispose();
      expect([parts.fake.live, parts.fake.problems], `call ${calls}`).toEqual([0, []]);
      expect(parts.host.open_.size).toBe(0);
      if (done) break;
    }
    expect(calls).toBeGreaterThan(150);
  });

  it('a lost device says so at every call from then on, and leaves host memory as it was', () => {
    const { parts, kept } = prepared();
    parts.fake.failAt = { calls: 40, status: ILLEGAL_ADDRESS };
    expect(() => scenario(parts, kept)).toThrow(DeviceLostError);
    expect(parts.backend.failure).toMatch(/Everything on the device is lost/);
    expect(() => scenario(parts, kept)).toThrow(DeviceLostError);
    expect([kept.a.length, kept.b.length]).toEqual([40, 80]);
    expect([...parts.host.open_].map(({ length }) => length)).toEqual([40, 80]);
    parts.dispose();
    expect([parts.fake.live, parts.fake.problems]).toEqual([0, []]);
  });

  it('of the host’s cache leave no step behind', () => {
    for (const call of ['host.step', 'host.append', 'host.attend']) {
      const { parts, kept } = prepared();
      parts.host.failures.set(call, new Error('the host fails'));
      expect(() => scenario(parts, kept)).toThrow('the host fails');
      expect([...parts.host.open_].map(({ length }) => length)).toEqual([40, 80]);
      scenario(parts, kept);
      parts.dispose();
      expect([parts.fake.live, parts.fake.problems]).toEqual([0, []]);
    }
  });

  it('when it is made leave nothing allocated', () => {
    for (let calls = 1; ; calls += 1) {
      const fake = new FakeNative();
      const backend = new CudaBackend({ pool: {}, threads: 2 }, fake.native);
      const { live } = fake;
      fake.failAt = { calls, status: OUT_OF_MEMORY };
      const make = () => new CudaKvCache({ backend, ...SHAPE, deviceBytes: 20 * PAGE, host: new FakeHostCache(fake) });
      try {
        make()[Symbol.dispose]();
      } catch (error) {
        expect(error).toBeInstanceOf(OutOfMemoryError);
      }
      expect(fake.live, `call ${calls}`).toBe(live);
      if (fake.failAt !== undefined) break;
    }
  });
});
