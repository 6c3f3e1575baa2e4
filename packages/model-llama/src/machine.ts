import { CpuBackend } from '@magicpig/cpu-kernels';
import type { CudaBackend } from '@magicpig/cuda-kernels';
import { KvStore } from '@magicpig/kv-offload';
import { resolveAttention } from './attention-options.js';
import type { Backend, Tensor } from './backend.js';
import type { Checkpoint } from './checkpoint.js';
import { Engine } from './engine.js';
import { CacheTooSmallError, InvalidRequestError } from './errors.js';
import type { KvCache, KvFiles } from './kv-cache.js';
import { loadLlamaWeights, type WeightBackend } from './llama-weights.js';
import type { EngineSettings } from './load-options.js';

/** What a model is put together on: a CPU, or a GPU beside one. */
export interface Machine extends Disposable {
  readonly backend: Backend;
  /** Threads and operators of the host. */
  readonly cpu: CpuBackend;
  /** Rows of a step, at most. */
  readonly maxRows: number;
  /**
   * The cache of keys and values.
   *
   * @param hostBytes For it in host memory, at most.
   * @throws CacheTooSmallError when there is no room for one page
   */
  openCache(hostBytes: number): { cache: KvCache & KvFiles; bytes: number };
}

/** Share of the device's free memory that is used when nothing was asked for; drivers need some themselves. */
const DEVICE_SHARE = 0.95;

/** The CPU alone. */
export function cpuMachine(checkpoint: Checkpoint, settings: EngineSettings): Machine {
  const cpu = new CpuBackend(settings.threads === undefined ? {} : { threads: settings.threads });
  return {
    backend: cpu,
    cpu,
    maxRows: Engine.maxRows(settings.maxSequences),
    openCache: (bytes) => ({ cache: openStore(checkpoint, settings, cpu, bytes), bytes }),
    [Symbol.dispose]: () => cpu[Symbol.dispose](),
  };
}

export interface CudaMachineOptions {
  /** Instead of the device: its emulation on the CPU, for tests. */
  emulate?: boolean | undefined;
  signal?: AbortSignal | undefined;
}

/**
 * A GPU with the CPU beside it. With `dense` attention keys and values live in the device's memory; with every other policy in host
 * memory, and the device holds those that it attends to, as far as there is room.
 *
 * @throws InvalidRequestError when there is no such device; CacheTooSmallError, before anything is loaded, when the model does not
 *   fit the device's memory
 */
export async function cudaMachine(
  checkpoint: Checkpoint,
  settings: EngineSettings,
  { emulate = false, signal }: CudaMachineOptions,
): Promise<Machine> {
  const kernels = await importKernels();
  const cpu = new CpuBackend(settings.threads === undefined ? {} : { threads: settings.threads });
  const owned: Disposable[] = [cpu];
  const dispose = () => {
    for (const thing of owned.splice(0).reverse()) thing[Symbol.dispose]();
  };
  try {
    const limit = deviceLimit(kernels, settings, emulate);
    const backend = new kernels.CudaBackend({ pool: cpu.pool, threads: cpu.threads, memoryLimit: limit, emulate });
    owned.push(backend);
    const onHost = settings.attention.policy !== 'dense';
    const { config } = checkpoint;
    const prefillTokens = Math.min(kernels.CudaBackend.prefillTokens, settings.contextTokens);
    const maxRows = Engine.maxRows(settings.maxSequences, prefillTokens);
    const shape = { ...config, ...settings, maxRows };
    const weights = await measureWeights(checkpoint, backend, settings, signal);
    // What a cache on the host is does not matter to what the device needs beside it.
    const beside = { ...shape, ...(onHost && { host: {} as KvStore }) };
    const working =
      kernels.deviceWorkingBytes(shape) +
      weights.scratch +
      kernels.CudaKvCache.bufferBytes(beside) +
      tableBytes(kernels, checkpoint, settings);
    const least = kernels.CudaKvCache.leastBytes(beside);
    const rest = limit - weights.bytes - working;
    if (rest < least) {
      const needed = weights.bytes + working + least;
      throw new CacheTooSmallError(
        `the model needs ${needed} bytes of device memory (weights ${weights.bytes}, activations ${working}, keys and values of ` +
          `one step ${least}) and there are ${limit}; pass more as vramBytes, or take weights of fewer bits`,
        needed,
        limit,
      );
    }
    const { sketchBytes, drawBytes } = sketchPlan(kernels, checkpoint, settings, rest - least);
    const openCache = (hostBytes: number) => {
      const host = onHost ? openStore(checkpoint, settings, cpu, hostBytes) : undefined;
      const { layers, queryHeads, kvHeads, headDim } = config;
      const room = onHost ? rest - sketchBytes - drawBytes : Math.min(rest, settings.cacheBytes ?? rest);
      // More than the longest contexts take together would lie idle.
      const most = kernels.CudaKvCache.bytesFor(config, settings.contextTokens) * settings.maxSequences;
      const deviceBytes = Math.max(Math.min(room, most + least), least);
      const options = { backend, layers, queryHeads, kvHeads, headDim, maxRows, deviceBytes };
      const cache = new kernels.CudaKvCache({ ...options, ...(host && { host }), sketchBytes });
      // Its steps are those of a device: layerAttention knows them.
      return { cache: cache as unknown as KvCache & KvFiles, bytes: onHost ? hostBytes : cache.devicePages.bytes };
    };
    return { backend, cpu, maxRows, openCache, [Symbol.dispose]: dispose };
  } catch (error) {
    dispose();
    if (error instanceof kernels.UnavailableError) {
      throw new InvalidRequestError(`backend 'cuda': ${error.message}`, 'backend', { cause: error });
    }
    throw error;
  }
}

