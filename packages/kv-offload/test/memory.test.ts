import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type KvStats, KvStore } from '../src/index.js';
import { randomRows, runStep } from './model.js';
import { Random } from './random.js';

const folder = mkdtempSync(join(tmpdir(), 'kv-offload-memory-'));
const library = join(folder, 'libfake-cuda.so');
beforeAll(() => {
  execFileSync(process.env.CC ?? 'cc', [
    '-shared',
    '-fPIC',
    '-o',
    library,
    join(import.meta.dirname, 'fixtures/fake-cuda.c'),
  ]);
});
afterAll(() => rmSync(folder, { recursive: true }));

/** The stats of a store of three slabs in a process of its own, with this driver, and the driver's calls. */
function withDriver(driver: string, fails?: [call: string, code: number]): { stats: KvStats; calls: string[][] } {
  const log = join(folder, `log-${Math.random()}`);
  const program = `
    import { KvStore } from '@magicpig/kv-offload';
    const store = new KvStore({ layers: 32, kvHeads: 8, queryHeads: 8, headDim: 128, threads: 1 });
    store.step([{ sequence: store.open(), tokens: 64 * 8 * 2 + 1 }]);
    console.log(JSON.stringify(store.stats()));
    store[Symbol.dispose]();
    new KvStore({ layers: 1, kvHeads: 1, queryHeads: 1, headDim: 8 }).readBandwidth(1000, 1);`;
  const output = execFileSync(process.execPath, ['--input-type=module', '-e', program], {
    cwd: import.meta.dirname,
    encoding: 'utf8',
    env: {
      ...process.env,
      MAGICPIG_LIBCUDA: driver,
      FAKE_CUDA_LOG: log,
      FAKE_CUDA_FAIL: fails?.[0] ?? '',
      FAKE_CUDA_CODE: String(fails?.[1]),
    },
  });
  const calls = existsSync(log)
    ? readFileSync(log, 'utf8')
        .trim()
        .split('\n')
        .map((line) => line.split(' '))
    : [];
  return { stats: JSON.parse(output), calls };
}

describe('memory of slabs', () => {
  it('is reported as the system gave it', () => {
    const store = new KvStore({ layers: 8, kvHeads: 8, queryHeads: 8, headDim: 64, dtype: 'f32' });
    expect(store.stats()).toMatchObject({ slabs: 0, reservedBytes: 0, hugePageBytes: 0, pinnedBytes: 0, reasons: {} });
    runStep(store, [{ sequence: store.open(), tokens: 300 }], randomRows(store, 300, new Random(1)));
    const { bytes, reservedBytes, hugePageBytes, pinnedBytes, numaNodes, reasons } = store.stats();
    expect(reservedBytes).toBeGreaterThanOrEqual(bytes);
    expect(reservedBytes % 2 ** 21).toBe(0);
    expect(hugePageBytes).toBeLessThanOrEqual(reservedBytes);
    expect(numaNodes.length === 0).toBe(reasons.numa !== undefined);
    expect(pinnedBytes === 0).toBe(reasons.pinned !== undefined);
    store[Symbol.dispose]();
    expect(store.stats()).toMatchObject({ reservedBytes: 0, hugePageBytes: 0, pinnedBytes: 0 });
  });

  it('is registered with CUDA while it is there, and its context released', () => {
    const { stats, calls } = withDriver(library);
    expect(stats).toMatchObject({ slabs: 3, pinnedBytes: stats.reservedBytes });
    expect(stats.reasons.pinned).toBeUndefined();
    const named = (name: string) => calls.filter(([call]) => call === name);
    const registered = named('cuMemHostRegister_v2');
    expect(registered.map(([, , bytes]) => Number(bytes))).toEqual(Array(3).fill(stats.reservedBytes / 3));
    expect(
      named('cuMemHostUnregister')
        .map(([, pointer]) => pointer)
        .sort(),
    ).toEqual(registered.map(([, pointer]) => pointer).sort());
    expect(named('cuCtxPushCurrent_v2')).toHaveLength(6);
    expect(named('cuCtxPopCurrent_v2')).toHaveLength(6);
    expect(named('cuDevicePrimaryCtxRetain')).toEqual([['cuDevicePrimaryCtxRetain', '(nil)', '7']]);
    expect(calls.at(-1)).toEqual(['cuDevicePrimaryCtxRelease_v2', '(nil)', '7']);
  });

  it.each([
    ['cuInit', 100, /cuInit failed with 100 \(no CUDA-capable device is detected\)/],
    ['cuDeviceGet', 101, /cuDeviceGet failed with 101/],
    ['cuDevicePrimaryCtxRetain', 2, /cuDevicePrimaryCtxRetain failed with 2/],
    ['cuCtxPushCurrent_v2', 4, /cuCtxPushCurrent failed with 4/],
    ['cuMemHostRegister_v2', 2, /cuMemHostRegister failed with 2 \(out of memory\)/],
  ])('is plain, with the reason, when %s fails', (call, code, reason) => {
    const { stats, calls } = withDriver(library, [call, code]);
    expect(stats).toMatchObject({ slabs: 3, pinnedBytes: 0 });
    expect(stats.reasons.pinned).toMatch(reason);
    expect(calls.filter(([name]) => name === 'cuMemHostUnregister')).toEqual([]);
  });

  it.each([
    [join(folder, 'nowhere.so'), /There is no CUDA driver: .*nowhere\.so/],
    ['libm.so.6', /libm\.so\.6 is no CUDA driver/],
  ])('is plain, with the reason, when the driver is %s', (driver, reason) => {
    const { stats } = withDriver(driver);
    expect(stats.pinnedBytes).toBe(0);
    expect(stats.reasons.pinned).toMatch(reason);
  });
});
