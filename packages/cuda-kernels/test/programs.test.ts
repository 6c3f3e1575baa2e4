// The programs that need no Node, as far as this machine can run them.
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { isAvailable } from '../src/index.js';

const program = (name: string) => fileURLToPath(new URL(`../build/Release/${name}`, import.meta.url));
const compiled = existsSync(program('kernels-test'));

describe('kernels-test', () => {
  it('passes on the emulator, threads in three orders', () => {
    const output = execFileSync(program('kernels-emulated-test'), ['--quick'], { encoding: 'utf8' });
    expect(output.match(/^0 of \d+ checks failed/gm)).toHaveLength(3);
  }, 180_000);

  // Built where the compiler is GCC, whose instrumentation the emulator's checks of memory need.
  it.skipIf(!existsSync(program('emulator-test')))('runs on an emulator that notices mistakes', () => {
    expect(execFileSync(program('emulator-test'), { encoding: 'utf8' })).toMatch(/^0 of \d+ mistakes/m);
  });

  it.skipIf(!compiled)('was compiled for CUDA; checks the layouts, and the kernels where there is a device', () => {
    const { status, stdout } = spawnSync(program('kernels-test'), { encoding: 'utf8' });
    expect(stdout).toMatch(/^layout +ok$/m);
    expect(status).toBe(isAvailable() ? 0 : 77);
  });
});

describe('kernels-bench', () => {
  it.skipIf(!existsSync(program('kernels-bench')) || isAvailable())(
    'was compiled for CUDA, and says that there is no device',
    () => {
      expect(spawnSync(program('kernels-bench')).status).toBe(77);
    },
  );
});

describe('check-device.sh', () => {
  it('checks and measures on the emulated device', () => {
    const folder = mkdtempSync(join(tmpdir(), 'check-device-'));
    try {
      const script = fileURLToPath(new URL('../scripts/check-device.sh', import.meta.url));
      const env = { ...process.env, MAGICPIG_EMULATE_DEVICE: '1' };
      const output = execFileSync('bash', [script, '--results', folder], { encoding: 'utf8', env });
      expect(output).toContain('kernels: passed');
      expect(output).toContain('sanitizers: passed');
      expect(output.match(/^0 of \d+ checks failed/gm)!.length).toBeGreaterThanOrEqual(3 * (3 + 4));
      const { device, ceilings, results } = JSON.parse(readFileSync(join(folder, 'cuda-kernels.json'), 'utf8'));
      expect(device).toBe('CPU emulation');
      expect(ceilings.copyGBs).toBeGreaterThan(0);
      const kernels = new Set(results.map((result: { kernel: string }) => result.kernel));
      for (const name of [
        'rms_norm',
        'linear',
        'gemm',
        'attention_prefill',
        'attention_decode',
        'simhash',
        'table_build',
      ]) {
        expect(kernels).toContain(name);
      }
      for (const result of results) expect(result.milliseconds).toBeGreaterThan(0);
    } finally {
      rmSync(folder, { recursive: true });
    }
  }, 180_000);
});
