import { describe, expect, it, vi } from 'vitest';
import type { SequenceAttention } from '../src/attention-policy.js';
import type { KvCache } from '../src/kv-cache.js';
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
  return { backend, cache, llama: new Llama({ config: model.config, backend, cache, weights, maxRows: 64 }) };
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

  it('computes in two groups, each with its share of what samples, where a device and the host take turns', async () => {
    const [model] = randomModels() as [RandomModel];
    const { llama, cache, backend } = await referenceLlama(model);
    const { prompt } = model;
    const sampling = (layer: number) => (layer === 1 ? { selector: {}, begin: 0, end: 0 } : null);
    const attention = { sampling } as SequenceAttention;
    const kinds = ['sampled', 'exact', 'sampled', 'exact', 'sampled', 'prompt'];
    const decode = (count: number) => {
      const entries = kinds.slice(0, count).map((kind, i) => {
        const sequence = cache.open();
        llama.forward([{ sequence, tokens: prompt.subarray(0, 2 + i), promptTokens: 2 + i, logits: 'none' }]);
        const tokens = prompt.subarray(2 + i, kind === 'prompt' ? 5 + i : 3 + i);
        const entry = { sequence, tokens, promptTokens: 2 + i, logits: kind === 'prompt' ? 'all' : 'last' } as const;
        return kind === 'sampled' ? { ...entry, attention } : entry;
      });
      const steps = vi.spyOn(cache, 'step');
      const { logits, keysRead } = llama.forward(entries);
      const groups = (steps.mock.calls as Parameters<KvCache['step']>[]).map(([entries]) =>
        entries.map((one) => [one.sampled, one.tokens]),
      );
      steps.mockRestore();
      return { logits: logits.map((row) => row.slice()), keysRead: keysRead.length, groups };
    };
    for (const count of [5, 6]) {
      delete (backend as { overlaps?: boolean }).overlaps;
      const alone = decode(count);
      expect(alone.groups).toHaveLength(1);
      Object.assign(backend, { overlaps: true });
      const { groups, ...results } = decode(count);
      expect(results).toEqual({ logits: alone.logits, keysRead: alone.keysRead });
      const [exact, sampled] = [
        [false, 1],
        [true, 1],
      ];
      if (count === 5)
        expect(groups).toEqual([
          [exact, sampled],
          [exact, sampled, sampled],
        ]);
      else expect(groups).toEqual([[exact, exact, sampled, sampled, sampled, [false, 3]]]);
    }
  });
});
