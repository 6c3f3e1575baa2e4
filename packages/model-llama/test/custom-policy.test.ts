// The worker is the built one (dist/worker.js): build the package before running these.
import { describe, expect, it } from 'vitest';
import type { AttentionOptions, GenerationEvent, LlamaModel, LoadOptions } from '../src/api.js';
import { InvalidRequestError } from '../src/errors.js';
import { loadLlama } from '../src/load-llama.js';
import { loadPolicies } from '../src/load-policies.js';

const TOP_K = new URL('../examples/top-k-policy.mjs', import.meta.url).href;
const load = (options: LoadOptions = {}) => loadLlama('random:tiny', { cacheBytes: 2 ** 26, threads: 1, ...options });

type End = Extract<GenerationEvent, { type: 'end' }>;

async function generate(model: LlamaModel, attention: AttentionOptions): Promise<{ tokens: number[]; end: End }> {
  const tokens: number[] = [];
  for await (const event of model.generate('x'.repeat(300), { attention, maxTokens: 30, ignoreEos: true })) {
    if (event.type === 'token') tokens.push(event.token);
    if (event.type === 'end') return { tokens, end: event };
  }
  throw new Error('no end');
}

describe('a policy from a module', () => {
  it('decides what decoded tokens attend to', async () => {
    await using model = await load({ policies: { 'top-k': TOP_K } });
    const dense = await generate(model, { policy: 'dense' });
    const few = await generate(model, { policy: 'custom', name: 'top-k', options: { keys: 8 } });
    // 3 layers, the first one exact; 4 sink tokens, 64 of the window and 8 others of 301..329.
    expect(few.end.attention).toMatchObject({ policy: 'top-k', decodeSteps: 29, sampledSteps: 29, exactTokens: 68 });
    expect(few.end.attention.keysReadShare).toBeCloseTo((1 + 2 * ((68 + 8) / 315)) / 3, 2);
    const all = await generate(model, { policy: 'custom', name: 'top-k', options: { keys: 10_000 } });
    expect(all.end.attention.keysReadShare).toBe(1);
    expect(all.tokens).toEqual(dense.tokens);
  });

  it('can be the policy of requests that name none', async () => {
    const attention: AttentionOptions = { policy: 'custom', name: 'mine' };
    await using model = await load({ policies: { mine: TOP_K }, attention });
    for await (const event of model.generate('Hello', { maxTokens: 2, ignoreEos: true })) {
      if (event.type === 'end') expect(event.attention.policy).toBe('top-k');
    }
  });

  it('refuses requests with options that it does not like, and others go on', async () => {
    await using model = await load({ policies: { 'top-k': TOP_K } });
    const custom = (options: Record<string, unknown>) => generate(model, { policy: 'custom', name: 'top-k', options });
    await expect(custom({ keys: 0 })).rejects.toThrow(/policy 'top-k': keys must be a positive integer, not 0/);
    await expect(custom({ kyes: 1 })).rejects.toThrow(InvalidRequestError);
    await expect(generate(model, { policy: 'custom', name: 'other' })).rejects.toThrow(/registered: top-k/);
    expect((await custom({})).tokens.length).toBe(30);
  });
});

describe('modules of policies', () => {
  it.each([
    ['a relative path', './my-policy.js', /absolute path or a URL/],
    ['nothing', undefined as unknown as string, /absolute path or a URL/],
    ['a file that is not there', '/nowhere/policy.mjs', /cannot be imported/],
    ['a module that throws', 'data:text/javascript,throw new Error("broken inside")', /broken inside/],
    ['a module without a policy', 'data:text/javascript,export const policy = 1', /no default export/],
  ])('are refused: %s', async (_, specifier, message) => {
    await expect(loadPolicies({ mine: specifier })).rejects.toThrow(message);
    await expect(loadPolicies({ mine: specifier })).rejects.toMatchObject({ option: 'policies.mine' });
  });

  it('may be given by path or URL', async () => {
    const { pathname } = new URL(TOP_K);
    expect([...(await loadPolicies({ a: TOP_K, b: pathname })).keys()]).toEqual(['a', 'b']);
  });

  it('fail the load', async () => {
    await expect(load({ policies: { mine: './x.js' } })).rejects.toThrow(InvalidRequestError);
  });
});
