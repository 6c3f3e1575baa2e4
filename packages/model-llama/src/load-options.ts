import type { AttentionOptions, LoadOptions } from './api.js';
import { resolveAttention } from './attention-options.js';
import { WEIGHT_FORMATS, type WeightFormat } from './backend.js';
import type { Checkpoint } from './checkpoint.js';
import { InvalidRequestError } from './errors.js';
import { ownFormat } from './llama-weights.js';
import { PREFIX_REUSE, type PrefixReuse } from './memory.js';

/** {@link LoadOptions} of the engine, checked, with their defaults. */
export interface EngineSettings {
  backend: 'cpu' | 'cuda';
  vramBytes: number | undefined;
  format: WeightFormat;
  threads: number | undefined;
  contextTokens: number;
  cacheBytes: number | undefined;
  memoryBytes: number | undefined;
  maxSequences: number;
  maxQueue: number;
  maxStallMs: number;
  prefixCache: PrefixReuse;
  snapshotDir: string | undefined;
  snapshotBytes: number;
  attention: AttentionOptions;
}

/** @throws InvalidRequestError naming the option, its value and what is allowed. */
export function resolveLoadOptions(options: LoadOptions, checkpoint: Checkpoint): EngineSettings {
  const { config } = checkpoint;
  const { weights: format = ownFormat(checkpoint), attention = { policy: 'magicpig' }, threads } = options;
  const { contextTokens = config.maxPositions, maxSequences = 16, maxQueue = 256, maxStallMs = 250 } = options;
  const { backend = 'cpu', vramBytes } = options;
  const { cacheBytes, memoryBytes, prefixCache = 'all', snapshotDir, snapshotBytes = 2 ** 32 } = options;
  checkInteger('maxSequences', maxSequences, 1, 1024);
  checkInteger('maxQueue', maxQueue, 0, 2 ** 31 - 1);
  checkInteger('maxStallMs', maxStallMs, 1, 3_600_000);
  checkInteger('contextTokens', contextTokens, 2, 2 ** 31 - 1);
  if (threads !== undefined) checkInteger('threads', threads, 1, 1024);
  if (cacheBytes !== undefined) checkInteger('cacheBytes', cacheBytes, 1, Number.MAX_SAFE_INTEGER);
  if (memoryBytes !== undefined) checkInteger('memoryBytes', memoryBytes, 1, Number.MAX_SAFE_INTEGER);
  if (cacheBytes !== undefined && memoryBytes !== undefined) {
    throw new InvalidRequestError('memoryBytes includes cacheBytes; leave one of them out', 'memoryBytes');
  }
  checkInteger('snapshotBytes', snapshotBytes, 0, Number.MAX_SAFE_INTEGER);
  if (snapshotDir !== undefined && (typeof snapshotDir !== 'string' || snapshotDir === '')) {
    throw new InvalidRequestError(`snapshotDir must be a path, not ${JSON.stringify(snapshotDir)}`, 'snapshotDir');
  }
  checkOneOf('backend', backend, ['cpu', 'cuda']);
  checkDevice(options, format, attention);
  checkOneOf('weights', format, WEIGHT_FORMATS);
  checkOneOf('prefixCache', prefixCache, PREFIX_REUSE);
  resolveAttention(attention, config.layers);
  return {
    backend,
    vramBytes,
    format,
    threads,
    contextTokens,
    cacheBytes,
    memoryBytes,
    maxSequences,
    maxQueue,
    maxStallMs,
    // The rotations of `dynamic` scaling depend on the length of the whole prompt, so that no two share a beginning.
    prefixCache: config.ropeScaling.type === 'dynamic' ? 'off' : prefixCache,
    snapshotDir,
    snapshotBytes,
    attention,
  };
}

/** Options that only one of the backends takes. */
function checkDevice(options: LoadOptions, format: WeightFormat, attention: AttentionOptions): void {
  const { backend = 'cpu', vramBytes, profile, snapshotDir } = options;
  if (vramBytes !== undefined) {
    checkInteger('vramBytes', vramBytes, 1, Number.MAX_SAFE_INTEGER);
    if (backend !== 'cuda') throw new InvalidRequestError("vramBytes is for backend 'cuda'", 'vramBytes');
  }
  if (backend !== 'cuda') return;
  if (format === 'f32') {
    throw new InvalidRequestError(
      "weights must be bf16, q8 or q4 with backend 'cuda': f32 is the CPU's reference",
      'weights',
    );
  }
  if (snapshotDir !== undefined && attention.policy === 'dense') {
    throw new InvalidRequestError(
      "snapshots are written from host memory, but with backend 'cuda' and dense attention the device alone has the keys",
      'snapshotDir',
    );
  }
  if (profile) throw new InvalidRequestError("profile measures the operators of backend 'cpu'", 'profile');
}

function checkInteger(name: string, value: unknown, low: number, high: number): void {
  if (!Number.isInteger(value) || (value as number) < low || (value as number) > high) {
    throw new InvalidRequestError(`${name} must be an integer in ${low}..${high}, not ${JSON.stringify(value)}`, name);
  }
}

function checkOneOf(name: string, value: unknown, allowed: readonly unknown[]): void {
  if (!allowed.includes(value)) {
    throw new InvalidRequestError(`${name} must be one of ${allowed.join(', ')}, not ${JSON.stringify(value)}`, name);
  }
}
