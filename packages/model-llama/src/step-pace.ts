/** Prompt tokens in a step: more would not make the matrix products any faster, fewer would make them slow. */
export const MOST_PREFILL_TOKENS = 512;
const LEAST_PREFILL_TOKENS = 32;
/** Chunks of a prompt are multiples of so many rows, which matrix products take at once. */
const ROWS = 16;
/** Before anything was measured: the operations of two slow cores in a millisecond, and a tenth of a second for 32,768 keys. */
const FIRST_OPERATIONS = 5e7;
const FIRST_INDEX_MS = 100 / 32_768;
/** Weight of the newest measurement. */
const NEWEST = 0.5;

/** How much work fits into a given time, by how long earlier steps took. It decides when things are computed, never what. */
export class StepPace {
  readonly #guessMs: number;
  // Milliseconds for a prompt token, a decoded token, a key of one layer and KV head; undefined until measured.
  #prefillMs: number | undefined;
  #decodeMs: number | undefined;
  #indexMs: number | undefined;

  /** @param operations Multiplications and additions for a token, about. */
  constructor(operations: number) {
    this.#guessMs = operations / FIRST_OPERATIONS;
  }

  /** Prompt tokens that fit into `ms` beside `decoding` decoded ones. */
  prefillTokens(ms: number, decoding: number): number {
    const left = ms - decoding * (this.#decodeMs ?? 0);
    const fit = Math.floor(left / (this.#prefillMs ?? this.#guessMs) / ROWS) * ROWS;
    return Math.min(Math.max(fit, LEAST_PREFILL_TOKENS), MOST_PREFILL_TOKENS);
  }

  /** Keys that can be indexed in `ms`. */
  indexKeys(ms: number): number {
    return Math.max(Math.floor(ms / (this.#indexMs ?? FIRST_INDEX_MS)), 1);
  }

  /** A step took `ms` for so many prompt tokens and decoded ones. */
  stepped(prefilled: number, decoded: number, ms: number): void {
    if (prefilled === 0) {
      this.#decodeMs = mix(this.#decodeMs, ms / decoded);
    } else {
      // A tenth at least, for when decoding was faster than it used to be.
      const left = Math.max(ms - decoded * (this.#decodeMs ?? 0), ms / 10);
      this.#prefillMs = mix(this.#prefillMs, left / prefilled);
    }
  }

  /** Indexing so many keys took `ms`. */
  indexed(keys: number, ms: number): void {
    this.#indexMs = mix(this.#indexMs, ms / keys);
  }
}

function mix(before: number | undefined, newest: number): number {
  return before === undefined ? newest : before + NEWEST * (newest - before);
}
