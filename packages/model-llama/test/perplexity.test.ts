import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import type { WeightFormat } from '../src/backend.js';
import { openCheckpoint } from '../src/checkpoint/open-checkpoint.js';
import { createModelHost } from '../src/model-host.js';
import { describeRealModel } from './real-model.js';

const TEXT = new URL('../../../benchmarks/texts/esther.txt', import.meta.url);
const TOKENS = 256;
const CHUNK_TOKENS = 128;

/** Mean of -ln(probability) of a text's tokens, each after those before it. */
async function surprise(path: string, weights: WeightFormat): Promise<number> {
  using checkpoint = await openCheckpoint(path);
  using host = await createModelHost(checkpoint, { weights, threads: 2, cacheBytes: 2 ** 28 });
  const tokens = checkpoint.tokenizer.encode(readFileSync(TEXT, 'utf8')).subarray(0, TOKENS + 1);
  using sequence = host.cache.open();
  let sum = 0;
  for (let begin = 0; begin < TOKENS; begin += CHUNK_TOKENS) {
    const chunk = tokens.subarray(begin, begin + CHUNK_TOKENS);
    const { logits } = host.llama.forward([{ sequence, tokens: chunk, promptTokens: TOKENS, logits: 'all' }]);
    for (const [i, row] of logits.entries()) {
      const largest = row.reduce((a, b) => Math.max(a, b));
      const total = row.reduce((all, logit) => all + Math.exp(logit - largest), 0);
      sum += Math.log(total) + largest - row[tokens[begin + i + 1]!]!;
    }
  }
  return sum / TOKENS;
}

describeRealModel('perplexity of SmolLM2-135M-Instruct', (path) => {
  // bench/perplexity.mjs has the figures for a longer text.
  it('is within 1% of the dequantised model’s for every format', async () => {
    const exact = await surprise(path, 'f32');
    expect(Math.exp(exact)).toBeLessThan(40);
    for (const weights of ['bf16', 'q8'] as const) {
      const ratio = Math.exp((await surprise(path, weights)) - exact);
      expect(Math.abs(ratio - 1), `${weights}: ${ratio}`).toBeLessThan(0.01);
    }
  });
});
