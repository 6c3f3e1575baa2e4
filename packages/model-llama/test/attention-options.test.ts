import { describe, expect, it } from 'vitest';
import type { AttentionOptions } from '../src/api.js';
import { resolveAttention } from '../src/attention-options.js';
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

  it('refuse an unknown policy and options of another one', () => {
    expect(() => resolveAttention({ policy: 'topk' } as unknown as AttentionOptions, 4)).toThrow(
      /'dense', 'magicpig' or 'custom'/,
    );
    expect(() => resolveAttention({ policy: 'dense', K: 10 } as AttentionOptions, 4)).toThrow(
      /no meaning with policy 'dense'/,
    );
    expect(() => resolveAttention('dense' as unknown as AttentionOptions, 4)).toThrow(InvalidRequestError);
  });
});
