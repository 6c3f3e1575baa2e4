import { describe, expect, it } from 'vitest';
import { BytePairEncoder } from '../../src/checkpoint/byte-pair-encoder.js';
import type { TokenizerJson } from '../../src/checkpoint/tokenizer-json.js';
import { random } from './seeded-random.js';

const LETTERS = ['a', 'b', 'c'];

/** A vocabulary grown by random merges, and its rules in order. */
function grown(seed: number): TokenizerJson['model'] {
  const next = random(seed);
  const tokens = [...LETTERS];
  const merges: [string, string][] = [];
  while (merges.length < 40) {
    const pair: [string, string] = [tokens[next(tokens.length)]!, tokens[next(tokens.length)]!];
    if (tokens.includes(pair.join('')) || pair.join('').length > 8) continue;
    merges.push(pair);
    tokens.push(pair.join(''));
  }
  const vocab = new Map(tokens.map((token, id) => [token, id]));
  return { vocab, merges, unknown: undefined, fuseUnknown: false, byteFallback: false, ignoreMerges: false };
}

/** The definition: while a rule applies, apply the first one at its leftmost place. */
function byDefinition({ vocab, merges }: TokenizerJson['model'], word: string): number[] {
  const symbols = [...word];
  const rules = [...merges];
  for (;;) {
    const rank = rules.findIndex(([left, right]) => symbols.some((s, i) => s === left && symbols[i + 1] === right));
    if (rank < 0) return symbols.map((symbol) => vocab.get(symbol)!);
    const at = symbols.findIndex((s, i) => s === rules[rank]![0] && symbols[i + 1] === rules[rank]![1]);
    symbols.splice(at, 2, rules[rank]!.join(''));
  }
}

const encode = (encoder: BytePairEncoder, word: string) => {
  const ids: number[] = [];
  encoder.encode(word, ids);
  return ids;
};

describe('byte-pair encoding', () => {
  it.each([1, 2, 3, 4, 5, 6, 7, 8])('follows its definition: vocabulary %i', (seed) => {
    const model = grown(seed);
    const encoder = new BytePairEncoder(model, new Set());
    const next = random(seed + 100);
    for (let i = 0; i < 200; i += 1) {
      const word = Array.from({ length: 1 + next(40) }, () => LETTERS[next(3)]).join('');
      expect([word, ...encode(encoder, word)]).toEqual([word, ...byDefinition(model, word)]);
      expect(encode(encoder, word)).toEqual(encode(encoder, word)); // remembered
    }
  });

  const vocab = new Map(['a', 'b', 'ab', '?', '<0xC3>', '<0xA9>', 'c', 'abc'].map((token, id) => [token, id]));
  const model = {
    vocab,
    merges: [['a', 'b']] as [string, string][],
    unknown: '?',
    fuseUnknown: false,
    byteFallback: false,
    ignoreMerges: false,
  };

  it('makes unknown characters into the unknown token, one for all neighbours when fused', () => {
    expect(encode(new BytePairEncoder(model, new Set()), 'xyaxb')).toEqual([3, 3, 0, 3, 1]);
    expect(encode(new BytePairEncoder({ ...model, fuseUnknown: true }, new Set()), 'xyaxb')).toEqual([3, 0, 3, 1]);
    expect(encode(new BytePairEncoder({ ...model, unknown: undefined }, new Set()), 'xab')).toEqual([2]);
  });

  it('falls back to bytes where there are all of them', () => {
    expect(encode(new BytePairEncoder({ ...model, byteFallback: true }, new Set()), 'éèa')).toEqual([4, 5, 3, 0]);
  });

  it('takes a word that is a token as that, where merges are ignored', () => {
    expect(encode(new BytePairEncoder(model, new Set()), 'abc')).toEqual([2, 6]);
    expect(encode(new BytePairEncoder({ ...model, ignoreMerges: true }, new Set()), 'abc')).toEqual([7]);
  });

  it('never makes an excluded token', () => {
    expect(encode(new BytePairEncoder({ ...model, ignoreMerges: true }, new Set([7, 2])), 'abc')).toEqual([0, 1, 6]);
  });

  it('takes a megabyte of one character in seconds', () => {
    const began = performance.now();
    const encoder = new BytePairEncoder(
      { ...model, merges: [['a', 'a']], vocab: new Map([...vocab, ['aa', 8]]) },
      new Set(),
    );
    expect(encode(encoder, 'a'.repeat(1_000_000)).length).toBe(500_000);
    expect(performance.now() - began).toBeLessThan(10_000);
  });
});
