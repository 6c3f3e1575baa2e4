interface Run {
  id: number;
  /** The token after its last one. */
  end: number;
}

let ids = 0;

/**
 * Tells how many tokens two sequences have in common without looking at them: those that both were forked with, as long as neither
 * has forgotten them.
 */
export class TokenRuns {
  #runs: Run[] = [];
  /** Whether the last run is of this sequence alone, so that more tokens join it. */
  #own = false;

  /** More tokens, up to `length` of them. */
  grow(length: number): void {
    if (this.#own) this.#runs.at(-1)!.end = length;
    else this.#runs.push({ id: ids++, end: length });
    this.#own = true;
  }

  /** Forgets the tokens from `length` on. What comes in their place has nothing in common with them. */
  cut(length: number): void {
    if ((this.#runs.at(-1)?.end ?? 0) <= length) return;
    while (this.#runs.length > 0 && (this.#runs.at(-2)?.end ?? 0) >= length) this.#runs.pop();
    const last = this.#runs.at(-1);
    if (last) last.end = length;
    this.#own = false;
  }

  fork(): TokenRuns {
    const fork = new TokenRuns();
    fork.#runs = this.#runs.map((run) => ({ ...run }));
    this.#own = false;
    return fork;
  }

  /** How many tokens, from the first, both have. */
  common(other: TokenRuns): number {
    let tokens = 0;
    for (const [i, { id, end }] of this.#runs.entries()) {
      const run = other.#runs[i];
      if (run?.id !== id) break;
      tokens = Math.min(end, run.end);
      if (end !== run.end) break;
    }
    return tokens;
  }
}
