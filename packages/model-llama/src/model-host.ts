import type { LoadOptions, ModelInfo } from './api.js';
import type { Backend } from './backend.js';
import type { Checkpoint, Tokenizer } from './checkpoint.js';
import { Engine } from './engine.js';
import { CacheTooSmallError, InvalidRequestError } from './errors.js';
import { Fingerprint } from './fingerprint.js';
import type { KvCache, KvFiles } from './kv-cache.js';
import { Llama } from './llama.js';
import { loadLlamaWeights } from './llama-weights.js';
import { type EngineSettings, resolveLoadOptions } from './load-options.js';
import { loadPolicies } from './load-policies.js';
import { cpuMachine, cudaMachine } from './machine.js';
import { PolicyFactory } from './policy-factory.js';
import { Snapshots } from './snapshots.js';
import { StepProfiler } from './step-profiler.js';

/** The parts of a loaded model, in the thread that computes. */
export interface ModelHost extends Disposable {
  readonly info: ModelInfo;
  readonly engine: Engine;
  readonly llama: Llama;
  readonly cache: KvCache;
  readonly backend: Backend;
  readonly tokenizer: Tokenizer;
  /** Drives the engine's steps when the model was loaded with `profile`. */
  readonly profiler: StepProfiler | undefined;
}

/** Share of the memory that is free after loading that caches and tables may take by default. */
const CACHE_SHARE = 0.5;

/**
 * Loads a checkpoint's weights and puts the engine together around them. The checkpoint stays the caller's and is not
 * needed afterwards. Nothing stays allocated when it fails.
 *
 * @param internal.emulate For tests: `cuda` computes in the CPU emulation of a device.
 * @throws InvalidRequestError for an option out of range, CacheTooSmallError when not even one page fits `cacheBytes`, and
 *   whatever loading throws.
 */
export async function createModelHost(
  checkpoint: Checkpoint,
  options: LoadOptions = {},
  { emulate = false }: { emulate?: boolean } = {},
): Promise<ModelHost> {
  const { config, tokenizer, name } = checkpoint;
  const settings = resolveLoadOptions(options, checkpoint);
  const { format, contextTokens, maxSequences } = settings;
  const modules = await loadPolicies(options.policies ?? {});

  const owned: Disposable[] = [];
  const own = <T extends Disposable>(thing: T): T => {
    owned.push(thing);
    return thing;
  };
  const dispose = () => {
    for (const thing of owned.splice(0).reverse()) thing[Symbol.dispose]();
  };
  try {
    const { signal, onProgress } = options;
    const machine = own(
      settings.backend === 'cuda'
        ? await cudaMachine(checkpoint, settings, { emulate, signal })
        : cpuMachine(checkpoint, settings),
    );
    const { backend, maxRows } = machine;
    const dtype = format === 'f32' ? 'f32' : 'bf16';
    const fingerprint = new Fingerprint(checkpoint, `${format} ${dtype}`);
    const weights = own(await loadLlamaWeights(fingerprint.checkpoint, backend, { format, signal, onProgress }));
    const memory = { weights: weights.bytes, scratch: Llama.bytesFor(config, maxRows, maxSequences) };
    const opened = machine.openCache(bytesForCache(settings, memory));
    const cache = own(opened.cache);
    const cacheBytes = opened.bytes;
    if (cache.bytesFor(1) > cacheBytes) {
      throw new CacheTooSmallError(
        `one page of the KV cache takes ${cache.bytesFor(1)} bytes and there are ${cacheBytes} for it ` +
          `(weights take ${memory.weights}, activations ${memory.scratch}); pass more as cacheBytes or memoryBytes`,
        cache.bytesFor(1),
        cacheBytes,
      );
    }
    const elementBytes = dtype === 'f32' ? 4 : 2;
    const profiler = options.profile ? new StepProfiler(machine.cpu, { ...config, elementBytes }) : undefined;
    const llama = own(new Llama({ config, backend, cache: profiler?.watchCache(cache) ?? cache, weights, maxRows }));
    const factory = new PolicyFactory({ config, cache, pool: machine.cpu.pool }, modules);
    const policies = profiler?.watchPolicies(factory) ?? factory;
    const snapshots = openSnapshots(settings, fingerprint.digest(), cache);
    const engine = own(new Engine({ ...settings, llama, cache, policies, tokenizer, cacheBytes, snapshots }));
    const info: ModelInfo = {
      name,
      config,
      backend: backend.name,
      description: backend.description,
      threads: backend.threads,
      weights: format,
      contextTokens,
      cacheBytes,
      memory,
      maxSequences,
      hasChatTemplate: tokenizer.hasChatTemplate,
    };
    return { info, engine, llama, cache, backend, tokenizer, profiler, [Symbol.dispose]: dispose };
  } catch (error) {
    dispose();
    throw error;
  }
}

/** @throws InvalidRequestError when the folder cannot be used. */
function openSnapshots(
  { snapshotDir, snapshotBytes: maxBytes }: EngineSettings,
  fingerprint: string,
  files: KvFiles,
): Snapshots | undefined {
  if (snapshotDir === undefined) return undefined;
  const warn = (message: string) => process.emitWarning(message, 'MagicPigWarning');
  try {
    return new Snapshots({ directory: snapshotDir, maxBytes, fingerprint, files, warn });
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new InvalidRequestError(`snapshotDir cannot be used: ${reason}`, 'snapshotDir', { cause: error });
  }
}

/** Bytes for KV cache and tables: what was asked for, what the rest leaves of it, or a share of what is free. */
function bytesForCache(
  { cacheBytes, memoryBytes }: EngineSettings,
  { weights, scratch }: { weights: number; scratch: number },
): number {
  if (memoryBytes !== undefined) return Math.max(memoryBytes - weights - scratch, 0);
  return cacheBytes ?? Math.floor(CACHE_SHARE * process.availableMemory());
}
