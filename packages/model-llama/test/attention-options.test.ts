import { describe, expect, it } from 'vitest';
import type { AttentionOptions } from '../src/api.js';
import { resolveAttention, SKETCH_DEFAULTS } from '../src/attention-options.js';
import { InvalidRequestError } from '../src/errors.js';

describe('attention options', () => {
  it('have the paper’s defaults', () => {
    expect(resolveAttention({ policy: 'magicpig' }, 33)).toMatchObject({
      K: 10,
      L: 150,
      sink: 4,
      window: 64,
      denseLayers: [0, 16, 32],
      seed: 0,
      sampledPromptTokens: 0,
    });
    expect(resolveAttention({ policy: 'dense' }, 33)).toEqual({ policy: 'dense' });
  });

  it('keep what is given', () => {
    const given = {
      policy: 'magicpig',
      K: 8,
      L: 75,
      sink: 0,
      window: 1,
      denseLayers: [3, 1, 3],
      minContext: 0,
      seed: 2 ** 40,
      sampledPromptTokens: 7,
    } as const;
    expect(resolveAttention({ ...given, denseLayers: [...given.denseLayers] }, 4)).toEqual({
      ...given,
      denseLayers: [1, 3],
    });
  });

  it.each([
    ['K', { K: 0 }],
    ['K', { K: 17 }],
    ['K', { K: 2.5 }],
    ['L', { L: 0 }],
    ['L', { L: 4097 }],
    ['sink', { sink: -1 }],
    ['window', { window: 0 }],
    ['window', { window: '64' }],
    ['minContext', { minContext: Number.NaN }],
    ['seed', { seed: -1 }],
    ['sampledPromptTokens', { sampledPromptTokens: -1 }],
    ['denseLayers', { denseLayers: [4] }],
    ['denseLayers', { denseLayers: 'all' }],
    ['k', { k: 10 }],
  ])('refuse a bad %s: %j', (name, options) => {
    const refused = () => resolveAttention({ policy: 'magicpig', ...options } as AttentionOptions, 4);
    expect(refused).toThrow(InvalidRequestError);
    expect(refused).toThrow(`attention.${name} `);
  });

  it('of sketches have their defaults, and keep what is given', () => {
    expect(resolveAttention({ policy: 'sketch' }, 33)).toEqual({
      policy: 'sketch',
      ...SKETCH_DEFAULTS,
      denseLayers: [0, 16, 32],
    });
    const given = { bits: 4, floor: 0.1, sink: 0, window: 1, denseLayers: [1], minContext: 0, seed: 5 };
    for (const budget of [{ share: 1 }, { count: 300 }, { error: 0.05, min: 0.01, max: 0.5 }]) {
      const resolved = resolveAttention({ policy: 'sketch', budget, ...given }, 4);
      expect(resolved).toEqual({ policy: 'sketch', budget, ...given });
    }
    expect(resolveAttention({ policy: 'sketch', budget: { error: 0.1, min: 0.3 } }, 4)).toMatchObject({
      budget: { error: 0.1, min: 0.3, max: 0.3 },
    });
  });

  it.each([
    ['bits', { bits: 0 }],
    ['bits', { bits: 5 }],
    ['bits', { bits: 1.5 }],
    ['floor', { floor: 0 }],
    ['floor', { floor: Number.NaN }],
    ['floor', { floor: '0.02' }],
    ['budget', { budget: 0.05 }],
    ['budget', { budget: {} }],
    ['budget', { budget: { share: 0.05, count: 3 } }],
    ['budget', { budget: { error: 0.05, least: 1 } }],
    ['budget.share', { budget: { share: 0 } }],
    ['budget.share', { budget: { share: 1.1 } }],
    ['budget.count', { budget: { count: 0.5 } }],
    ['budget.error', { budget: { error: -1 } }],
    ['budget.min', { budget: { error: 0.05, min: 2 } }],
    ['budget.max', { budget: { error: 0.05, min: 0.2, max: 0.1 } }],
    ['window', { window: 0 }],
    ['seed', { seed: 0.5 }],
    ['denseLayers', { denseLayers: [-1] }],
    ['K', { K: 10 }],
    ['sampledPromptTokens', { sampledPromptTokens: 0 }],
  ])('of sketches refuse a bad %s: %j', (name, options) => {
    const refused = () => resolveAttention({ policy: 'sketch', ...options } as AttentionOptions, 4);
    expect(refused).toThrow(InvalidRequestError);
    expect(refused).toThrow(`attention.${name} `);
  });

  it('refuse an unknown policy and options of another one', () => {
    expect(() => resolveAttention({ policy: 'topk' } as unknown as AttentionOptions, 4)).toThrow(
      /'dense', 'magicpig', 'sketch' or 'custom'/,
    );
    expect(() => resolveAttention({ policy: 'toString' } as unknown as AttentionOptions, 4)).toThrow(
      InvalidRequestError,
    );
    expect(() => resolveAttention({ policy: 'dense', K: 10 } as AttentionOptions, 4)).toThrow(
      /no meaning with policy 'dense'/,
    );
    expect(() => resolveAttention('dense' as unknown as AttentionOptions, 4)).toThrow(InvalidRequestError);
  });
});
