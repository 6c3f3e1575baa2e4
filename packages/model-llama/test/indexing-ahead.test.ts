import { describe, expect, it } from 'vitest';
import type { AttentionOptions } from '../src/api.js';
import { resolveAttention } from '../src/attention-options.js';
import { IndexedAttention } from '../src/indexed-attention.js';
import type { ModelHost } from '../src/model-host.js';
import { PolicyFactory } from '../src/policy-factory.js';
import { type Outcome, streamOf, submit } from './collect.js';
import { config, host, prompt } from './sampled-model.js';

const MIN_CONTEXT = 640;
const WINDOW = 16;
const HEADS = 3 * config.kvHeads; // of sampled layers
const SAMPLED: AttentionOptions = { policy: 'magicpig', K: 6, L: 40, minContext: MIN_CONTEXT, window: WINDOW };
const SKETCH: AttentionOptions = { policy: 'sketch', minContext: MIN_CONTEXT, window: WINDOW };

/** Runs a stream to its end: for each step the tokens in the cache before it, keys indexed in it, and whether the stream went on. */
function run(parts: ModelHost, attention: AttentionOptions, promptTokens: number, maxTokens: number) {
  let indexed = 0;
  const readKeys = parts.cache.readKeys.bind(parts.cache);
  parts.cache.readKeys = (...[sequence, layer, head, begin, end, out]: Parameters<typeof readKeys>) => {
    indexed += end - begin;
    return readKeys(sequence, layer, head, begin, end, out);
  };
  const request = { prompt: prompt(promptTokens), maxTokens, ignoreEos: true, temperature: 0.7, attention };
  const { outcome } = submit(parts.engine, request);
  const steps: { context: number; keys: number; tokens: number; tableBytes: number }[] = [];
  for (let more = true; more; ) {
    const [context, before] = [promptTokens + outcome.tokens.length - 1, outcome.tokens.length];
    indexed = 0;
    more = parts.engine.step();
    const tableBytes = parts.engine.stats.cacheBytesUsed - parts.cache.bytes;
    steps.push({ context, keys: indexed, tokens: outcome.tokens.length - before, tableBytes });
  }
  return { outcome, steps: steps.filter(({ context }) => context >= promptTokens) };
}

/** More to index than one head of an index that is next, one that gets a block more, and what the new index lacks of the last block. */
const isLong = ({ context, keys }: { context: number; keys: number }) => keys > context + (1 + config.kvHeads) * WINDOW;

/** The same without any work ahead. */
async function runLate(attention: AttentionOptions, promptTokens: number, maxTokens: number): Promise<Outcome> {
  const { prepareAhead } = IndexedAttention.prototype;
  IndexedAttention.prototype.prepareAhead = () => {};
  try {
    using parts = await host({ prefixCache: 'off' });
    return run(parts, attention, promptTokens, maxTokens).outcome;
  } finally {
    IndexedAttention.prototype.prepareAhead = prepareAhead;
  }
}

describe.each([
  ['magicpig', SAMPLED],
  ['sketch', SKETCH],
])('a stream whose context grows: %s', (_, attention) => {
  it('has a token in every step, and little to index in any', async () => {
    using parts = await host({ prefixCache: 'off' });
    const policies = new PolicyFactory({ config, cache: parts.cache, pool: parts.backend.pool });
    const reserved = policies.policy(resolveAttention(attention, config.layers)).bytesFor(500 + 1500);
    const { outcome, steps } = run(parts, attention, 500, 1500);
    expect(outcome.end!.attention.sampledSteps).toBe(500 + 1499 - MIN_CONTEXT);
    expect(steps.every(({ tokens }) => tokens === 1)).toBe(true);
    expect(steps.filter(isLong)).toEqual([]);
    expect(Math.max(...steps.map(({ tableBytes }) => tableBytes))).toBeLessThanOrEqual(reserved);
    // The first indexes and, when they were outgrown, others were made: each key was in about two of them.
    const total = steps.reduce((sum, { keys }) => sum + keys, 0);
    expect(total).toBeGreaterThan(2 * HEADS * 1900);
    expect(total).toBeLessThan(4.5 * HEADS * 1900);
  });

  it('has the same tokens when nothing is done ahead', async () => {
    using parts = await host({ prefixCache: 'off' });
    const { outcome } = run(parts, attention, 500, 1000);
    expect(streamOf(await runLate(attention, 500, 1000))).toEqual(streamOf(outcome));
  });

  it('samples a little later when it begins just before its context is long enough', async () => {
    using parts = await host({ prefixCache: 'off' });
    const { outcome, steps } = run(parts, attention, MIN_CONTEXT - 1, 300);
    const later = MIN_CONTEXT / 16;
    expect(outcome.end!.attention.sampledSteps).toBe(299 - later);
    expect(steps.filter(isLong)).toEqual([]);
    expect(streamOf(await runLate(attention, MIN_CONTEXT - 1, 300))).toEqual(streamOf(outcome));
  });

  it('does not build what it will not come to use', async () => {
    using parts = await host({ prefixCache: 'off' });
    const short = run(parts, attention, 500, MIN_CONTEXT - 500 + 1);
    expect(short.steps.every(({ keys, tableBytes }) => keys === 0 && tableBytes === 0)).toBe(true);
    const { outcome } = run(parts, attention, 500, MIN_CONTEXT - 500 + 2);
    expect(outcome.end!.attention.sampledSteps).toBe(1);
  });
});
