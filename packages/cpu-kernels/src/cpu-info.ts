import { availableParallelism, cpus } from 'node:os';
import { native } from './native.js';

/**
 * Code paths, slowest first. Each needs what it is named after: `avx2` AVX2, FMA and F16C; `avx512` F, BW, DQ and VL;
 * `avx512-vnni` VNNI as well (Cascade Lake, Ice Lake); `avx512-bf16` also BF16 (Zen 4, Sapphire Rapids and later).
 */
export type Isa = 'portable' | 'avx2' | 'avx512' | 'avx512-vnni' | 'avx512-bf16';

/** What this machine offers. */
export interface CpuInfo {
  /** The path a {@link CpuBackend} takes by default: the fastest that the processor has and `MAGICPIG_ISA` allows. */
  isa: Isa;
  /** All paths this processor can run, slowest first. */
  available: Isa[];
  /** Instruction-set extensions that matter here and are present (`avx2`, `fma`, `avx512_bf16`, ...). */
  features: string[];
  /** Cores this process may use (`os.availableParallelism()`). */
  cores: number;
  /** The processor's name as the system gives it. */
  model: string;
}

/**
 * Describes the processor. The environment variable `MAGICPIG_ISA`, read once when the addon is loaded, lowers the path
 * in use.
 * @throws NativeLoadError when the addon does not load or `MAGICPIG_ISA` is none of the paths.
 */
export function cpuInfo(): CpuInfo {
  const { isa, available, features } = native.cpuInfo();
  return { isa, available, features, cores: availableParallelism(), model: cpus()[0]?.model.trim() || 'unknown' };
}
