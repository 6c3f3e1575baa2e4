import type { SketchBudget } from '@magicpig/lsh';
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
  | {
      policy: 'sketch';
      bits: number;
      budget: SketchBudget;
      floor: number;
      sink: number;
      window: number;
      denseLayers: number[];
      minContext: number;
      seed: number;
    }
  | { policy: 'custom'; name: string; options: Record<string, unknown> };

/**
 * Defaults of `magicpig`, from the paper except `minContext`: under it, reading all keys of a small model is as fast as
 * hashing the query and reading some (benchmarks/results/min-context.json, by bench/min-context.mjs).
 */
export const MAGICPIG_DEFAULTS = {
  K: 10,
  L: 150,
  sink: 4,
  window: 64,
  minContext: 3072,
  seed: 0,
  sampledPromptTokens: 0,
} as const;

/**
 * Defaults of `sketch`: docs/samplers.md has the measurements that they were chosen by. `minContext` is measured as that of
 * `magicpig`, and comes out the same.
 */
export const SKETCH_DEFAULTS = {
  bits: 2,
  budget: { share: 0.05 },
  floor: 0.02,
  sink: 4,
  window: 64,
  minContext: 3072,
  seed: 0,
} as const;

/** Every `DENSE_LAYER_PERIOD`-th layer, from the first, keeps exact attention, as in the paper's experiments. */
const DENSE_LAYER_PERIOD = 16;

const LIMITS = {
  K: [1, 16],
  L: [1, 4096],
  bits: [1, 4],
  sink: [0, 2 ** 31 - 1],
  window: [1, 65536],
  minContext: [0, 2 ** 31 - 1],
  seed: [0, Number.MAX_SAFE_INTEGER],
  sampledPromptTokens: [0, 2 ** 31 - 1],
  'budget.count': [1, 2 ** 31 - 1],
} as const;

const LEAST_SHARE = 1e-9;

const INDEXED = ['sink', 'window', 'denseLayers', 'minContext', 'seed'];

/** Names of the options of each policy. */
const OPTIONS: Readonly<Record<AttentionSettings['policy'], readonly string[]>> = {
  dense: ['policy'],
  magicpig: ['policy', 'K', 'L', ...INDEXED, 'sampledPromptTokens'],
  sketch: ['policy', 'bits', 'budget', 'floor', ...INDEXED],
  custom: ['policy', 'name', 'options'],
};

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
  const allowed = Object.hasOwn(OPTIONS, options.policy) ? OPTIONS[options.policy] : undefined;
  if (!allowed) {
    const policy: unknown = (options as { policy: unknown }).policy;
    throw new InvalidRequestError(
      `attention.policy must be 'dense', 'magicpig', 'sketch' or 'custom', not ${JSON.stringify(policy)}`,
      'attention.policy',
    );
  }
  for (const key of Object.keys(options)) {
    if (allowed.includes(key)) continue;
    const known = Object.values(OPTIONS).flat().includes(key);
    const what = known ? `has no meaning with policy '${options.policy}'` : 'is not an option';
    throw new InvalidRequestError(`attention.${key} ${what}; allowed: ${allowed.join(', ')}`, `attention.${key}`);
  }
  switch (options.policy) {
    case 'dense':
      return { policy: 'dense' };
    case 'custom':
      return resolveCustom(options.name, options.options ?? {});
    case 'magicpig': {
      const given = { ...MAGICPIG_DEFAULTS, ...withoutUndefined(options) };
      return {
        policy: 'magicpig',
        K: integer('K', given.K),
        L: integer('L', given.L),
        ...resolveIndexed(given, layers),
        sampledPromptTokens: integer('sampledPromptTokens', given.sampledPromptTokens),
      };
    }
    case 'sketch': {
      const given = { ...SKETCH_DEFAULTS, ...withoutUndefined(options) };
      return {
        policy: 'sketch',
        bits: integer('bits', given.bits),
        budget: resolveBudget(given.budget),
        floor: number('floor', given.floor, 1e-6, 1),
        ...resolveIndexed(given, layers),
      };
    }
  }
}

/** What `magicpig` and `sketch` have in common. */
function resolveIndexed(
  given: { sink: number; window: number; minContext: number; seed: number; denseLayers?: number[] },
  layers: number,
) {
  const denseLayers: unknown =
    given.denseLayers ??
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
    sink: integer('sink', given.sink),
    window: integer('window', given.window),
    denseLayers: [...new Set<number>(denseLayers)].sort((a, b) => a - b),
    minContext: integer('minContext', given.minContext),
    seed: integer('seed', given.seed),
  };
}

function resolveBudget(budget: unknown): SketchBudget {
  const given = (typeof budget === 'object' && budget !== null ? budget : {}) as Record<string, unknown>;
  const keys = Object.keys(withoutUndefined(given));
  const has = (name: string, ...others: string[]) =>
    keys.includes(name) && keys.every((key) => key === name || others.includes(key));
  if (has('share')) return { share: number('budget.share', given.share, LEAST_SHARE, 1) };
  if (has('count')) return { count: integer('budget.count', given.count) };
  if (has('error', 'min', 'max')) {
    const min = number('budget.min', given.min ?? 0.005, LEAST_SHARE, 1);
    const max = number('budget.max', given.max ?? Math.max(0.25, min), min, 1);
    return { error: number('budget.error', given.error, LEAST_SHARE, 1e9), min, max };
  }
  throw new InvalidRequestError(
    `attention.budget must be { share }, { count } or { error, min?, max? }, not ${JSON.stringify(budget)}`,
    'attention.budget',
  );
}

function integer(name: keyof typeof LIMITS, value: unknown): number {
  const [low, high] = LIMITS[name];
  if (!Number.isInteger(value) || (value as number) < low || (value as number) > high) {
    throw new InvalidRequestError(
      `attention.${name} must be an integer in ${low}..${high}, not ${JSON.stringify(value)}`,
      `attention.${name}`,
    );
  }
  return value as number;
}

function number(name: string, value: unknown, low: number, high: number): number {
  if (!(typeof value === 'number' && value >= low && value <= high)) {
    throw new InvalidRequestError(
      `attention.${name} must be a number in ${low}..${high}, not ${JSON.stringify(value)}`,
      `attention.${name}`,
    );
  }
  return value;
}

function withoutUndefined<T extends object>(options: T): T {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as T;
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
