import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { CpuBackend, cpuInfo } from '../src/index.js';

/** What a fresh process prints with that limit. The addon reads it when it is loaded. */
function withLimit(limit: string): { output: string; error: string } {
  const script = "import('@magicpig/cpu-kernels').then((m) => console.log(new m.CpuBackend({ threads: 1 }).isa))";
  const result = spawnSync(process.execPath, ['-e', script], {
    cwd: new URL('..', import.meta.url),
    env: { ...process.env, MAGICPIG_ISA: limit },
    encoding: 'utf8',
  });
  return { output: result.stdout.trim(), error: result.stderr };
}

describe('cpuInfo', () => {
  it('describes the processor', () => {
    const info = cpuInfo();
    expect(info.available[0]).toBe('portable');
    expect(info.available).toContain(info.isa);
    expect(info.cores).toBeGreaterThanOrEqual(1);
    if (info.available.includes('avx2')) expect(info.features).toContain('avx2');
  });

  it('obeys MAGICPIG_ISA', () => {
    const { available } = cpuInfo();
    expect(withLimit('portable').output).toBe('portable');
    expect(withLimit('avx512').output).toBe(available.includes('avx512') ? 'avx512' : available.at(-1));
    expect(withLimit('').output).toBe(available.at(-1));
    const wrong = withLimit('sse9');
    expect(wrong.error).toContain('NativeLoadError');
    expect(wrong.error).toContain(
      'MAGICPIG_ISA is "sse9"; it must be one of portable avx2 avx512 avx512-vnni avx512-bf16',
    );
  });
});

describe('CpuBackend', () => {
  it('says what it is', () => {
    using backend = new CpuBackend({ threads: 2, isa: 'portable' });
    expect(backend.name).toBe('cpu');
    expect(backend.description).toMatch(/^CPU, portable, 2 threads/);
    expect(backend.threads).toBe(2);
    expect(typeof backend.pool).toBe('object');
    expect(backend.pool).toBe(backend.pool);
  });

  it('defaults to all cores and the fastest path', () => {
    using backend = new CpuBackend();
    expect([backend.threads, backend.isa]).toEqual([cpuInfo().cores, cpuInfo().isa]);
  });
});
