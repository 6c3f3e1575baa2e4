import { describe, expect, it } from 'vitest';
import type { KeptAttention, SequenceAttention } from '../src/attention-policy.js';
import type { KvSequence } from '../src/kv-cache.js';
import { PrefixCache } from '../src/prefix-cache.js';
import { hashedIntegers } from './hashed-values.js';

const BLOCK = 4;
const POLICY = 'policy';

/** Sequences that are only a length, and how many of them are open. */
function lengths() {
  const open = new Set<KvSequence>();
  const sequence = (length: number): KvSequence => {
    const one = {
      length,
      fork: () => sequence(one.length),
      truncate(to: number) {
        expect(to).toBeLessThanOrEqual(one.length);
        one.length = to;
      },
      [Symbol.dispose]() {
        expect(open.delete(one)).toBe(true);
      },
    };
    open.add(one);
    return one;
  };
  return { open, sequence };
}

function setup() {
  const { open, sequence } = lengths();
  const cache = new PrefixCache(sequence(0), { blockTokens: BLOCK, blockBytes: 100 });
  const insert = (tokens: Int32Array, exactTokens = tokens.length, policy = POLICY) => {
    const whole = sequence(tokens.length);
    const node = cache.insert(whole, tokens, exactTokens, policy);
    whole[Symbol.dispose]();
    return node;
  };
  const match = (tokens: Int32Array, policy = POLICY) => {
    const found = cache.match(tokens, policy, tokens.length);
    if (found) expect(found.node.cache.length).toBeGreaterThanOrEqual(found.tokens);
    return found && [found.tokens, found.exactTokens];
  };
  return { cache, open, insert, match };
}

const range = (begin: number, end: number) => Int32Array.from({ length: end - begin }, (_, i) => begin + i);
const state = (leastTokens = 0): KeptAttention & { disposed: boolean } => ({
  bytes: 10,
  leastTokens,
  disposed: false,
  [Symbol.dispose]() {
    this.disposed = true;
  },
});

