import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

/** A device address or a CUDA handle; both are below 2^53. 0 stands for null. */
export type Address = number;
/** A `cudaError_t`; 0 is success. */
export type Status = number;

export interface Result<T> {
  status: Status;
  value: T;
}

/** What native/binding/binding.cc exports. It trusts its arguments: sizes, types and lifetimes are checked before it is called. */
export interface Native {
  readonly kind: 'cuda' | 'emulated';
  deviceCount(): Result<number>;
  versions(): { driver: number; runtime: number };
  deviceProperties(index: number): Result<{
    name: string;
    major: number;
    minor: number;
    multiprocessors: number;
    totalMemory: number;
    l2CacheBytes: number;
    sharedMemoryPerBlock: number;
  }>;
  setDevice(index: number): Status;
  memoryInfo(): Result<{ free: number; total: number }>;
  errorName(status: Status): string;
  errorText(status: Status): string;

  allocate(bytes: number): Result<Address>;
  free(address: Address): Status;
  allocatePinned(bytes: number): Result<{ pointer: Address; buffer: ArrayBuffer } | undefined>;
  detach(buffer: ArrayBuffer): void;
  freePinned(address: Address): Status;
  /** Page-locks an array's memory in place; the value is its address. */
  pinArray(array: ArrayBufferView): Result<Address>;
  unpin(address: Address): Status;
  copy(stream: Address, to: Address, from: Address, bytes: number): Status;
  copyMatrix(
    stream: Address,
    to: Address,
    toPitch: number,
    from: Address,
    fromPitch: number,
    width: number,
    rows: number,
  ): Status;
  /** Returns when `array` may be used again. */
  copyArray(stream: Address, device: Address, array: ArrayBufferView, upload: boolean): Status;
  fillBytes(stream: Address, to: Address, value: number, bytes: number): Status;

  createStream(): Result<Address>;
  destroyStream(stream: Address): Status;
  synchronizeStream(stream: Address): Status;
  synchronizeDevice(): Status;
  createEvent(timed: boolean): Result<Address>;
  destroyEvent(event: Address): Status;
  recordEvent(event: Address, stream: Address): Status;
  waitEvent(stream: Address, event: Address): Status;
  queryEvent(event: Address): Status;
  synchronizeEvent(event: Address): Status;
  elapsed(start: Address, end: Address): Result<number>;
  beginCapture(stream: Address): Status;
  endCapture(stream: Address): Result<Address>;
  launchGraph(graph: Address, stream: Address): Status;
  destroyGraph(graph: Address): Status;

  // The kernels, with the arguments of native/kernels/*.h, structures spread out.
  rmsNorm(...args: number[]): Status;
  rmsNormF32(...args: number[]): Status;
  addRmsNorm(...args: number[]): Status;
  ropeTable(...args: number[]): Status;
  rope(...args: number[]): Status;
  ropeSplit(...args: number[]): Status;
  scatterRows(...args: number[]): Status;
  swiglu(...args: number[]): Status;
  add(...args: number[]): Status;
  addBias(...args: (number | boolean)[]): Status;
  embed(...args: number[]): Status;
  copyRows(...args: number[]): Status;
  toBf16(...args: number[]): Status;
  toF32(...args: number[]): Status;
  fillNormal(...args: number[]): Status;
  linear(...args: (number | boolean)[]): Status;
  linearGated(...args: number[]): Status;
  packWeight(...args: number[]): Status;
  unpackWeight(...args: number[]): Status;
  gemm(...args: (number | boolean)[]): Status;
  openCublasLt(): { open: boolean; path: string; whyNot: string; workspaceBytes: number };
  multiplyCublasLt(...args: (number | boolean)[]): Status;
  attentionPrefill(...args: number[]): Status;
  attentionDecode(...args: number[]): Status;
  attentionDecodeWorkspace(
    sequences: number,
    queryHeads: number,
    headDim: number,
    maxKeys: number,
    split: number,
  ): number;
  mergeAttention(...args: number[]): Status;
  simhashProjections(...args: number[]): Status;
  simhash(...args: (number | boolean)[]): Status;
  hadamardFlips(...args: number[]): Status;
  hadamard(...args: (number | boolean)[]): Status;
  sketchFlips(...args: number[]): Status;
  sketchEncode(...args: (number | boolean)[]): Status;
  sketchDraw(...args: number[]): Status;
  sketchDrawWorkspace(dim: number, kvHeads: number, group: number, sequences: number, maxKeys: number): number;
  columnMean(...args: (number | boolean)[]): Status;
  tableBuild(...args: number[]): Status;
  tableBuildWorkspace(keys: number, bits: number, tables: number): number;

  /** A selector (selector.h of @magicpig/lsh) over rows of samples in pinned memory; undefined without memory for it. */
  createSampleSelector(headDim: number, heads: number): object | undefined;
  /** Which rows it reads from now on, [queryHeads][2 + 2 room] i32. */
  setSamples(selector: object, rows: Address, queryHeads: number, room: number): void;

  /** Emulator only: the `count`-th call from now that can fail returns `status`; 0 turns it off. */
  emulatorFailCall?(count: number, status: Status): void;
  /** Emulator only: size of the emulated device's memory. */
  emulatorSetMemory?(bytes: number): void;
}

export const SUCCESS: Status = 0;
export const INVALID_VALUE: Status = 1;
export const MEMORY_ALLOCATION: Status = 2;
export const NOT_READY: Status = 600;
export const NOT_SUPPORTED: Status = 801;

/** What loading the addon gave: the kernels, or the reason why there are none. */
export type Loaded = { native: Native } | { reason: string };

/** Loads an addon by the name of its file. Never throws. */
export function loadAddon(name: string): Loaded {
  const root = fileURLToPath(new URL('..', import.meta.url));
  try {
    const addon = createRequire(import.meta.url)('pkg-prebuilds')(root, { name, napi_versions: [8] }) as
      | Native
      | { kind: 'idle'; reason: string };
    if (addon.kind !== 'idle') return { native: addon };
    return {
      reason:
        `@magicpig/cuda-kernels was installed without its kernels: ${addon.reason}. ` +
        'Install the CUDA toolkit 12.8 or later (nvcc on the PATH or in /usr/local/cuda/bin) and run `npm run build` in its folder.',
    };
  } catch (cause) {
    return {
      reason:
        `@magicpig/cuda-kernels found no native addon for ${process.platform}-${process.arch} in ${root} ` +
        `(looked in prebuilds/ and build/Release/): ${cause instanceof Error ? cause.message : String(cause)}. ` +
        'Run `npm run build` in that folder, which needs CMake and a C++20 compiler.',
    };
  }
}
