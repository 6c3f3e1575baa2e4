import { describe, expect, it } from 'vitest';
import { resolveAttention } from '../src/attention-options.js';
import { CacheTooSmallError } from '../src/errors.js';
import { PolicyFactory } from '../src/policy-factory.js';
import { runAll, submit } from './collect.js';
import { relativeError } from './relative-error.js';
import { config, decodeLogits, errorsOverSeeds, host, prompt } from './sampled-model.js';

const SKETCH = { policy: 'sketch', minContext: 0, window: 16, budget: { share: 0.2 } } as const;
const EVERYTHING = { ...SKETCH, budget: { share: 1 } } as const;

const outcomeOf = async (attention: object, promptTokens: number, maxTokens: number) => {
  using parts = await host();
  const [outcome] = runAll(parts.engine, [
    { prompt: prompt(promptTokens), maxTokens, ignoreEos: true, attention: { ...SKETCH, ...attention } },
  ]);
  return outcome!;
};

describe('sketch', () => {
  it.each([1, 2, 3, 4])('with a budget of all keys equals dense, also for generated tokens: %i bits', async (bits) => {
    const dense = await decodeLogits({ policy: 'dense' }, 300, 100);
    const everything = await decodeLogits({ ...EVERYTHING, bits }, 300, 100);
    for (const [i, row] of everything.entries()) expect(relativeError(row, dense[i]!)).toBeLessThan(1e-5);
  });

  it('estimates what dense computes: the mean over seeds comes nearer, for the coarsest sketch too', async () => {
    const { single, ofMean } = await errorsOverSeeds({ ...SKETCH, bits: 1 }, 25);
    expect(single).toBeGreaterThan(0.001);
    // Independent errors would fall to a fifth.
    expect(ofMean).toBeLessThan(single / 2.5);
  });

  it('errs less with more bits and with more keys', async () => {
    const [dense] = await decodeLogits({ policy: 'dense' }, 1000, 1);
    const error = async (attention: object) => {
      let sum = 0;
      for (let seed = 0; seed < 5; seed += 1) {
        const [row] = await decodeLogits({ ...SKETCH, ...attention, seed }, 1000, 1);
        sum += relativeError(row!, dense!);
      }
      return sum;
    };
    const coarse = await error({ bits: 1, budget: { share: 0.02 } });
    expect(await error({ bits: 4, budget: { share: 0.2 } })).toBeLessThan(coarse / 2);
  });

  it('is exact in the layers that are to be dense', async () => {
    const dense = await decodeLogits({ policy: 'dense' }, 300, 5);
    expect(await decodeLogits({ ...SKETCH, denseLayers: [0, 1, 2, 3] }, 300, 5)).toEqual(dense);
  });
});

describe('reports', () => {
  it('count what is drawn, by share and by count', async () => {
    // 1,000 tokens: sink 4, indexed 4..984, window 16.
    const { attention: share } = (await outcomeOf({}, 1000, 12)).end!;
    expect(share).toMatchObject({ policy: 'sketch', decodeSteps: 11, sampledSteps: 11 });
    expect(share.sampledShare).toBeCloseTo(0.2, 1);
    const { attention: count } = (await outcomeOf({ budget: { count: 490 } }, 1000, 12)).end!;
    expect(count.sampledShare).toBeCloseTo(0.5, 1);
    const { attention: all } = (await outcomeOf({ budget: { share: 1 } }, 1000, 12)).end!;
    expect(all).toMatchObject({ sampledShare: 1, keysReadShare: 1, samplingError: 0 });
  });

  it('give the reached error of every token, and its mean', async () => {
    const outcome = await outcomeOf({ budget: { error: 0.2 } }, 1000, 12);
    const errors = outcome.events.flatMap((event) => (event.type === 'token' ? [event.samplingError] : []));
    // The first token comes out of the prompt, which is exact.
    expect(errors[0]).toBeUndefined();
    expect(errors.slice(1)).toHaveLength(11);
    for (const error of errors.slice(1)) {
      expect(error).toBeGreaterThan(0);
      expect(error).toBeLessThanOrEqual(0.2 * 1.001);
    }
    const mean = errors.slice(1).reduce((sum: number, error) => sum + error! / 11, 0);
    expect(outcome.end!.attention.samplingError).toBeCloseTo(mean, 9);
    const finer = await outcomeOf({ budget: { error: 0.05 } }, 1000, 12);
    expect(finer.end!.attention.samplingError).toBeLessThan(0.06);
    expect(finer.end!.attention.sampledShare).toBeGreaterThan(1.5 * outcome.end!.attention.sampledShare);
  });

  it('have no error when nothing was sampled', async () => {
    const { attention } = (await outcomeOf({ minContext: 500 }, 100, 10)).end!;
    expect(attention).toEqual({
      policy: 'sketch',
      decodeSteps: 9,
      sampledSteps: 0,
      exactTokens: 0,
      sampledShare: 0,
      keysReadShare: 1,
    });
  });
});

describe('memory of the sketches', () => {
  it('stays under what was reserved, and counts as used', async () => {
    using parts = await host();
    submit(parts.engine, { prompt: prompt(700), maxTokens: 200, ignoreEos: true, attention: SKETCH });
    const factory = new PolicyFactory({ config, cache: parts.cache, pool: parts.backend.pool });
    const policy = factory.policy(resolveAttention(SKETCH, config.layers));
    let most = 0;
    while (parts.engine.step()) {
      const sketches = parts.engine.stats.cacheBytesUsed - parts.cache.bytes;
      most = Math.max(most, sketches);
      expect(sketches).toBeLessThanOrEqual(policy.bytesFor(900));
    }
    // 3 layers of 2 KV heads, 2 bits a dimension and 2 bytes a key.
    expect(most).toBeGreaterThan(3 * 2 * 680 * ((2 * 32) / 8 + 2));
  });

  it('is part of what a request needs', async () => {
    using parts = await host({ cacheBytes: 2 ** 20 });
    const request = { prompt: prompt(1000), maxTokens: 10, ignoreEos: true };
    const [fits] = runAll(parts.engine, [{ ...request, attention: { policy: 'dense' } }]);
    expect(fits!.end).toBeDefined();
    expect(() => submit(parts.engine, { ...request, attention: { ...SKETCH, bits: 4 } })).toThrow(CacheTooSmallError);
  });
});

it('gives the same tokens beside other requests and on any number of threads', async () => {
  const requests = [SKETCH, { ...SKETCH, bits: 4, seed: 3 }, SKETCH].map((attention, i) => ({
    prompt: prompt(150 + 170 * i, `request ${i}`),
    maxTokens: 40,
    ignoreEos: true,
    temperature: i % 2,
    attention,
  }));
  const alone: number[][] = [];
  for (const request of requests) {
    using parts = await host({ threads: 1 });
    alone.push(runAll(parts.engine, [request])[0]!.tokens);
  }
  for (const threads of [1, 3]) {
    using parts = await host({ threads });
    expect(runAll(parts.engine, requests).map(({ tokens }) => tokens)).toEqual(alone);
  }
});
