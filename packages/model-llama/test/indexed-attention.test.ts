import { describe, expect, it } from 'vitest';
import type { AttentionOptions } from '../src/api.js';
import { resolveAttention } from '../src/attention-options.js';
import type { Neighbour, SequenceAttention } from '../src/attention-policy.js';
import type { KvSequence } from '../src/kv-cache.js';
import { PolicyFactory } from '../src/policy-factory.js';
import { config, host, prompt } from './sampled-model.js';

const TOKENS = 2000;

/** A sequence of TOKENS tokens and policies over its cache. */
async function setup(attention: AttentionOptions) {
  const parts = await host();
  const { cache, llama, backend } = parts;
  const sequence = cache.open();
  for (let begin = 0; begin < TOKENS; begin += 500) {
    const tokens = prompt(TOKENS).subarray(begin, begin + 500);
    llama.forward([{ sequence, tokens, promptTokens: TOKENS, logits: 'none' }]);
  }
  const settings = resolveAttention(attention, config.layers);
  const policy = new PolicyFactory({ config, cache, pool: backend.pool }).policy(settings);
  let indexed = 0;
  const readKeys = cache.readKeys.bind(cache);
  cache.readKeys = (...[of, layer, head, begin, end, out]: Parameters<typeof readKeys>) => {
    indexed += end - begin;
    return readKeys(of, layer, head, begin, end, out);
  };
  const open = (of: KvSequence, neighbours: Neighbour[]) => policy.open(of, undefined, () => neighbours);
  return { parts, sequence, open, indexed: () => indexed };
}

const finish = (attention: SequenceAttention) => {
  while (!attention.ready) attention.prepare(50);
};

describe.each<[string, AttentionOptions]>([
  ['magicpig', { policy: 'magicpig', K: 6, L: 40, minContext: 0, window: 16 }],
  ['sketch', { policy: 'sketch', minContext: 0, window: 16 }],
])('sequences that begin alike: %s', (_, attention) => {
  const heads = 3 * config.kvHeads;
  const keys = TOKENS - 4 - 16;

  it('wait for the one that builds, and share what it has built', async () => {
    const { parts, sequence, open, indexed } = await setup(attention);
    using _parts = parts;
    using fork = sequence.fork();
    const neighbours: Neighbour[] = [];
    using first = open(sequence, neighbours);
    using second = open(fork, [{ state: first, tokens: 1984 }]);
    neighbours.push({ state: second, tokens: 1984 });
    expect([first.waiting, second.waiting]).toEqual([false, false]);
    first.prepare(1);
    expect([first.waiting, second.waiting]).toEqual([false, true]);
    second.prepare(10_000);
    expect([second.ready, second.bytes]).toEqual([false, 0]);
    finish(first);
    const alone = first.bytes;
    expect(second.waiting).toBe(false);
    expect(indexed()).toBe(heads * keys);
    finish(second);
    expect(indexed()).toBe(heads * (keys + TOKENS - 16 - 1984));
    expect(second.sampling(1)).toMatchObject({ begin: 4, end: TOKENS - 16 });
    expect(first.bytes + second.bytes).toBeLessThan(1.8 * alone);
    first[Symbol.dispose]();
    expect(second.bytes).toBeGreaterThan(0.95 * alone);
    sequence[Symbol.dispose]();
  });

  it('can be made a layer at a time while a step computes, and forgotten when it fails', async () => {
    const { parts, sequence, open, indexed } = await setup(attention);
    using _parts = parts;
    using first = open(sequence, []);
    const [sampled, all] = [config.kvHeads * keys, Number.POSITIVE_INFINITY];
    for (const [layers, expected] of [
      [1, 0], // layer 0 is dense
      [2, sampled],
      [3, 2 * sampled],
    ] as const) {
      first.prepare(all, layers);
      expect([indexed(), first.ready]).toEqual([expected, false]);
    }
    first.prepare(all, 4);
    expect([indexed(), first.ready]).toEqual([3 * sampled, true]);
    first.abandon!();
    expect([first.ready, first.sampling(1)]).toEqual([false, null]);
    finish(first);
    expect(indexed()).toBe(6 * sampled);
    expect(first.sampling(1)).toMatchObject({ begin: 4, end: TOKENS - 16 });
    sequence[Symbol.dispose]();
  });

  it('build for themselves when that one ends before, or begins with too little in common', async () => {
    const { parts, sequence, open, indexed } = await setup(attention);
    using _parts = parts;
    using fork = sequence.fork();
    const neighbours: Neighbour[] = [];
    const first = open(sequence, []);
    using second = open(fork, neighbours);
    neighbours.push({ state: first, tokens: 1984 });
    first.prepare(1);
    expect(second.waiting).toBe(true);
    neighbours[0]!.tokens = 1600; // less than the mean is over
    expect(second.waiting).toBe(false);
    neighbours[0]!.tokens = 1984;
    first[Symbol.dispose]();
    neighbours.length = 0;
    const before = indexed();
    expect(second.waiting).toBe(false);
    finish(second);
    expect(indexed() - before).toBe(heads * keys);
    sequence[Symbol.dispose]();
  });
});
