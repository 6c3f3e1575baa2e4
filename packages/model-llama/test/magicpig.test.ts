import { describe, expect, it } from 'vitest';
import type { AttentionOptions } from '../src/api.js';
import { resolveAttention } from '../src/attention-options.js';
import { CacheTooSmallError } from '../src/errors.js';
import { PolicyFactory } from '../src/policy-factory.js';
import { runAll, submit } from './collect.js';
import { relativeError } from './relative-error.js';
import { config, decodeLogits, errorsOverSeeds, host, prompt } from './sampled-model.js';

/** Every key is a candidate, and its probability 1 but for angles near 180 degrees. */
const EVERYTHING = { policy: 'magicpig', K: 1, L: 4096, minContext: 0 } as const;
const SAMPLED = { policy: 'magicpig', K: 6, L: 40, minContext: 0, window: 16 } as const;

describe('magicpig', () => {
  it('with every key forced into the candidates equals dense', async () => {
    const dense = await decodeLogits({ policy: 'dense' }, 300, 100);
    const everything = await decodeLogits(EVERYTHING, 300, 100);
    for (const [i, row] of everything.entries()) expect(relativeError(row, dense[i]!)).toBeLessThan(1e-5);
  });

  it('estimates what dense computes: the mean over seeds comes nearer', async () => {
    const { single, ofMean } = await errorsOverSeeds({ ...SAMPLED }, 25);
    expect(single).toBeGreaterThan(0.01);
    // Independent errors would fall to a fifth.
    expect(ofMean).toBeLessThan(single / 2.5);
  });

  it('works with a single table', async () => {
    const [dense] = await decodeLogits({ policy: 'dense' }, 300, 1);
    const [single] = await decodeLogits({ ...SAMPLED, K: 1, L: 1 }, 300, 1);
    expect(relativeError(single!, dense!)).toBeLessThan(0.5);
  });

  it('is exact in the layers that are to be dense', async () => {
    const dense = await decodeLogits({ policy: 'dense' }, 300, 5);
    expect(await decodeLogits({ ...SAMPLED, denseLayers: [0, 1, 2, 3] }, 300, 5)).toEqual(dense);
  });

  it('depends on its seed', async () => {
    const [first] = await decodeLogits(SAMPLED, 300, 1);
    const [again] = await decodeLogits(SAMPLED, 300, 1);
    const [other] = await decodeLogits({ ...SAMPLED, seed: 1 }, 300, 1);
    expect(again).toEqual(first);
    expect(relativeError(other!, first!)).toBeGreaterThan(1e-5);
  });
});

describe('tables of generated tokens', () => {
  it('are around means that follow, and are otherwise those of a prompt', async () => {
    using parts = await host({ weights: 'f32' });
    const { cache, llama, backend } = parts;
    using sequence = cache.open();
    const policies = new PolicyFactory({ config, cache, pool: backend.pool });
    const policy = policies.policy(resolveAttention(SAMPLED, config.layers));
    using grown = policy.open(sequence);
    const promptTokens = 200;
    const tokens = prompt(1000, 'grown');
    llama.forward([{ sequence, tokens: tokens.subarray(0, promptTokens), promptTokens, logits: 'none' }]);
    for (let i = promptTokens; i < tokens.length; i += 1) {
      while (!grown.ready) grown.prepare(100);
      llama.forward([{ sequence, tokens: tokens.subarray(i, i + 1), promptTokens, attention: grown, logits: 'none' }]);
    }
    while (!grown.ready) grown.prepare(100);
    // 980 keys; whatever is left of 180.
    expect(grown.sampling(1)).toMatchObject({ begin: 4, end: 1000 - 16 });
    using kept = grown.keep!()!;
    expect(kept.leastTokens - 4).toBeGreaterThanOrEqual((2 / 3) * 980);
    expect(kept.leastTokens - 4).toBeLessThan(980);
  });
});

