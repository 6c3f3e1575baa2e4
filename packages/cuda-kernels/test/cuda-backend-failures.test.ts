// The operators against a device that computes nothing: what is allocated when, and what remains after failures at every call.
import { describe, expect, it } from 'vitest';
import { CudaBackend, CudaKernelsError, DeviceLostError, type WeightSource } from '../src/index.js';
import { FakeNative } from './fake-native.js';

const INVALID_VALUE = 1;
const OUT_OF_MEMORY = 2;
const ILLEGAL_ADDRESS = 700;

const random = (rows: number, cols: number): WeightSource => ({ type: 'random', rows, cols, seed: 1, std: 1 });

function setUp() {
  const fake = new FakeNative();
  return { fake, backend: new CudaBackend({ pool: {}, threads: 1 }, fake.native) };
}

/** Weights and products of a few rows and of many; disposes of all that it makes. */
function work(backend: CudaBackend): void {
  using matrix = backend.weight([random(40, 64), random(24, 64)], { format: 'q8' });
  using gated = backend.weight([random(32, 64), random(32, 64)], { format: 'q4', gated: true });
  using norm = backend.vector(random(1, 64));
  for (const rows of [2, 20]) {
    using x = backend.tensor(rows * 64);
    using y = backend.tensor(rows * 64);
    using z = backend.tensor(rows * 32);
    backend.embed(
      x,
      matrix,
      Int32Array.from({ length: rows }, (_, i) => i),
    );
    backend.linear(y, x, matrix, rows, { norm: { weight: norm, epsilon: 1e-5 } });
    backend.linearGated(z, y, gated, rows);
    backend.copyRows(x, y, Int32Array.of(1), 64);
    backend.toHost(x, 64);
    backend.toDevice(x, 64);
  }
}

describe('a backend', () => {
  it('allocates nothing for a tensor before it is used, and for what is in bf16 nothing else', () => {
    const { fake, backend } = setUp();
    using gated = backend.weight([random(32, 64), random(32, 64)], { format: 'bf16', gated: true });
    const x = backend.tensor(64);
    const out = backend.tensor(32);
    const { used } = backend.memory;
    backend.linearGated(out, x, gated, 1);
    expect(backend.memory.used - used).toBe(64 * 4 + 64 * 2 + 32 * 2); // x, x in bf16, out in bf16
    expect(fake.pinned.size).toBe(0);
    expect(out.host.length).toBe(32);
    expect(fake.pinned.size).toBe(1);
    backend[Symbol.dispose]();
    expect([fake.live, fake.problems]).toEqual([0, []]);
  });

  it('weighs weights as it then makes them', () => {
    const { backend } = setUp();
    for (const format of ['bf16', 'q8', 'q4'] as const) {
      const parts = [random(40, 96), random(24, 96)];
      using weight = backend.weight(parts, { format });
      const { bytes, scratch } = backend.weightBytes(parts, { format });
      expect(weight.bytes).toBe(bytes);
      expect(scratch).toBe(format === 'bf16' ? 0 : 64 * 96 * 2);
    }
  });

  it.each([
    ['an error', INVALID_VALUE],
    ['no memory', OUT_OF_MEMORY],
  ])('%s at every call is a typed error, and leaves nothing but scratch memory behind', (_, status) => {
    let calls = 1;
    for (; ; calls += 1) {
      const { fake, backend } = setUp();
      fake.failAt = { calls, status };
      let failed: unknown;
      try {
        work(backend);
      } catch (error) {
        failed = error;
      }
      const done = fake.failAt !== undefined; // there are no more calls
      fake.failAt = undefined;
      if (!done) expect(failed, `call ${calls}`).toBeInstanceOf(CudaKernelsError);
      work(backend);
      const { used } = backend.memory;
      work(backend);
      expect(backend.memory.used, `call ${calls}`).toBe(used);
      backend[Symbol.dispose]();
      expect([fake.live, fake.problems], `call ${calls}`).toEqual([0, []]);
      if (done) break;
    }
    expect(calls).toBeGreaterThan(60);
  });

  it('says that its device is lost', () => {
    const { fake, backend } = setUp();
    expect(backend.failure).toBeUndefined();
    fake.failAt = { calls: 10, status: ILLEGAL_ADDRESS };
    expect(() => work(backend)).toThrow(DeviceLostError);
    expect(backend.failure).toMatch(/lost/);
    expect(() => work(backend)).toThrow(DeviceLostError);
    backend[Symbol.dispose]();
    expect([fake.live, fake.problems]).toEqual([0, []]);
  });
});