describe('prefix cache', () => {
  it('finds whole blocks of what begins alike', () => {
    const { insert, match } = setup();
    expect(match(range(0, 12))).toBeUndefined();
    insert(range(0, 18));
    expect(match(range(0, 30))).toEqual([16, 16]);
    expect(match(range(0, 15))).toEqual([12, 12]);
    expect(match(range(0, 3))).toBeUndefined();
    expect(match(range(1, 20))).toBeUndefined();
    expect(match(Int32Array.of(...range(0, 9), 77, 78, 79))).toEqual([8, 8]);
  });

  it('is a set of strings: the longest common beginning of many is found', () => {
    const { insert, match, cache } = setup();
    const texts = Array.from({ length: 60 }, (_, i) => hashedIntegers(`prefix-cache/${i}`, 5 + ((i * 7) % 50), 2));
    for (const text of texts) insert(text);
    for (const text of Array.from({ length: 60 }, (_, i) => hashedIntegers(`prefix-cache/query ${i}`, 40, 2))) {
      const common = texts.map((other) => {
        let same = 0;
        while (same < other.length && other[same] === text[same]) same += 1;
        return Math.floor(same / BLOCK) * BLOCK;
      });
      const longest = Math.max(...common);
      expect(match(text)).toEqual(longest === 0 ? undefined : [longest, longest]);
    }
    // As many blocks as there are different beginnings of whole blocks.
    const beginnings = texts.flatMap((text) =>
      Array.from({ length: Math.floor(text.length / BLOCK) }, (_, i) => text.slice(0, (i + 1) * BLOCK).join()),
    );
    expect(cache.bytes).toBe(new Set(beginnings).size * 100);
  });

  it('gives answers to their own policy only, and what follows them', () => {
    const { insert, match } = setup();
    insert(range(0, 20), 9);
    expect(match(range(0, 20))).toEqual([20, 8]);
    expect(match(range(0, 20), 'other')).toEqual([8, 8]);
    // The same tokens as a prompt: exact, for everybody.
    insert(range(0, 16), 16, 'other');
    expect(match(range(0, 20), 'other')).toEqual([16, 16]);
    expect(match(range(0, 20))).toEqual([16, 16]);
  });

  it('frees what was unused for the longest time, and nothing that is held', () => {
    const { insert, match, cache, open } = setup();
    insert(range(0, 8));
    insert(Int32Array.of(...range(0, 4), ...range(50, 58)));
    const held = insert(range(100, 108));
    const holder = { policyKey: POLICY, memory: undefined };
    cache.hold(held, holder);
    match(range(0, 8));
    expect(cache.bytes).toBe(600);
    expect(cache.evict()).toBe(true); // 50..58
    expect(match(Int32Array.of(...range(0, 4), ...range(50, 58)))).toEqual([4, 4]);
    expect(cache.evict()).toBe(true); // 4..8
    expect(cache.evict()).toBe(true); // 0..4, a leaf by now
    expect(cache.evict()).toBe(false);
    cache.release(held, holder);
    expect(cache.evict()).toBe(true);
    expect(cache.bytes).toBe(0);
    expect(open.size).toBe(1);
    cache[Symbol.dispose]();
    expect(open.size).toBe(0);
  });

  it('frees state of what is held when there is nothing else', () => {
    const { insert, cache } = setup();
    const [held, used] = [insert(range(0, 8)), insert(range(50, 58))];
    const [older, newer] = [state(), state()];
    cache.attach(held, POLICY, older, 8);
    cache.attach(used, POLICY, newer, 8);
    for (const node of [held, used]) cache.hold(node, { policyKey: POLICY, memory: undefined });
    expect(cache.evict()).toBe(true);
    expect([older.disposed, newer.disposed, cache.bytes]).toEqual([true, false, 400 + 10]);
    expect(cache.evict()).toBe(true);
    expect(cache.evict()).toBe(false);
    expect(cache.bytes).toBe(400);
  });

  it('knows the sequences of a policy that begin alike, running and kept, most alike first', () => {
    const { insert, cache } = setup();
    const run = (tokens: Int32Array, policyKey = POLICY) => {
      const attention = { bytes: 0, ready: true } as SequenceAttention;
      const holder = { policyKey, memory: { attention } };
      const node = insert(tokens);
      cache.hold(node, holder);
      return { node, holder, attention };
    };
    const text = (...rest: number[]) => Int32Array.of(...range(0, 8), ...rest);
    const self = run(text(1, 1, 1, 1, 2, 2, 2, 2));
    const near = run(text(1, 1, 1, 1, 3, 3, 3, 3));
    const far = run(text(9, 9, 9, 9));
    run(text(1, 1, 1, 1, 4, 4, 4, 4), 'other');
    const kept = state();
    cache.attach(insert(text(1, 1, 1, 1, 6, 6, 6, 6)), POLICY, kept, 16);
    cache.hold(insert(text(5, 5, 5, 5)), { policyKey: POLICY, memory: undefined }); // does not run yet
    const neighbours = () => {
      const seen = new Map<unknown, number>();
      for (const { state, tokens } of cache.neighbours(self.node, self.holder)) {
        if (!seen.has(state)) seen.set(state, tokens);
      }
      return [...seen];
    };
    expect(neighbours()).toEqual([
      [near.attention, 12],
      [kept, 12],
      [far.attention, 8],
    ]);
    cache.release(near.node, near.holder);
    expect(neighbours()).toEqual([
      [kept, 12],
      [far.attention, 8],
    ]);
  });

  it('keeps a policy’s state for the sequence most like its own', () => {
    const { insert, cache } = setup();
    const take = (tokens: Int32Array, policy = POLICY) => cache.take(cache.match(tokens, policy, 100)!, policy);
    const [near, far] = [state(8), state(4)];
    const text = (...rest: number[]) => Int32Array.of(...range(0, 8), ...rest);
    cache.attach(insert(text(1, 1, 1, 1, 2, 2, 2, 2)), POLICY, near, 16);
    cache.attach(insert(text(9, 9, 9, 9)), POLICY, far, 12);
    expect(cache.keptBytes).toBe(20);
    expect(take(text(1, 1, 1, 1), 'other')).toBeUndefined();
    expect(take(text(1, 1, 1, 1))).toEqual({ state: near, tokens: 12 });
    expect(take(text(1, 1, 1, 1))).toEqual({ state: far, tokens: 8 });
    expect(take(text(1, 1, 1, 1))).toBeUndefined();
    expect(cache.keptBytes).toBe(0);
  });

  it('does not give state to sequences that have too little in common with its own', () => {
    const { insert, cache } = setup();
    const kept = state(12);
    cache.attach(insert(range(0, 16)), POLICY, kept, 16);
    const other = Int32Array.of(...range(0, 8), ...range(50, 58));
    expect(cache.take(cache.match(other, POLICY, 16)!, POLICY)).toBeUndefined();
    expect(cache.take(cache.match(range(0, 12), POLICY, 12)!, POLICY)).toEqual({ state: kept, tokens: 12 });
  });

  it('remembers how far state goes when its node grows', () => {
    const { insert, cache } = setup();
    // A prompt of 8 tokens, whose state also knows an answer that is not kept.
    cache.attach(insert(range(0, 8)), POLICY, state(), 8);
    insert(range(0, 16));
    expect(cache.take(cache.match(range(0, 16), POLICY, 16)!, POLICY)!.tokens).toBe(8);
  });

  it('drops state that no sequence could go on from', () => {
    const { insert, cache } = setup();
    const [tooLong, tooShort] = [state(9), state()];
    cache.attach(insert(range(0, 11)), POLICY, tooLong, 11);
    cache.attach(insert(range(0, 3)), POLICY, tooShort, 3);
    expect([tooLong.disposed, tooShort.disposed, cache.keptBytes]).toEqual([true, true, 0]);
  });

  it('drops the state that newer state replaces, and all of it at the end', () => {
    const { insert, cache } = setup();
    const [first, second] = [state(), state()];
    cache.attach(insert(range(0, 8)), POLICY, first, 8);
    cache.attach(insert(range(0, 8)), POLICY, second, 8);
    expect([first.disposed, second.disposed]).toEqual([true, false]);
    expect(cache.bytes).toBe(200 + 10);
    cache[Symbol.dispose]();
    expect(second.disposed).toBe(true);
  });

  it('lists its branches as whole sequences, used last first', () => {
    const { insert, cache } = setup();
    insert(range(0, 16), 8);
    insert(Int32Array.of(...range(0, 4), 9, 9, 9, 9), 8);
    expect(cache.leaves().map(({ tokens, exactTokens }) => [[...tokens], exactTokens])).toEqual([
      [[0, 1, 2, 3, 9, 9, 9, 9], 8],
      [[...range(0, 16)], 8],
    ]);
  });
});
