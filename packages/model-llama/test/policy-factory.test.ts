import { CpuBackend } from '@magicpig/cpu-kernels';
import { expect, it } from 'vitest';
import { resolveAttention } from '../src/attention-options.js';
import type { MagicPigPolicy } from '../src/magicpig-policy.js';
import { PolicyFactory } from '../src/policy-factory.js';
import { randomModel } from './random-checkpoint.js';
import { ReferenceCache } from './reference-cache.js';

it('makes a policy once for equal settings, and projections once for equal K, L and seed', () => {
  const { config } = randomModel('multi-head');
  using backend = new CpuBackend({ threads: 1 });
  const factory = new PolicyFactory({ config, cache: new ReferenceCache(config), pool: backend.pool });
  const policy = (options: { K?: number; L?: number; seed?: number; window?: number }) =>
    factory.policy(resolveAttention({ policy: 'magicpig', L: 4, ...options }, config.layers)) as MagicPigPolicy;

  const first = policy({});
  expect(policy({})).toBe(first);
  const wider = policy({ window: 32 });
  expect(wider).not.toBe(first);
  expect(wider.projection).toBe(first.projection);
  expect(policy({ seed: 1 }).projection).not.toBe(first.projection);
  expect(policy({ K: 9 }).projection).not.toBe(first.projection);

  // The least recently used are forgotten.
  for (let window = 100; window < 120; window += 1) policy({ window });
  expect(policy({})).not.toBe(first);
});
