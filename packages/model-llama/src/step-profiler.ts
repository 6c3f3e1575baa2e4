import { type CpuBackend, OperatorProfile } from '@magicpig/cpu-kernels';
import type { ModelProfile } from './api.js';
import type { AttentionSettings } from './attention-options.js';
import type { AttentionPolicy, SequenceAttention } from './attention-policy.js';
import type { AttendOptions, KvCache, KvStep } from './kv-cache.js';

/** KV heads and query heads of `headDim` elements, which take `elementBytes` each in the cache. */
interface CacheShape {
  kvHeads: number;
  queryHeads: number;
  headDim: number;
  elementBytes: number;
}

type Phase = 'prefill' | 'decode';

const TITLES: Record<Phase, string> = {
  prefill: 'Steps with prompt tokens',
  decode: 'Steps with decoded tokens only',
};

/**
 * Measures what an engine's steps spend on each operator: matrix products and the like through {@link CpuBackend.profile},
 * attention through a watched cache, tables through watched policies, and what remains of a step (sampling of tokens,
 * text, bookkeeping) as `other`. Steps with prompt tokens, which arithmetic bounds, and steps that only decode, which
 * memory bounds, are kept apart.
 */
export class StepProfiler {
  readonly #backend: CpuBackend;
  readonly #shape: CacheShape;
  readonly #profiles: Record<Phase, OperatorProfile> = {
    prefill: new OperatorProfile(),
    decode: new OperatorProfile(),
  };
  readonly #watched = new WeakSet<AttentionPolicy>();
  #phase: Phase = 'prefill';

  constructor(backend: CpuBackend, shape: CacheShape) {
    this.#backend = backend;
    this.#shape = shape;
    backend.profile = this.#profiles.prefill;
  }

  /** Runs one step of an engine. */
  step(run: () => boolean): boolean {
    const before = this.#seconds();
    const start = performance.now();
    const more = run();
    const rest = (performance.now() - start) / 1e3 - (this.#seconds() - before);
    this.#record('other', '', 0, Math.max(rest, 0), 0, 0);
    return more;
  }

  /** The cache, its steps recorded: `append`, and `attend`, exact or sampled. */
  watchCache(cache: Pick<KvCache, 'step'>): Pick<KvCache, 'step'> {
    return {
      step: (entries) => {
        this.#phase = entries.some(({ tokens }) => tokens > 1) ? 'prefill' : 'decode';
        this.#backend.profile = this.#profiles[this.#phase];
        const step = cache.step(entries);
        const lengths = entries.map(({ sequence, tokens }) => ({ context: sequence.length, tokens }));
        return this.#watchStep(step, lengths);
      },
    };
  }

  /** The policies, the work on their tables recorded as `index`. */
  watchPolicies<P extends { policy(settings: AttentionSettings): AttentionPolicy }>(policies: P): Pick<P, 'policy'> {
    return {
      policy: (settings) => {
        const policy = policies.policy(settings);
        if (!this.#watched.has(policy)) {
          const open = policy.open.bind(policy);
          policy.open = (...arguments_) => this.#watchAttention(open(...arguments_));
          this.#watched.add(policy);
        }
        return policy;
      },
    };
  }

  /** What was recorded since the last call. Measures the machine's ceilings, about a third of a second. */
  take(): ModelProfile {
    const ceilings = this.#backend.ceilings();
    const prefill = this.#profiles.prefill.entries();
    const decode = this.#profiles.decode.entries();
    const table = (['prefill', 'decode'] as const)
      .filter((phase) => this.#profiles[phase].entries().length > 0)
      .map((phase) => `${TITLES[phase]}\n${this.#profiles[phase].table(ceilings)}\n`)
      .join('\n');
    for (const profile of Object.values(this.#profiles)) profile.clear();
    return { prefill, decode, ceilings, table };
  }

  #watchStep(step: KvStep, lengths: { context: number; tokens: number }[]): KvStep {
    const { kvHeads, queryHeads, headDim, elementBytes } = this.#shape;
    const rows = lengths.reduce((sum, { tokens }) => sum + tokens, 0);
    // Token t of `tokens` new ones attends to context - tokens + t + 1 keys.
    const pairs = lengths.reduce((sum, { context, tokens }) => sum + tokens * (context - (tokens - 1) / 2), 0);
    const contexts = lengths.reduce((sum, { context }) => sum + context, 0);
    return {
      append: (layer, keys, values) => {
        const bytes = 2 * rows * kvHeads * headDim * (4 + elementBytes);
        this.#time(
          'append',
          '',
          rows,
          () => step.append(layer, keys, values),
          () => ({ bytes, operations: 0 }),
        );
      },
      attend: (layer, queries, output, options) => {
        const sampled = options?.sampling?.some((sampling) => sampling !== null) ?? false;
        const before = sampled ? sumOf(options) : 0;
        this.#time(
          'attend',
          sampled ? 'sampled' : 'exact',
          rows,
          () => step.attend(layer, queries, output, options),
          () => {
            // Exact, all query heads of a KV head share one pass over its keys; sampled, each reads its own.
            const read = sampled ? sumOf(options) - before : pairs * queryHeads;
            const keys = sampled ? read : contexts * kvHeads;
            return { bytes: 2 * keys * headDim * elementBytes, operations: 4 * read * headDim };
          },
        );
      },
      rollback: () => step.rollback(),
    };
  }

  #watchAttention(attention: SequenceAttention): SequenceAttention {
    const nothing = () => ({ bytes: 0, operations: 0 });
    const index = (run: () => void) => this.#time('index', '', 0, run, nothing);
    const prepare = attention.prepare.bind(attention);
    attention.prepare = (...work) => index(() => prepare(...work));
    const prepareAhead = attention.prepareAhead?.bind(attention);
    if (prepareAhead) attention.prepareAhead = (...work) => index(() => prepareAhead(...work));
    return attention;
  }

  #time(
    operator: string,
    detail: string,
    rows: number,
    run: () => void,
    work: () => { bytes: number; operations: number },
  ): void {
    const start = performance.now();
    run();
    const seconds = (performance.now() - start) / 1e3;
    const { bytes, operations } = work();
    this.#record(operator, detail, rows, seconds, bytes, operations);
  }

  #record(operator: string, detail: string, rows: number, seconds: number, bytes: number, operations: number): void {
    this.#profiles[this.#phase].record({ operator, detail, rows, seconds, bytes, operations });
  }

  /** Seconds of all operators recorded so far. */
  #seconds(): number {
    let seconds = 0;
    for (const profile of Object.values(this.#profiles)) {
      for (const entry of profile.entries()) seconds += entry.seconds;
    }
    return seconds;
  }
}

function sumOf(options: AttendOptions | undefined): number {
  return options?.keysRead?.reduce((sum, keys) => sum + keys, 0) ?? 0;
}
