import { describe, expect, it } from 'vitest';
import { meanKeys } from '../src/mean-keys.js';

const STAGGERS = [0, 0.25, 0.5, 27 / 28];

describe('the keys that a mean is over', () => {
  it('are most of the keys, and never more than there are', () => {
    for (const stagger of STAGGERS) {
      for (let keys = 16; keys < 20_000; keys += 13) {
        const mean = meanKeys(keys, stagger);
        expect(mean).toBeLessThanOrEqual(keys);
        expect(mean).toBeGreaterThanOrEqual(Math.floor(keys * 0.8));
      }
    }
  });

  it('grow with the context, eight times from one power of two to the next', () => {
    for (const stagger of STAGGERS) {
      const seen = new Set<number>();
      for (let keys = 4096, last = 0; keys < 65_536; keys += 16) {
        const mean = meanKeys(keys, stagger);
        expect(mean).toBeGreaterThanOrEqual(last);
        seen.add(mean);
        last = mean;
      }
      expect(seen.size).toBeGreaterThanOrEqual(32);
      expect(seen.size).toBeLessThanOrEqual(33);
    }
  });

  it('change at different lengths for different staggers', () => {
    const changes = STAGGERS.map((stagger) => {
      for (let keys = 6144; ; keys += 1) if (meanKeys(keys, stagger) === 6144) return keys;
    });
    expect(changes).toEqual([6144, 6144 + 128, 6144 + 256, 6144 + Math.ceil((512 * 27) / 28)]);
  });

  it('are themselves a number that stays', () => {
    // Keys up to the mean make the same mean, so that tables can be cut back to them.
    for (let keys = 16; keys < 10_000; keys += 7) expect(meanKeys(meanKeys(keys))).toBe(meanKeys(keys));
  });
});
