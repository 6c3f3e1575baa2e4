import type { AttentionOptions } from './api.js';
import { InvalidRequestError } from './errors.js';

/** {@link AttentionOptions} with every value present and checked. */
export type AttentionSettings =
  | { policy: 'dense' }
  | {
      policy: 'magicpig';
      K: number;
      L: number;
      sink: number;
      window: number;
      denseLayers: number[];
      minContext: number;
      seed: number;
      sampledPromptTokens: number;
    }
  | { policy: 'custom'; name: string; options: Record<string, unknown> };

/**
 * Defaults of `magicpig`, from the paper except `minContext`: under it, reading all keys of a small model is as fast as
 * hashing the query and reading some.
 */
export const MAGICPIG_DEFAULTS = {
  K: 10,
  L: 150,
  sink: 4,
  window: 64,
  minContext: 2048,
  seed: 0,
  sampledPromptTokens: 0,
} as const;

/** Every `DENSE_LAYER_PERIOD`-th layer, from the first, keeps exact attention, as in the paper's experiments. */
const DENSE_LAYER_PERIOD = 16;

const LIMITS = {
  K: [1, 16],
  L: [1, 4096],
  sink: [0, 2 ** 31 - 1],
  window: [1, 65536],
  minContext: [0, 2 ** 31 - 1],
  seed: [0, Number.MAX_SAFE_INTEGER],
  sampledPromptTokens: [0, 2 ** 31 - 1],
} as const;

/**
 * Fills in defaults and checks every value.
 *
 * @param layers Layers of the model, for `denseLayers`.
 * @throws InvalidRequestError naming the option, its value and what is allowed.
 */
export function resolveAttention(options: AttentionOptions, layers: number): AttentionSettings {
  if (options === null || typeof options !== 'object') {
    throw new InvalidRequestError(
      `attention must be an object like { policy: 'magicpig' }, not ${options}`,
      'attention',
    );
  }
  const known = ['policy', 'denseLayers', ...Object.keys(LIMITS)];
  const allowed =
    { dense: ['policy'], custom: ['policy', 'name', 'options'], magicpig: known }[options.policy] ?? known;
  for (const key of Object.keys(options)) {
    if (allowed.includes(key)) continue;
    const what = known.includes(key) ? `has no meaning with policy '${options.policy}'` : 'is not an option';
    throw new InvalidRequestError(`attention.${key} ${what}; allowed: ${allowed.join(', ')}`, `attention.${key}`);
  }
  if (options.policy === 'dense') return { policy: 'dense' };
  if (options.policy === 'custom') return resolveCustom(options.name, options.options ?? {});
  if (options.policy !== 'magicpig') {
    const policy: unknown = (options as { policy: unknown }).policy;
    throw new InvalidRequestError(
      `attention.policy must be 'dense', 'magicpig' or 'custom', not ${JSON.stringify(policy)}`,
      'attention.policy',
    );
  }

  const number = (name: keyof typeof LIMITS): number => {
    const value: unknown = options[name] ?? MAGICPIG_DEFAULTS[name];
    const [low, high] = LIMITS[name];
    if (!Number.isInteger(value) || (value as number) < low || (value as number) > high) {
      throw new InvalidRequestError(
        `attention.${name} must be an integer in ${low}..${high}, not ${JSON.stringify(value)}`,
        `attention.${name}`,
      );
    }
    return value as number;
  };

  const denseLayers: unknown =
    options.denseLayers ??
    Array.from({ length: Math.ceil(layers / DENSE_LAYER_PERIOD) }, (_, i) => i * DENSE_LAYER_PERIOD);
  if (
    !Array.isArray(denseLayers) ||
    denseLayers.some((layer) => !Number.isInteger(layer) || layer < 0 || layer >= layers)
  ) {
    throw new InvalidRequestError(
      `attention.denseLayers must be an array of layer numbers in 0..${layers - 1}, not ${JSON.stringify(denseLayers)}`,
      'attention.denseLayers',
    );
  }
  return {
    policy: 'magicpig',
    K: number('K'),
    L: number('L'),
    sink: number('sink'),
    window: number('window'),
    denseLayers: [...new Set<number>(denseLayers)].sort((a, b) => a - b),
    minContext: number('minContext'),
    seed: number('seed'),
    sampledPromptTokens: number('sampledPromptTokens'),
  };
}

function resolveCustom(name: unknown, options: unknown): AttentionSettings {
  if (typeof name !== 'string') {
    throw new InvalidRequestError(
      `attention.name must be the name of a registered policy, not ${JSON.stringify(name)}`,
      'attention.name',
    );
  }
  if (options === null || typeof options !== 'object' || Array.isArray(options)) {
    throw new InvalidRequestError(
      `attention.options must be an object, not ${JSON.stringify(options)}`,
      'attention.options',
    );
  }
  return { policy: 'custom', name, options: options as Record<string, unknown> };
}
