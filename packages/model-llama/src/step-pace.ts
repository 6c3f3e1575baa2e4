import type { LlamaConfig } from './checkpoint.js';

/** Prompt tokens in a step of a CPU: more would not make the matrix products any faster. */
export const MOST_PREFILL_TOKENS = 512;
/** A chunk of one row is computed like a decoded token: there is none. */
const LEAST_PREFILL_TOKENS = 2;
/** Prompts get this share of what decoding takes where that leaves them less: they must come to an end. */
const LEAST_PREFILL_SHARE = 1 / 8;
/** Longer chunks of a prompt are multiples of so many rows, which matrix products take at once. */
const ROWS = 16;
/** Before anything was measured: the operations of two slow cores in a millisecond, and a tenth of a second for 32,768 keys. */
const FIRST_OPERATIONS = 5e7;
const FIRST_INDEX_MS = 100 / 32_768;
/** A decoded token is a product with a vector, which reads every weight for itself. */
const VECTOR_FACTOR = 4;
/** Relative variances: of the first costs, of what they have in common (the machine), of their change meanwhile, of a measurement. */
const FIRST_VARIANCE = 1;
const FIRST_COVARIANCE = 0.9;
const CHANGE_VARIANCE = 0.05 ** 2;
const NOISE_VARIANCE = 0.1 ** 2;
/** A measurement further off than this is an accident (the machine slept): it counts as so far off. */
const MOST_SURPRISE = 4;
/** By how much work may take longer than expected: at first, at least, and what of it is still expected a piece of work later. */
const FIRST_MARGIN = 0.3;
const LEAST_MARGIN = 0.2;
const MARGIN_DECAY = 0.97;

/** What there is to do: tokens of prompts, keys that these attend to (summed over them), decoded tokens, indexed keys of one head. */
const KINDS = ['promptTokens', 'pairs', 'decoded', 'indexKeys'] as const;

/** Amounts of each kind of work. */
export type Work = Partial<Record<(typeof KINDS)[number], number>>;

/** How much of prompts a step may still take. */
export interface PrefillBudget {
  /** Tokens of a prompt of which `begin` are in the cache; at least two as long as nothing was taken. */
  tokens(begin: number): number;
  take(begin: number, end: number): void;
}

/**
 * How much work fits into a given time, by how long earlier work took. It decides when things are computed, never what.
 *
 * Each kind of work has its cost. A step does several at once, and only their sum is measured; a Kalman filter over the costs
 * tells them apart: the first tokens of a prompt are all products, the last ones mostly attention. What the machine's other
 * load adds at its worst is left free.
 */
export class StepPace {
  /** Milliseconds for one of each kind. */
  readonly #costs: number[];
  /** Of their relative errors, [kind, kind]. */
  readonly #covariance: number[][] = KINDS.map((a) => KINDS.map((b) => (a === b ? FIRST_VARIANCE : FIRST_COVARIANCE)));
  /** Part by which work has taken longer than expected, at its worst, forgotten slowly. */
  #margin = FIRST_MARGIN;

  readonly #mostTokens: number;

  /**
   * @param operations Multiplications and additions, about: for a token's matrix products, and for attention to one key.
   * @param mostTokens Prompt tokens in a step.
   */
  constructor({ token, pair }: { token: number; pair: number }, mostTokens = MOST_PREFILL_TOKENS) {
    this.#mostTokens = mostTokens;
    this.#costs = [...[token, pair, VECTOR_FACTOR * token].map((n) => n / FIRST_OPERATIONS), FIRST_INDEX_MS];
  }

  /** Prompt tokens that fit into `ms` beside `decoded` decoded ones. */
  prefill(ms: number, decoded: number): PrefillBudget {
    const [token, pair, decode] = this.#costs as [number, number, number, number];
    const decodeMs = decoded * decode;
    let left = Math.max(this.#aim(ms) - decodeMs, LEAST_PREFILL_SHARE * decodeMs);
    let taken = 0;
    return {
      tokens: (begin) => {
        // n tokens take n * token + pairsOf(begin, begin + n) * pair.
        const first = token + begin * pair;
        const fit = Math.floor((2 * left) / (first + Math.sqrt(first ** 2 + 2 * pair * left)));
        const least = taken === 0 ? LEAST_PREFILL_TOKENS : 0;
        const whole = fit >= ROWS ? fit - (fit % ROWS) : fit;
        return Math.min(Math.max(whole, least), this.#mostTokens - taken);
      },
      take: (begin, end) => {
        taken += end - begin;
        left = Math.max(left - (end - begin) * token - pairsOf(begin, end) * pair, 0);
      },
    };
  }

  /** Keys that can be indexed in `ms`. */
  indexKeys(ms: number): number {
    return Math.max(Math.floor(this.#aim(ms) / this.#costs[KINDS.indexOf('indexKeys')]!), 1);
  }

  /** Work took `ms`. */
  took(work: Work, ms: number): void {
    const parts = KINDS.map((kind, i) => (work[kind] ?? 0) * this.#costs[i]!);
    const expected = sum(parts);
    const shares = parts.map((part) => part / expected);
    const common = this.#covariance.map((row) => sum(row.map((value, i) => value * shares[i]!)));
    const variance = sum(common.map((value, i) => value * shares[i]!));
    const known = variance < NOISE_VARIANCE;
    const surprise = Math.min(ms / expected, known ? MOST_SURPRISE : Number.POSITIVE_INFINITY) - 1;
    // Decoding cannot be made shorter: no margin is kept for it, nor against what is only guessed.
    if (known && work.decoded !== sum(Object.values(work))) {
      this.#margin = Math.max(this.#margin * MARGIN_DECAY, surprise, LEAST_MARGIN);
    }
    for (const [i, row] of this.#covariance.entries()) {
      const gain = common[i]! / (variance + NOISE_VARIANCE);
      this.#costs[i]! *= Math.max(1 + gain * surprise, 1 / MOST_SURPRISE);
      for (const [j, value] of common.entries()) row[j]! -= gain * value;
      row[i] = Math.min(row[i]! + CHANGE_VARIANCE, FIRST_VARIANCE);
    }
  }

  /** What is expected of work that must not take longer than `ms`. */
  #aim(ms: number): number {
    return Math.max(ms, 0) / (1 + this.#margin);
  }
}

/** Multiplications and additions of a token's matrix products, but for the output matrix, and of its attention to one key. */
export function operationsOf({ layers, hiddenSize, intermediateSize, queryHeads, kvHeads, headDim }: LlamaConfig) {
  const weights = hiddenSize * (2 * (queryHeads + kvHeads) * headDim + 3 * intermediateSize);
  return { token: 2 * layers * weights, pair: 4 * layers * queryHeads * headDim };
}

/** Keys attended to by the tokens [begin, end) of a prompt, summed over them. */
export function pairsOf(begin: number, end: number): number {
  return ((end - begin) * (begin + end)) / 2;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
