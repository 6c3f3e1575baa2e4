import type { AttentionSettings } from './attention-options.js';
import type { AttentionPolicy, AttentionPolicyModule, PolicyContext } from './attention-policy.js';
import { densePolicy } from './dense-policy.js';
import { InvalidRequestError, MagicPigError } from './errors.js';
import { MagicPigPolicy, type MagicPigSettings } from './magicpig-policy.js';
import { SketchPolicy } from './sketch-policy.js';

/** Policies kept for requests to come; a matrix of projections is 400 KB at (10, 150) and d = 128. */
const KEPT = 8;

/** Makes policies, once for equal settings; `magicpig` ones of equal K, L and seed share one matrix of projections. */
export class PolicyFactory {
  readonly #context: PolicyContext;
  readonly #modules: ReadonlyMap<string, AttentionPolicyModule>;
  /** By settings, least recently used first. */
  readonly #kept = new Map<string, AttentionPolicy>();

  /** @param modules Of custom policies, by name. */
  constructor(context: PolicyContext, modules: ReadonlyMap<string, AttentionPolicyModule> = new Map()) {
    this.#context = context;
    this.#modules = modules;
  }

  /**
   * @throws InvalidRequestError for one that samples keys where these cannot be, and for a custom policy that nobody registered, or that
   *   refuses its options.
   */
  policy(settings: AttentionSettings): AttentionPolicy {
    if (this.#context.cache.exactOnly && (settings.policy === 'magicpig' || settings.policy === 'sketch')) {
      throw new InvalidRequestError(
        `attention policy '${settings.policy}' samples keys in host memory, but this model was loaded with dense attention and has them on ` +
          'the device alone; load it with a policy that samples, which serves dense requests too',
        'attention.policy',
      );
    }
    const key = JSON.stringify(settings);
    const policy = this.#kept.get(key) ?? this.#make(settings);
    this.#kept.delete(key);
    this.#kept.set(key, policy);
    if (this.#kept.size > KEPT) this.#kept.delete(this.#kept.keys().next().value!);
    return policy;
  }

  #make(settings: AttentionSettings): AttentionPolicy {
    switch (settings.policy) {
      case 'dense':
        return densePolicy();
      case 'magicpig':
        return this.#magicpig(settings);
      case 'sketch':
        return new SketchPolicy({ ...this.#context, settings });
      case 'custom':
        return this.#custom(settings.name, settings.options);
    }
  }

  #magicpig(settings: MagicPigSettings): MagicPigPolicy {
    const { K, L, seed } = settings;
    const alike = [...this.#kept.values()].find(
      (p): p is MagicPigPolicy =>
        p instanceof MagicPigPolicy && p.settings.K === K && p.settings.L === L && p.settings.seed === seed,
    );
    return new MagicPigPolicy({ ...this.#context, settings, ...(alike && { projection: alike.projection }) });
  }

  #custom(name: string, options: Record<string, unknown>): AttentionPolicy {
    const make = this.#modules.get(name);
    if (!make) {
      const known = [...this.#modules.keys()].join(', ') || 'none';
      throw new InvalidRequestError(
        `there is no attention policy '${name}'; registered: ${known} (loadLlama's option policies)`,
        'attention.name',
      );
    }
    try {
      return make(structuredClone(options), this.#context);
    } catch (error) {
      if (error instanceof MagicPigError) throw error;
      const reason = error instanceof Error ? error.message : String(error);
      throw new InvalidRequestError(`attention policy '${name}': ${reason}`, 'attention.options', { cause: error });
    }
  }
}
