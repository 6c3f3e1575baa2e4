import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import type { WeightFormat } from '../src/backend.js';
import { openCheckpoint } from '../src/checkpoint/open-checkpoint.js';
import { createModelHost, type ModelHost } from '../src/model-host.js';
import { runAll } from './collect.js';
import { describeRealModel } from './real-model.js';

interface Fixture {
  /** A prompt of 512 tokens. */
  tokens: number[];
  sketchSize: number;
  /** Count sketches of the logits, float32 [512, sketchSize]; see scripts/make_smollm2_fixtures.py. */
  sketch: string;
  /** Euclidean norms of the logits, float32 [512]. */
  norms: string;
  argmax: number[];
  prompts: { text: string; prompt: number[]; greedy: number[] }[];
}

const file = new URL('./fixtures/smollm2.json', import.meta.url);
const fixture = JSON.parse(readFileSync(file, 'utf8')) as Fixture;
const floats = (base64: string) => new Float32Array(new Uint8Array(Buffer.from(base64, 'base64')).buffer);

function mix(x: number): number {
  x ^= x >>> 16;
  x = Math.imul(x, 0x85ebca6b);
  x ^= x >>> 13;
  x = Math.imul(x, 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
}

/** Count sketch of one position's logits, as the script makes it. */
function sketchOf(logits: Float32Array, size: number): Float64Array {
  const sketch = new Float64Array(size);
  for (const [id, logit] of logits.entries()) {
    const hash = mix(id);
    sketch[(hash >>> 1) % size]! += hash & 1 ? logit : -logit;
  }
  return sketch;
}

/** Estimated relative error of the logits at each of the 512 positions, and how often the largest one agrees. */
function compare(host: ModelHost): { errors: number[]; agreement: number } {
  const { sketchSize } = fixture;
  const sketches = floats(fixture.sketch);
  const norms = floats(fixture.norms);
  const tokens = Int32Array.from(fixture.tokens);
  using sequence = host.cache.open();
  const errors: number[] = [];
  let agreement = 0;
  for (let begin = 0; begin < tokens.length; begin += 64) {
    const chunk = tokens.subarray(begin, begin + 64);
    const { logits } = host.llama.forward([{ sequence, tokens: chunk, promptTokens: tokens.length, logits: 'all' }]);
    for (const [i, row] of logits.entries()) {
      const position = begin + i;
      const expected = sketches.subarray(position * sketchSize, (position + 1) * sketchSize);
      const difference = sketchOf(row, sketchSize).map((value, bucket) => value - expected[bucket]!);
      errors.push(Math.hypot(...difference) / norms[position]!);
      agreement += row.indexOf(row.reduce((a, b) => Math.max(a, b))) === fixture.argmax[position] ? 1 : 0;
    }
  }
  return { errors, agreement: agreement / tokens.length };
}

async function load(path: string, weights: WeightFormat, threads = 2): Promise<ModelHost> {
  using checkpoint = await openCheckpoint(path);
  return await createModelHost(checkpoint, { weights, threads, cacheBytes: 2 ** 30, attention: { policy: 'dense' } });
}

describeRealModel('SmolLM2-135M-Instruct against Hugging Face', (path) => {
  it('f32: logits within 1e-4 at every position, the same 64 greedy tokens for five prompts', async () => {
    using host = await load(path, 'f32');
    const { errors, agreement } = compare(host);
    expect(errors.length).toBe(512);
    expect(Math.max(...errors)).toBeLessThan(1e-4);
    expect(agreement).toBe(1);

    const requests = fixture.prompts.map(({ prompt }) => ({
      prompt: Int32Array.from(prompt),
      maxTokens: 64,
      ignoreEos: true,
    }));
    const outcomes = runAll(host.engine, requests);
    expect(outcomes.map(({ tokens }) => tokens)).toEqual(fixture.prompts.map(({ greedy }) => greedy));
  });

  // Single positions are up to 8e-2 off: rounding nothing but the weights to bfloat16 makes 4.7e-2 in Hugging Face's own
  // implementation, and its bfloat16 mode 13e-2 (2.4e-2 on average).
  it('bf16: logits within 2e-2 over all positions', async () => {
    using host = await load(path, 'bf16');
    const { errors, agreement } = compare(host);
    expect(Math.sqrt(errors.reduce((sum, error) => sum + error ** 2, 0) / errors.length)).toBeLessThan(2e-2);
    expect(Math.max(...errors)).toBeLessThan(0.1);
    expect(agreement).toBeGreaterThan(0.95);
  });

  it('q8, the blocks of the file: logits within 1e-2 over all positions', async () => {
    using host = await load(path, 'q8');
    const { errors, agreement } = compare(host);
    expect(Math.sqrt(errors.reduce((sum, error) => sum + error ** 2, 0) / errors.length)).toBeLessThan(1e-2);
    expect(agreement).toBeGreaterThan(0.98);
  });

  it('keeps the blocks of its file unless told otherwise', async () => {
    using checkpoint = await openCheckpoint(path);
    using host = await createModelHost(checkpoint, { threads: 1, cacheBytes: 2 ** 26 });
    expect(host.info.weights).toBe('q8');
  });

  const title = 'gives a request the same tokens alone and beside others, dense and sampled, on one thread and two, %s';
  it.each(['bf16', 'q8'] as const)(title, async (weights) => {
    const tokens = Int32Array.from(fixture.tokens);
    const requests = [
      { prompt: tokens, attention: { policy: 'magicpig', minContext: 0 } as const },
      { prompt: tokens.subarray(0, 300), attention: { policy: 'dense' } as const, temperature: 1, seed: 3 },
      { prompt: tokens.subarray(100), attention: { policy: 'magicpig', minContext: 0, K: 8, L: 75 } as const },
    ].map((request) => ({ ...request, maxTokens: 80, ignoreEos: true }));
    using one = await load(path, weights, 1);
    using two = await load(path, weights, 2);
    const together = runAll(two.engine, requests);
    for (const [i, request] of requests.entries()) {
      expect(runAll(one.engine, [request])[0]!.tokens).toEqual(together[i]!.tokens);
      expect(together[i]!.tokens.length).toBe(80);
    }
    expect(together[0]!.end!.attention.sampledSteps).toBe(79);
  });

  it('tokenizes a conversation as Hugging Face does', async () => {
    using checkpoint = await openCheckpoint(path);
    for (const { text, prompt } of fixture.prompts) {
      expect([...checkpoint.tokenizer.applyChatTemplate([{ role: 'user', content: text }])]).toEqual(prompt);
    }
  });
});
