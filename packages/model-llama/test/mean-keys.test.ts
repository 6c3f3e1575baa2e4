import { describe, expect, it } from 'vitest';
import { meanKeys, outgrownAt } from '../src/mean-keys.js';

describe('the keys that a mean is over', () => {
  it('are most of the keys, without the last ones', () => {
    for (let keys = 16; keys < 20_000; keys += 1) {
      const mean = meanKeys(keys);
      if (mean > keys - Math.floor(keys / 32) || mean < (6 / 7) * keys) throw new Error(`${mean} of ${keys}`);
    }
  });

  it('are eight numbers from one power of two to the next', () => {
    const seen = [4096];
    for (let keys = 4229; keys < 65_536; keys += 1) {
      const mean = meanKeys(keys);
      if (mean < seen.at(-1)!) throw new Error(`${mean} after ${seen.at(-1)}`);
      if (mean > seen.at(-1)!) seen.push(mean);
    }
    expect(seen.length).toBe(32);
    expect([7000, 7398, 7399, 8191, 8192, 8457].map(meanKeys)).toEqual([6656, 6656, 7168, 7680, 7680, 8192]);
  });

  it('are outgrown by a third to a half, at different lengths for different staggers', () => {
    expect([0, 0.5, 0.999].map((stagger) => outgrownAt(6000, stagger))).toEqual([8001, 8501, 9000]);
  });
});
