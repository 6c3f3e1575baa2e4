import type { CudaBackend } from './cuda-backend.js';
import type { CudaKvSequence } from './cuda-kv-sequence.js';
import type { HostCache, HostStep } from './host-cache.js';
import type { KeyLoader } from './key-loader.js';
import type { PagePool } from './page-pool.js';
import type { KeySketches, SketchPool } from './sketch-pool.js';
import type { Tensor } from './types.js';

/** What the steps of a cache have in common. */
export interface StepContext {
  times: StepTimes;
  backend: CudaBackend;
  pool: PagePool;
  loader: KeyLoader | undefined;
  host: HostCache | undefined;
  /** Where the device keeps such sketches, if it draws from them. */
  sketches(of: KeySketches): SketchPool | undefined;
  /** All sequences of the cache, those made first before others. */
  live: Iterable<CudaKvSequence>;
  layers: number;
  queryHeads: number;
  kvHeads: number;
  headDim: number;
}

/** Entries that are computed alike, in adjacent rows. */
export interface StepPart {
  entries: { sequence: CudaKvSequence; tokens: number; sampled?: boolean }[];
  /** First entry and first row, among those of the step. */
  index: number;
  row: number;
  rows: number;
  /** One token each of several sequences; otherwise a stretch of one prompt. */
  decodes: boolean;
  /** Layers whose earlier tokens are brought back to the device first. */
  reloads: Set<number>;
  /** Pages for the step's own rows in layers that the device does not hold. */
  scratch: number[];
  host: HostStep | undefined;
}

/** Activations of a layer's attention. */
export interface AttentionTensors {
  /** [R, (Hq + 2 Hkv) d], queries | keys | values before RoPE */
  qkv: Tensor;
  /** [R, d] cosines, sines */
  rotations: Tensor;
  /** [R, Hq d] */
  output: Tensor;
}

/** Where the time of steps went, in milliseconds. Device and host work beside one another: the sum may be more than the time. */
export interface StepTimes {
  /** The device computed, by its own clock: operators, its own attention, draws, tables, and what the host sent on its way there. */
  gpu: number;
  /** Rows were on their way to host memory, by the device's clock. */
  transfer: number;
  /** The host chose keys: its threads' share of the time in which they chose and attended. */
  select: number;
  /** The host attended to keys, and wrote keys and values. */
  attend: number;
  /** The host waited for the device. */
  idle: number;
}
