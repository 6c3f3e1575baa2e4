import { expect, test, vi } from 'vitest';
import { runCommand } from './run-command.js';

interface Findings {
  ok: boolean;
  checks: { name: string; status: string; message: string; details?: Record<string, unknown> }[];
}

test('every part works, and the machine is described', async () => {
  const run = runCommand(['doctor', '--json']);
  const exitCode = await run.exitCode;
  const { ok, checks } = JSON.parse(run.stdout()) as Findings;
  expect(checks.filter(({ status }) => status === 'error')).toEqual([]);
  expect({ ok, exitCode }).toEqual({ ok: true, exitCode: 0 });
  const names = [
    'node',
    'processor',
    'memory',
    'cpu-kernels',
    'kv-offload',
    'lsh',
    'model-llama',
    'cuda',
    'model cache',
  ];
  expect(checks.map(({ name }) => name)).toEqual(names);
  const { details } = checks.find(({ name }) => name === 'cpu-kernels')!;
  expect(details!.available).toContain(details!.isa);
  const memory = checks.find(({ name }) => name === 'memory')!.details as { free: number; total: number };
  expect(memory.free).toBeGreaterThan(0);
  expect(memory.free).toBeLessThanOrEqual(memory.total);
});

test('for people there is one line a part', async () => {
  const run = runCommand(['doctor', '--cache-dir', '/no/such/folder']);
  expect(await run.exitCode).toBe(0);
  expect(run.stdout()).toMatch(/^ok {6}node {9}v\d+/);
  expect(run.stdout()).toMatch(/\nok {6}lsh {10}loads, hashes and finds\n/);
  expect(run.stdout()).toMatch(/model cache {2}\/no\/such\/folder: empty/);
  expect(run.stdout()).toMatch(/\n\nEverything works\.\n$/);
});

test('a GPU that is there is named, and has computed', async () => {
  const actual = await vi.importActual<typeof import('@magicpig/cuda-kernels')>('@magicpig/cuda-kernels');
  const devices = [{ ...new actual.Device({ emulate: true }).properties, name: 'some GPU' }];
  const mock = (add: typeof actual.add) =>
    vi.doMock('@magicpig/cuda-kernels', () => ({
      availability: () => ({ available: true }),
      listDevices: () => devices,
      Device: class extends actual.Device {
        constructor() {
          super({ emulate: true });
        }
      },
      add,
    }));
  mock(actual.add);
  const works = runCommand(['doctor', '--json']);
  await works.exitCode;
  const check = (run: typeof works) =>
    (JSON.parse(run.stdout()) as Findings).checks.find((one) => one.name === 'cuda')!;
  expect(check(works).message).toMatch(/^some GPU \(compute capability .*\): computes, with/);
  expect(check(works).details).toMatchObject({ devices: [{ name: 'some GPU' }] });
  mock(() => {});
  const broken = runCommand(['doctor', '--json']);
  expect(await broken.exitCode).toBe(1);
  vi.doUnmock('@magicpig/cuda-kernels');
  expect(check(broken)).toMatchObject({ status: 'error', message: expect.stringContaining('adds wrongly') });
});

test('an addon that computes nonsense, and one that does not load, make it fail', async () => {
  vi.doMock('@magicpig/lsh', () => ({
    SimHashTables: class {
      add() {}
      query = () => Uint32Array.of(0, 1);
      [Symbol.dispose]() {}
    },
  }));
  vi.doMock('@magicpig/kv-offload', () => {
    throw new Error('libstdc++.so.6: version not found');
  });
  const run = runCommand(['doctor']);
  expect(await run.exitCode).toBe(1);
  vi.doUnmock('@magicpig/lsh');
  vi.doUnmock('@magicpig/kv-offload');
  expect(run.stdout()).toContain('BROKEN  lsh          a query found keys [0,1] instead of [0]');
  expect(run.stdout()).toMatch(/BROKEN {2}kv-offload/);
  expect(run.stdout()).toContain('Broken: kv-offload, lsh.');
});