type Kernels = typeof import('@magicpig/cuda-kernels');

async function importKernels(): Promise<Kernels> {
  try {
    return await import('@magicpig/cuda-kernels');
  } catch (cause) {
    throw new InvalidRequestError(
      "backend 'cuda' needs the package @magicpig/cuda-kernels, which is not installed",
      'backend',
      { cause },
    );
  }
}

/** Bytes of device memory to use: what was asked for, if that much is free, or most of what is. */
function deviceLimit(kernels: Kernels, { vramBytes }: EngineSettings, emulate: boolean): number {
  using device = new kernels.Device({ emulate });
  const free = device.freeMemory;
  if (vramBytes !== undefined && vramBytes > free) {
    throw new InvalidRequestError(
      `vramBytes is ${vramBytes}, but ${free} of the ${device.properties.totalMemory} bytes of ${device.properties.name} are free`,
      'vramBytes',
    );
  }
  return vramBytes ?? Math.floor(DEVICE_SHARE * free);
}

/** Bytes of device memory of a model's weights, and of products with them; nothing is allocated. */
async function measureWeights(
  checkpoint: Checkpoint,
  backend: CudaBackend,
  { format }: EngineSettings,
  signal: AbortSignal | undefined,
): Promise<{ bytes: number; scratch: number }> {
  const sum = { bytes: 0, scratch: 0 };
  const meter: WeightBackend = {
    tensor: unfilled,
    toHost() {},
    toDevice() {},
    vector: (source) => {
      sum.bytes += 4 * source.cols;
      return unfilled(source.cols);
    },
    weight: (parts, options) => {
      const { bytes, scratch } = backend.weightBytes(parts, options);
      sum.bytes += bytes;
      sum.scratch = Math.max(sum.scratch, scratch);
      return { rows: 0, cols: 0, bytes, [Symbol.dispose]() {} };
    },
  };
  const weights = await loadLlamaWeights(checkpoint, meter, { format, signal });
  weights[Symbol.dispose]();
  return sum;
}

/** Bytes of device memory in which tables are built; a policy that has none builds none. */
function tableBytes(kernels: Kernels, { config }: Checkpoint, { attention, contextTokens }: EngineSettings): number {
  const resolved = resolveAttention(attention, config.layers);
  if (resolved.policy !== 'magicpig') return 0;
  const { K: bits, L: tables } = resolved;
  return kernels.SegmentBuilder.bytes(contextTokens, { dim: config.headDim, bits, tables, projection: 'gaussian' });
}

/** Most of the device memory left that key sketches, and draws from them, may each take from keys and values. */
const SKETCH_SHARE = 0.4;

/** Bytes of device memory for the key sketches that a policy draws from, and for the draws. */
function sketchPlan(
  kernels: Kernels,
  { config }: Checkpoint,
  { attention, contextTokens, maxSequences }: EngineSettings,
  room: number,
): { sketchBytes: number; drawBytes: number } {
  const resolved = resolveAttention(attention, config.layers);
  if (resolved.policy !== 'sketch') return { sketchBytes: 0, drawBytes: 0 };
  const pages = Math.ceil(contextTokens / kernels.SKETCH_PAGE) * (config.layers - resolved.denseLayers.length);
  const most = Math.floor(SKETCH_SHARE * room);
  const sketchBytes = Math.min(maxSequences * pages * kernels.SketchPool.pageBytes(config, resolved.bits), most);
  const drawBytes = Math.min(maxSequences * kernels.SketchPool.drawBytes(config.queryHeads, contextTokens), most);
  return { sketchBytes, drawBytes };
}

function openStore({ config }: Checkpoint, { format }: EngineSettings, cpu: CpuBackend, maxBytes: number): KvStore {
  const { layers, kvHeads, queryHeads, headDim } = config;
  const dtype = format === 'f32' ? 'f32' : 'bf16';
  return new KvStore({ layers, kvHeads, queryHeads, headDim, dtype, maxBytes: Math.max(maxBytes, 1), pool: cpu.pool });
}

/** A tensor for sizes only. */
function unfilled(length: number): Tensor {
  return { length, host: new Float32Array(length), [Symbol.dispose]() {} };
}
