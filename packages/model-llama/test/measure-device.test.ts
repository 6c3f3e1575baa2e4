// The scripts that measure on a GPU, on the emulated device: they use the built packages, build them before running this.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const path = (name: string) => fileURLToPath(new URL(`../../../${name}`, import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'measure-device-'));
const read = (name: string) => {
  const file = join(folder, `${name}.json`);
  return existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : undefined;
};

describe('measure-device.sh', () => {
  beforeAll(() => {
    const parts = 'check,decode,throughput-16k,prefill';
    const script = path('packages/cuda-kernels/scripts/measure-device.sh');
    const env = { ...process.env, MAGICPIG_EMULATE_DEVICE: '1' };
    execFileSync('bash', [script, '--part', parts, '--results', folder], { env, stdio: 'pipe' });
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  it('finds the answers of the CPU', () => {
    const { device, rows } = read('cuda-check');
    expect(device).toBe('CPU emulation');
    expect(rows.map(({ policy }: { policy: string }) => policy)).toEqual(['dense', 'magicpig']);
    for (const { sameTokens, tokens, largestError } of rows) {
      expect(sameTokens).toBe(tokens);
      expect(largestError).toBeLessThan(2e-2);
    }
  });

  it('measures a token of each policy, and where its time goes', () => {
    const { rows, keys } = read('cuda-decode');
    expect(keys).toBe('shaped');
    expect(rows.map(({ policy }: { policy: string }) => policy)).toEqual(['magicpig', 'sketch', 'dense']);
    const [magicpig, sketch, dense] = rows;
    for (const name of ['stepMs', 'gpuMs', 'transferMs', 'selectMs', 'attendMs', 'idleMs']) {
      expect(magicpig[name], name).toBeGreaterThan(0);
    }
    expect(magicpig.keysReadShare).toBeLessThan(1);
    expect(sketch.keysReadShare).toBeLessThan(1);
    expect(dense.attendMs).toBe(0); // the host has no part in it
  });

  it('compares the best batches of each limit on device memory', () => {
    const { rows, batches, distinctContexts } = read('cuda-throughput-300');
    expect(distinctContexts).toBe(2);
    expect(rows.map(({ vramGiB }: { vramGiB: number }) => vramGiB)).toEqual([1]); // 16 GiB are more than the device has
    const most = (of: { tokensPerSecond: number }[]) => Math.max(...of.map(({ tokensPerSecond }) => tokensPerSecond));
    for (const policy of ['dense', 'magicpig'] as const) {
      expect(batches[policy].map(({ sequences }: { sequences: number }) => sequences)).toEqual([1, 2]);
      expect(rows[0][policy].tokensPerSecond).toBe(most(batches[policy]));
    }
    expect(rows[0].ratio).toBeCloseTo(most(batches.magicpig) / most(batches.dense));
  });

  it('reads a prompt with and without tables', () => {
    const [{ context, readMs, withTablesMs, ratio }] = read('cuda-prefill').rows;
    expect(context).toBe(300);
    expect(ratio).toBe(withTablesMs / readMs);
  });

  it('has its results made into tables', async () => {
    const { deviceTables } = await import(path('benchmarks/device-tables.mjs'));
    const rowsOf = (_: string[], rows: string[][]) => rows.map((cells) => cells.join(' | ')).join('\n');
    expect(deviceTables(() => undefined, rowsOf)).toContain('has not met a GPU');
    const tables = deviceTables((name: string) => read(name.replace('16384', '300')), rowsOf).split('\n\n');
    const { rows } = read('cuda-decode');
    expect(tables.length).toBe(4);
    expect(tables[1]).toContain(`magicpig (10, 150) | ${rows[0].stepMs.toFixed(2)}`);
    expect(tables.join()).not.toMatch(/undefined|NaN/);
  });
});

it('measure-device.sh refuses what it does not know', () => {
  const script = path('packages/cuda-kernels/scripts/measure-device.sh');
  expect(() => execFileSync('bash', [script, '--part', 'nothing'], { stdio: 'pipe' })).toThrow(
    /status 2|Command failed/,
  );
});
