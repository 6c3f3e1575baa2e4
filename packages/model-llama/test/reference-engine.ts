import type { AttentionSettings } from '../src/attention-options.js';
import { densePolicy } from '../src/dense-policy.js';
import { Engine, type EngineOptions } from '../src/engine.js';
import type { KvCache } from '../src/kv-cache.js';
import { Llama } from '../src/llama.js';
import { loadLlamaWeights } from '../src/llama-weights.js';
import { characterTokenizer, type RandomModel, randomCheckpoint } from './random-checkpoint.js';
import { ReferenceBackend } from './reference-backend.js';
import { ReferenceCache } from './reference-cache.js';

/** An engine over the plain TypeScript operators and cache, `dense` only and without a prefix cache. A token takes one byte. */
export async function referenceEngine(model: RandomModel, options: Partial<EngineOptions> = {}) {
  const backend = new ReferenceBackend();
  const cache: KvCache = options.cache ?? new ReferenceCache(model.config);
  const weights = await loadLlamaWeights(randomCheckpoint(model), backend, { format: 'f32' });
  const maxSequences = options.maxSequences ?? 4;
  const llama = new Llama({ config: model.config, backend, cache, weights, maxRows: Engine.maxRows(maxSequences) });
  const dense = densePolicy();
  const engine = new Engine({
    llama,
    cache,
    policies: { policy: (_: AttentionSettings) => dense },
    tokenizer: characterTokenizer(model.config.vocabSize),
    contextTokens: 2048,
    cacheBytes: 100_000,
    maxSequences,
    maxQueue: 8,
    maxStallMs: 250,
    prefixCache: 'off',
    attention: { policy: 'dense' },
    ...options,
  });
  return { engine, cache, llama };
}