describe('reports', () => {
  async function report(attention: AttentionOptions, promptTokens: number, maxTokens: number) {
    using parts = await host();
    const [outcome] = runAll(parts.engine, [{ prompt: prompt(promptTokens), maxTokens, ignoreEos: true, attention }]);
    return outcome!.end!.attention;
  }

  it('count what is attended exactly, drawn and read', async () => {
    // 100 tokens: sink 4, indexed 4..84, window 16. 11 decode steps at 101..111 tokens: none leaves in a block.
    const { window, sink } = { window: 16, sink: 4 };
    const found = await report(SAMPLED, 100, 12);
    expect(found).toMatchObject({ policy: 'magicpig', decodeSteps: 11, sampledSteps: 11 });
    expect(found.exactTokens).toBeCloseTo(sink + window + 6, 9);
    expect(found.sampledShare).toBeGreaterThan(0);
    expect(found.sampledShare).toBeLessThan(1);
    // Layer 0 reads everything; the others the exact tokens and the share of the 80 indexed ones.
    const mean = 106;
    const read = (1 * mean + 3 * (found.exactTokens + found.sampledShare * 80)) / (4 * mean);
    expect(found.keysReadShare).toBeCloseTo(read, 2);
  });

  it('say that everything was read when every key is a candidate', async () => {
    const found = await report(EVERYTHING, 200, 10);
    expect(found.sampledShare).toBeGreaterThan(0.999);
    expect(found.keysReadShare).toBeGreaterThan(0.999);
  });

  it('show that short contexts do not sample', async () => {
    const found = await report({ ...SAMPLED, minContext: 500 }, 100, 10);
    expect(found).toEqual({
      policy: 'magicpig',
      decodeSteps: 9,
      sampledSteps: 0,
      exactTokens: 0,
      sampledShare: 0,
      keysReadShare: 1,
    });
  });

  it('show that sampling begins when the context has grown', async () => {
    const found = await report({ ...SAMPLED, minContext: 120 }, 100, 41);
    expect(found).toMatchObject({ decodeSteps: 40, sampledSteps: 20 });
  });

  it('show that generated tokens are indexed as they leave the window', async () => {
    const found = await report(SAMPLED, 100, 301);
    // Between one and two windows wait at any time, whatever the length.
    expect(found.exactTokens).toBeGreaterThan(4 + 16);
    expect(found.exactTokens).toBeLessThan(4 + 2 * 16);
  });
});

describe('the question', () => {
  it('is exact by default, and sampled on request', async () => {
    using parts = await host({ weights: 'f32' });
    const request = { prompt: prompt(400), maxTokens: 1, ignoreEos: true };
    const logprob = (attention: AttentionOptions) => {
      const [outcome] = runAll(parts.engine, [{ ...request, attention }]);
      const event = outcome!.events.find(({ type }) => type === 'token');
      return event!.type === 'token' ? event!.logprob : Number.NaN;
    };
    const exact = logprob({ policy: 'dense' });
    expect(logprob(SAMPLED)).toBe(exact);
    const sampled = logprob({ ...SAMPLED, sampledPromptTokens: 20 });
    expect(sampled).not.toBe(exact);
    expect(sampled).toBeCloseTo(exact, 0);
    expect(logprob({ ...EVERYTHING, sampledPromptTokens: 20 })).toBeCloseTo(exact, 4);
    // More than the prompt: everything is a question, and there is nothing to sample from at its start.
    expect(logprob({ ...SAMPLED, sampledPromptTokens: 1000 })).not.toBeNaN();
  });
});

describe('memory of the tables', () => {
  it('stays under what was reserved, and counts as used', async () => {
    using parts = await host();
    const request = { prompt: prompt(700), maxTokens: 200, ignoreEos: true, attention: SAMPLED };
    submit(parts.engine, request);
    const policy = new PolicyFactory({ config, cache: parts.cache, pool: parts.backend.pool }).policy(
      resolveAttention(SAMPLED, config.layers),
    );
    let most = 0;
    while (parts.engine.step()) {
      const { cacheBytesUsed } = parts.engine.stats;
      const tables = cacheBytesUsed - parts.cache.bytes;
      most = Math.max(most, tables);
      expect(tables).toBeLessThanOrEqual(policy.bytesFor(900));
    }
    expect(most).toBeGreaterThan(700 * 40 * 2 * 6);
    const { cacheBytesUsed, prefixBytes } = parts.engine.stats;
    expect(cacheBytesUsed).toBe(prefixBytes);
  });

  it('is part of what a request needs', async () => {
    using parts = await host({ cacheBytes: 2 ** 22 });
    const request = { prompt: prompt(1000), maxTokens: 10, ignoreEos: true };
    const [fits] = runAll(parts.engine, [{ ...request, attention: { policy: 'dense' } }]);
    expect(fits!.end).toBeDefined();
    expect(() => submit(parts.engine, { ...request, attention: EVERYTHING })).toThrow(CacheTooSmallError);
  });
});

describe('results', () => {
  it('are the same beside other requests, in any order of arrival, and on any number of threads', async () => {
    const requests = [SAMPLED, { policy: 'dense' } as const, { ...SAMPLED, K: 4, L: 20, seed: 3 }, SAMPLED].map(
      (attention, i) => ({
        prompt: prompt(150 + 170 * i, `request ${i}`),
        maxTokens: 40,
        ignoreEos: true,
        temperature: i % 2,
        seed: i,
        attention,
      }),
    );
    const alone: number[][] = [];
    for (const request of requests) {
      using parts = await host({ threads: 1 });
      alone.push(runAll(parts.engine, [request])[0]!.tokens);
    }
    for (const threads of [1, 2, 3]) {
      using parts = await host({ threads, maxSequences: 3 });
      const order = threads === 2 ? [...requests].reverse() : requests;
      const first = submit(parts.engine, order[0]!).outcome;
      for (let step = 0; step < 3 * threads; step += 1) parts.engine.step();
      const rest = runAll(parts.engine, order.slice(1));
      const tokens = [first, ...rest].map((outcome) => outcome.tokens);
      expect(threads === 2 ? tokens.reverse() : tokens).toEqual(alone);
    }
  });
});
