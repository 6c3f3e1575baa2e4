import { describe, expect, it } from 'vitest';
import { meanKeys, outgrown } from '../src/mean-keys.js';

describe('the keys that a mean is over', () => {
  it('are most of the keys, and never more than there are', () => {
    for (let keys = 16; keys < 20_000; keys += 1) {
      const mean = meanKeys(keys);
      if (mean > keys || mean < (8 / 9) * keys) throw new Error(`${mean} of ${keys}`);
    }
  });

  it('are eight numbers from one power of two to the next', () => {
    const seen = new Set<number>();
    for (let keys = 4096; keys < 65_536; keys += 16) seen.add(meanKeys(keys));
    expect(seen.size).toBe(32);
    expect([meanKeys(7000), meanKeys(7167), meanKeys(7168), meanKeys(8191), meanKeys(8192)]).toEqual([
      6656, 6656, 7168, 7680, 8192,
    ]);
  });

  it('are themselves a number that stays', () => {
    // Keys up to the mean make the same mean, so that an index can be cut back to them.
    for (let keys = 16; keys < 10_000; keys += 7) expect(meanKeys(meanKeys(keys))).toBe(meanKeys(keys));
  });

  it('are outgrown by a third to a half, at different lengths for different staggers', () => {
    const length = (stagger: number) => {
      for (let keys = 6000; ; keys += 1) if (outgrown(6000, keys, stagger)) return keys;
    };
    expect([length(0), length(0.5), length(0.999)]).toEqual([8001, 8501, 9000]);
  });
});
