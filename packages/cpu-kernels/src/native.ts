import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Ceilings } from './ceilings.js';
import type { Isa } from './cpu-info.js';
import { NativeLoadError } from './errors.js';
import type { SourceType, WeightFormat } from './weight.js';

/** Opaque handles: type-tagged externals. */
export type NativeBackend = { readonly __brand: 'backend' };
export type NativeWeight = { readonly __brand: 'weight' };
export type NativeMemory = { readonly __brand: 'memory' };
export type NativeMapping = { readonly __brand: 'mapping' };

/** One part of a weight, checked; `data` and `rowOrder` are absent for `random`. */
export interface NativeSource {
  type: SourceType | 'random';
  rows: number;
  data?: Uint8Array;
  rowOrder?: Uint32Array;
  seed?: number;
  std?: number;
  mean?: number;
}

/**
 * The addon. It trusts its arguments: everything is checked before it is called. Functions that allocate return `null`
 * (`false` for operators, which may need scratch memory) when the system has no memory.
 */
interface Native {
  cpuInfo(): { isa: Isa; available: Isa[]; features: string[] };

  createBackend(threads: number, isa: Isa): NativeBackend | null;
  /** Frees scratch memory and lets go of the pool, which ends when nobody else holds it. */
  disposeBackend(backend: NativeBackend): void;
  pool(backend: NativeBackend): object;
  ceilings(backend: NativeBackend): Ceilings | null;

  /** A zeroed array and the handle to free its memory with. */
  allocate(length: number): { host: Float32Array; memory: NativeMemory } | null;
  /** Detaches the array's buffer and frees its memory at once. */
  free(host: Float32Array, memory: NativeMemory): void;

  vector(backend: NativeBackend, source: NativeSource, out: Float32Array): void;
  createWeight(
    backend: NativeBackend,
    sources: NativeSource[],
    cols: number,
    format: WeightFormat,
    gated: boolean,
  ): { handle: NativeWeight; bytes: number } | null;
  disposeWeight(weight: NativeWeight): void;

  embed(backend: NativeBackend, out: Float32Array, table: NativeWeight, tokens: Int32Array): void;
  linear(
    backend: NativeBackend,
    out: Float32Array,
    x: Float32Array,
    weight: NativeWeight,
    rows: number,
    norm: Float32Array | undefined,
    epsilon: number,
    bias: Float32Array | undefined,
    accumulate: boolean,
  ): boolean;
  ropeTable(
    backend: NativeBackend,
    table: Float32Array,
    positions: Int32Array,
    inverseFrequencies: Float32Array,
    scale: number,
  ): void;
  rope(
    backend: NativeBackend,
    x: Float32Array,
    table: Float32Array,
    rows: number,
    stride: number,
    heads: number,
    headDim: number,
  ): void;
  copyRows(backend: NativeBackend, out: Float32Array, x: Float32Array, indices: Int32Array, width: number): void;

  /** An error code such as `ENOENT`, or the mapping. */
  mapFile(path: string): { handle: NativeMapping; size: number } | string;
  mapView(mapping: NativeMapping, offset: number, length: number): Uint8Array;
  /** Detaches the buffers of views and unmaps the file at once. */
  logSumExp(values: Float32Array, isa: Isa | undefined): { largest: number; logSumExp: number };
  trimFile(mapping: NativeMapping): void;
  unmapFile(mapping: NativeMapping, buffers: ArrayBufferLike[]): void;
}

function load(): Native {
  const root = join(dirname(fileURLToPath(import.meta.url)), '..');
  const require = createRequire(import.meta.url);
  let addon: Native & { loadError?: string };
  try {
    const prebuilds = require('pkg-prebuilds') as (root: string, options: object) => Native;
    addon = prebuilds(root, { name: 'magicpig_cpu_kernels', napi_versions: [8] });
  } catch (cause) {
    throw new NativeLoadError(
      `@magicpig/cpu-kernels: no native addon for ${process.platform}-${process.arch} was found under ${root} ` +
        '(looked in prebuilds/ and build/Release/). Build it with `npm run build` in that folder, which needs CMake and a C++20 compiler. ' +
        `Cause: ${cause instanceof Error ? cause.message : String(cause)}`,
      { cause },
    );
  }
  if (addon.loadError) throw new NativeLoadError(`@magicpig/cpu-kernels: ${addon.loadError}`);
  return addon;
}

export const native: Native = load();
