import { describe, expect, it } from 'vitest';
import { Rope, ropeFrequencies } from '../src/rope.js';
import { randomModels } from './random-checkpoint.js';
import { ReferenceBackend } from './reference-backend.js';

describe('rotary frequencies', () => {
  it.each(randomModels())(
    'are those of Hugging Face for $name',
    ({ config, prompt, inverseFrequencies, ropeScale }) => {
      const made = ropeFrequencies(config, prompt.length);
      expect(made.scale).toBeCloseTo(ropeScale, 6);
      expect(made.inverseFrequencies.length).toBe(config.headDim / 2);
      // The reference computes powers in float32.
      for (const [j, f] of inverseFrequencies.entries()) expect(made.inverseFrequencies[j]! / f).toBeCloseTo(1, 5);
    },
  );

  it('are divided by explicit factors', () => {
    const config = { headDim: 8, ropeTheta: 10_000, ropeScaling: { type: 'default' } as const };
    const plain = ropeFrequencies(config, 0).inverseFrequencies;
    const divided = ropeFrequencies({ ...config, ropeScaling: { type: 'factors', factors: [1, 2, 4, 8] } }, 0);
    expect([...divided.inverseFrequencies]).toEqual([...plain].map((f, j) => f / 2 ** j));
  });

  it('of dynamic scaling follow each row’s own context', () => {
    const backend = new ReferenceBackend();
    const config = {
      headDim: 8,
      ropeTheta: 100,
      ropeScaling: { type: 'dynamic', factor: 2, originalMaxPositions: 10 } as const,
    };
    const table = backend.tensor(3 * 8);
    new Rope(config).fill(backend, table, Int32Array.of(3, 3, 11), Int32Array.of(5, 40, 12));
    for (const [row, [position, context]] of [
      [3, 5],
      [3, 40],
      [11, 12],
    ].entries()) {
      const { inverseFrequencies } = ropeFrequencies(config, context!);
      for (const [j, f] of inverseFrequencies.entries()) {
        expect(table.host[row * 8 + j]).toBeCloseTo(Math.cos(position! * f), 6);
        expect(table.host[row * 8 + 4 + j]).toBeCloseTo(Math.sin(position! * f), 6);
      }
    }
    expect(table.host[1]).not.toBeCloseTo(table.host[8 + 1]!, 3);
  });
});
