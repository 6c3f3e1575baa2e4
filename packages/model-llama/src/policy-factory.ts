import type { AttentionSettings } from './attention-options.js';
import type { AttentionPolicy } from './attention-policy.js';
import { densePolicy } from './dense-policy.js';
import { MagicPigPolicy, type MagicPigPolicyOptions, type MagicPigSettings } from './magicpig-policy.js';

/** Policies kept for requests to come; a matrix of projections is 400 KB at (10, 150) and d = 128. */
const KEPT = 8;

/** Makes policies, once for equal settings; those of equal K, L and seed share one matrix of projections. */
export class PolicyFactory {
  readonly #shared: Omit<MagicPigPolicyOptions, 'settings' | 'projection'>;
  readonly #dense = densePolicy();
  /** By settings, least recently used first. */
  readonly #kept = new Map<string, MagicPigPolicy>();

  constructor(shared: Omit<MagicPigPolicyOptions, 'settings' | 'projection'>) {
    this.#shared = shared;
  }

  policy(settings: AttentionSettings): AttentionPolicy {
    return settings.policy === 'dense' ? this.#dense : this.#magicpig(settings);
  }

  #magicpig(settings: MagicPigSettings): MagicPigPolicy {
    const key = JSON.stringify(settings);
    let policy = this.#kept.get(key);
    if (!policy) {
      const { K, L, seed } = settings;
      const alike = [...this.#kept.values()].find(
        (p) => p.settings.K === K && p.settings.L === L && p.settings.seed === seed,
      );
      policy = new MagicPigPolicy({ ...this.#shared, settings, ...(alike && { projection: alike.projection }) });
    }
    this.#kept.delete(key);
    this.#kept.set(key, policy);
    if (this.#kept.size > KEPT) this.#kept.delete(this.#kept.keys().next().value!);
    return policy;
  }
}
