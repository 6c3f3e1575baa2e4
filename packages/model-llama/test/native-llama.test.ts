import { describe, expect, it } from 'vitest';
import { createModelHost } from '../src/model-host.js';
import { runAll } from './collect.js';
import { randomCheckpoint, randomModel, randomModels } from './random-checkpoint.js';
import { relativeError } from './relative-error.js';

const BOUNDS = { f32: 1e-4, bf16: 2e-2 };

describe.each(['f32', 'bf16'] as const)('forward pass over native operators, %s', (weights) => {
  it.each(randomModels())('gives Hugging Face’s logits: $name', async (model) => {
    using host = await createModelHost(randomCheckpoint(model), { weights, cacheBytes: 2 ** 26 });
    using sequence = host.cache.open();
    const { prompt } = model;
    const { logits } = host.llama.forward([{ sequence, tokens: prompt, promptTokens: prompt.length, logits: 'all' }]);
    for (const [i, row] of logits.entries()) expect(relativeError(row, model.logits[i]!)).toBeLessThan(BOUNDS[weights]);
  });

  it('gives each row the same bits in pieces, alone and beside others', async () => {
    const model = randomModel('group-of-3-tied');
    using host = await createModelHost(randomCheckpoint(model), { weights, cacheBytes: 2 ** 26 });
    const { prompt } = model;
    const promptTokens = prompt.length;
    using whole = host.cache.open();
    const expected = host.llama
      .forward([{ sequence: whole, tokens: prompt, promptTokens, logits: 'all' }])
      .logits.map((row) => row.slice());

    using pieces = host.cache.open();
    using other = host.cache.open();
    const rows: Float32Array[] = [];
    for (const [begin, end] of [
      [0, 5],
      [5, 18],
      [18, 24],
    ] as const) {
      const { logits } = host.llama.forward([
        { sequence: other, tokens: prompt.subarray(0, 7), promptTokens: 7, logits: 'none' },
        { sequence: pieces, tokens: prompt.subarray(begin, end), promptTokens, logits: 'all' },
      ]);
      rows.push(...logits.map((row) => row.slice()));
    }
    expect(rows).toEqual(expected);
  });
});

describe('greedy generation over native operators', () => {
  it.each(randomModels())('continues as Hugging Face: $name', async (model) => {
    using host = await createModelHost(randomCheckpoint(model), {
      weights: 'f32',
      cacheBytes: 2 ** 26,
      contextTokens: 64,
      attention: { policy: 'dense' },
    });
    const [outcome] = runAll(host.engine, [{ prompt: model.prompt, maxTokens: model.greedy.length, ignoreEos: true }]);
    expect(outcome!.tokens).toEqual(model.greedy);
  });
});
