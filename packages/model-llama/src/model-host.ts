import { CpuBackend } from '@magicpig/cpu-kernels';
import { KvStore } from '@magicpig/kv-offload';
import type { LoadOptions, ModelInfo } from './api.js';
import { resolveAttention } from './attention-options.js';
import { type Backend, WEIGHT_FORMATS } from './backend.js';
import type { Checkpoint, Tokenizer } from './checkpoint.js';
import { Engine } from './engine.js';
import { CacheTooSmallError, InvalidRequestError } from './errors.js';
import type { KvCache } from './kv-cache.js';
import { Llama } from './llama.js';
import { loadLlamaWeights, naturalFormat } from './llama-weights.js';
import { loadPolicies } from './load-policies.js';
import { PREFIX_REUSE } from './memory.js';
import { PolicyFactory } from './policy-factory.js';
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
 * @throws InvalidRequestError for an option out of range, CacheTooSmallError when not even one page fits `cacheBytes`, and
 *   whatever loading throws.
 */
export async function createModelHost(checkpoint: Checkpoint, options: LoadOptions = {}): Promise<ModelHost> {
  const {
    weights: format = naturalFormat(checkpoint),
    maxSequences = 16,
    maxQueue = 256,
    maxStallMs = 250,
    threads,
    signal,
    onProgress,
  } = options;
  const { config, tokenizer, name } = checkpoint;
  const { attention = { policy: 'magicpig' }, contextTokens = config.maxPositions } = options;
  checkInteger('maxSequences', maxSequences, 1, 1024);
  checkInteger('maxQueue', maxQueue, 0, 2 ** 31 - 1);
  checkInteger('maxStallMs', maxStallMs, 1, 3_600_000);
  checkInteger('contextTokens', contextTokens, 2, 2 ** 31 - 1);
  if (threads !== undefined) checkInteger('threads', threads, 1, 1024);
  if (options.cacheBytes !== undefined) checkInteger('cacheBytes', options.cacheBytes, 1, Number.MAX_SAFE_INTEGER);
  if (options.backend !== undefined && options.backend !== 'cpu') {
    throw new InvalidRequestError(`backend must be 'cpu', not ${JSON.stringify(options.backend)}`, 'backend');
  }
  if (!WEIGHT_FORMATS.includes(format)) {
    throw new InvalidRequestError(
      `weights must be one of ${WEIGHT_FORMATS.join(', ')}, not ${JSON.stringify(format)}`,
      'weights',
    );
  }
  if (!PREFIX_REUSE.includes(options.prefixCache ?? 'all')) {
    throw new InvalidRequestError(
      `prefixCache must be one of ${PREFIX_REUSE.join(', ')}, not ${JSON.stringify(options.prefixCache)}`,
      'prefixCache',
    );
  }
  // The rotations of `dynamic` scaling depend on the length of the whole prompt, so that no two share a beginning.
  const prefixCache = config.ropeScaling.type === 'dynamic' ? 'off' : (options.prefixCache ?? 'all');
  resolveAttention(attention, config.layers);
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
    const backend = own(new CpuBackend(threads === undefined ? {} : { threads }));
    const weights = own(await loadLlamaWeights(checkpoint, backend, { format, signal, onProgress }));
    const { layers, kvHeads, queryHeads, headDim } = config;
    const maxRows = Engine.maxRows(maxSequences);
    const cacheBytes = options.cacheBytes ?? Math.floor(CACHE_SHARE * process.availableMemory());
    const dtype = format === 'f32' ? 'f32' : 'bf16';
    const cache = own(
      new KvStore({ layers, kvHeads, queryHeads, headDim, dtype, maxBytes: cacheBytes, pool: backend.pool }),
    );
    const page = cache.bytesFor(1);
    if (page > cacheBytes) {
      throw new CacheTooSmallError(
        `one page of the cache takes ${page} bytes and cacheBytes is ${cacheBytes}; pass more`,
        page,
        cacheBytes,
      );
    }
    const elementBytes = dtype === 'f32' ? 4 : 2;
    const profiler = options.profile ? new StepProfiler(backend, { ...config, elementBytes }) : undefined;
    const llama = own(new Llama({ config, backend, cache: profiler?.watchCache(cache) ?? cache, weights, maxRows }));
    const factory = new PolicyFactory({ config, cache, pool: backend.pool }, modules);
    const policies = profiler?.watchPolicies(factory) ?? factory;
    const engine = own(
      new Engine({
        llama,
        cache,
        policies,
        tokenizer,
        contextTokens,
        cacheBytes,
        maxSequences,
        maxQueue,
        maxStallMs,
        prefixCache,
        attention,
      }),
    );
    const info: ModelInfo = {
      name,
      config,
      backend: backend.name,
      description: backend.description,
      threads: backend.threads,
      weights: format,
      contextTokens,
      cacheBytes,
      hasChatTemplate: tokenizer.hasChatTemplate,
    };
    return { info, engine, llama, cache, backend, tokenizer, profiler, [Symbol.dispose]: dispose };
  } catch (error) {
    dispose();
    throw error;
  }
}

function checkInteger(name: string, value: unknown, low: number, high: number): void {
  if (!Number.isInteger(value) || (value as number) < low || (value as number) > high) {
    throw new InvalidRequestError(`${name} must be an integer in ${low}..${high}, not ${JSON.stringify(value)}`, name);
  }
}
