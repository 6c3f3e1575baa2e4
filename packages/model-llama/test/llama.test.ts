import { describe, expect, it } from 'vitest';
import { Llama } from '../src/llama.js';
import { loadLlamaWeights } from '../src/llama-weights.js';
import { type RandomModel, randomCheckpoint, randomModels } from './random-checkpoint.js';
import { ReferenceBackend } from './reference-backend.js';
import { ReferenceCache } from './reference-cache.js';
import { relativeError } from './relative-error.js';

async function referenceLlama(model: RandomModel) {
  const backend = new ReferenceBackend();
  const cache = new ReferenceCache(model.config);
  const weights = await loadLlamaWeights(randomCheckpoint(model), backend, { format: 'f32' });
  return { cache, llama: new Llama({ config: model.config, backend, cache, weights, maxRows: 64 }) };
}

describe('forward pass over plain TypeScript operators', () => {
  it.each(randomModels())('gives Hugging Face’s logits at every position: $name', async (model) => {
    const { llama, cache } = await referenceLlama(model);
    const sequence = cache.open();
    const { prompt } = model;
    const { logits } = llama.forward([{ sequence, tokens: prompt, promptTokens: prompt.length, logits: 'all' }]);
    expect(logits.length).toBe(prompt.length);
    for (const [i, row] of logits.entries()) expect(relativeError(row, model.logits[i]!)).toBeLessThan(2e-6);
  });
});
