import { PAGE_TOKENS } from '../kv-view.js';
import type { PagePool } from './page-pool.js';

/**
 * Pages of one layer of a sequence on the device: of all its tokens, or of the first and the last ones alone, those between being
 * sampled in host memory.
 */
export class LayerPages {
  readonly #pool: PagePool;
  readonly #first: number[];
  /** Pages left out after the first ones. */
  #gap: number;
  readonly #last: number[];

  /** Takes over the pages. */
  constructor(pool: PagePool, first: number[] = [], gap = 0, last: number[] = []) {
    this.#pool = pool;
    this.#first = first;
    this.#gap = gap;
    this.#last = last;
  }

  /** Pages of its tokens, those left out included. */
  get length(): number {
    return this.#first.length + this.#gap + this.#last.length;
  }

  /** Pages held. */
  get held(): number {
    return this.#first.length + this.#last.length;
  }

  get whole(): boolean {
    return this.#gap === 0;
  }

  /** Whether it has all tokens but [begin, end). */
  covers(begin: number, end: number): boolean {
    const from = (this.#first.length + this.#gap) * PAGE_TOKENS;
    return this.whole || (this.#first.length * PAGE_TOKENS >= begin && from <= end);
  }

  /** The page of tokens [64 index, 64 (index + 1)); undefined where it was left out. */
  at(index: number): number | undefined {
    return this.#first[index] ?? this.#last[index - this.#first.length - this.#gap];
  }

  /** The same pages, held by one more. */
  share(): LayerPages {
    for (const page of [...this.#first, ...this.#last]) this.#pool.share(page);
    return new LayerPages(this.#pool, this.#first.slice(), this.#gap, this.#last.slice());
  }

  /** Gives up the pages that have no token outside [begin, end). */
  trim(begin: number, end: number): void {
    const keep = Math.ceil(begin / PAGE_TOKENS);
    const from = Math.floor(end / PAGE_TOKENS);
    if (from <= keep || from > this.length || keep > this.#first.length) return;
    if (this.whole) this.#last.push(...this.#first.splice(from));
    const before = this.length;
    const given = this.#first.splice(keep);
    given.push(...this.#last.splice(0, Math.max(from - (before - this.#last.length), 0)));
    this.#gap = before - this.held;
    for (const page of given) this.#pool.release(page);
  }

  /** Keeps the pages of the first `tokens` tokens; false when what is left would end among those left out. */
  cut(tokens: number): boolean {
    const pages = Math.ceil(tokens / PAGE_TOKENS);
    const from = this.#first.length + this.#gap;
    if (!this.whole && pages > this.#first.length && pages <= from) return false;
    for (const page of this.#last.splice(Math.max(pages - from, 0))) this.#pool.release(page);
    for (const page of this.#first.splice(pages)) this.#pool.release(page);
    if (this.#last.length === 0 && pages <= this.#first.length) this.#gap = 0;
    return true;
  }

  /** Pages that tokens up to `end` take, `length` being there; a page that another holds too is replaced when it is written to. */
  needs(length: number, end: number): number {
    return Math.ceil(end / PAGE_TOKENS) - this.length + (this.#sharesEnd(length) ? 1 : 0);
  }

  /**
   * Takes the pages of tokens up to `end`, `length` being there.
   *
   * @param copy copies a page that others hold too to one of its own; when it throws, nothing has changed
   */
  grow(length: number, end: number, copy: (from: number, to: number) => void): void {
    const own = this.whole ? this.#first : this.#last;
    if (this.#sharesEnd(length)) {
      const [from, to] = [own.at(-1)!, this.#pool.take()];
      try {
        copy(from, to);
      } catch (error) {
        this.#pool.release(to);
        throw error;
      }
      own[own.length - 1] = to;
      this.#pool.release(from);
    }
    while (this.length < Math.ceil(end / PAGE_TOKENS)) own.push(this.#pool.take());
  }

  /** Gives up everything. */
  release(): void {
    for (const page of [...this.#first.splice(0), ...this.#last.splice(0)]) this.#pool.release(page);
    this.#gap = 0;
  }

  /** Whether new tokens would be written into a page that another holds too. */
  #sharesEnd(length: number): boolean {
    const last = (this.whole ? this.#first : this.#last).at(-1);
    return length % PAGE_TOKENS !== 0 && last !== undefined && this.#pool.shared(last);
  }
}
