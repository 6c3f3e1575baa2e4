// The whole forward pass on the emulated device, at small sizes.
import { describe, expect, it } from 'vitest';
import type { LoadOptions } from '../src/api.js';
import { createModelHost, type ModelHost } from '../src/model-host.js';
import { type RandomModel, randomCheckpoint, randomModels, tensorShapes } from './random-checkpoint.js';
import { relativeError } from './relative-error.js';

const SMALL = { cacheBytes: 2 ** 26, maxSequences: 4, contextTokens: 512, threads: 1 } as const;

function load(model: Pick<RandomModel, 'name' | 'config' | 'tensors'>, options: LoadOptions): Promise<ModelHost> {
  return createModelHost(randomCheckpoint(model), { ...SMALL, ...options }, { emulate: true });
}

/** A small model whose matrices come in whole blocks of 32. */
function blockModel() {
  const [{ config: like }] = randomModels() as [RandomModel];
  const sizes = {
    hiddenSize: 64,
    intermediateSize: 96,
    queryHeads: 4,
    kvHeads: 2,
    headDim: 32,
    layers: 3,
    vocabSize: 96,
  };
  const config = { ...like, ...sizes, maxPositions: 512 };
  const prompt = Int32Array.from({ length: 40 }, (_, i) => (i * 29) % config.vocabSize);
  return { name: 'blocks', config, tensors: tensorShapes(config), prompt };
}

/** Logits of a prompt's every position, given in pieces that end at `ends`. */
function logitsOf(host: ModelHost, prompt: Int32Array, ends: number[]): Float32Array[] {
  using sequence = host.cache.open();
  const promptTokens = prompt.length;
  const rows: Float32Array[] = [];
  for (const [i, end] of ends.entries()) {
    const tokens = prompt.subarray(ends[i - 1] ?? 0, end);
    const { logits } = host.llama.forward([{ sequence, tokens, promptTokens, logits: 'all' }]);
    rows.push(...logits.map((row) => row.slice()));
  }
  return rows;
}

describe.each([
  ['keys on the device', { policy: 'dense' }],
  ['keys in host memory', { policy: 'magicpig' }],
] as const)('forward pass on a device, %s', (_, attention) => {
  it.each(randomModels())('gives Hugging Face’s logits: $name', async (model) => {
    using host = await load(model, { backend: 'cuda', weights: 'bf16', attention });
    const { prompt } = model;
    // A prompt at once, in two pieces, and token by token at the end.
    for (const ends of [[prompt.length], [7, prompt.length - 2, prompt.length - 1, prompt.length]]) {
      for (const [i, row] of logitsOf(host, prompt, ends).entries()) {
        expect(relativeError(row, model.logits[i]!)).toBeLessThan(2e-2);
      }
    }
  });

  it.each(['q8', 'q4'] as const)('gives the CPU’s logits with %s weights', async (weights) => {
    const model = blockModel();
    using cuda = await load(model, { backend: 'cuda', weights, attention });
    using cpu = await load(model, { backend: 'cpu', weights, attention });
    const ends = [model.prompt.length - 1, model.prompt.length];
    const expected = logitsOf(cpu, model.prompt, ends);
    for (const [i, row] of logitsOf(cuda, model.prompt, ends).entries()) {
      expect(relativeError(row, expected[i]!)).toBeLessThan(6e-2); // the CPU rounds its inputs to 8 bits
    }
  });
});
