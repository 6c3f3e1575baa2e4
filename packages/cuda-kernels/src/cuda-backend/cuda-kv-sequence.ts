import { DisposedError, InvalidArgumentError } from '../errors.js';
import { PAGE_TOKENS } from '../kv-view.js';
import { checkInteger } from '../validate.js';
import type { KvSequence } from './host-cache.js';
import type { PagePool } from './page-pool.js';

/**
 * Keys and values of one context: pages on the device, layer by layer, and where the cache has one a sequence in host memory,
 * which then holds all of them.
 */
export class CudaKvSequence implements KvSequence {
  /** @internal */
  readonly host: KvSequence | undefined;
  /** @internal Each layer's pages; undefined where the device does not hold the layer. */
  readonly pages: (number[] | undefined)[];
  /** @internal Number of the last step it was part of. */
  lastStep = 0;
  readonly #pool: PagePool;
  readonly #live: Set<CudaKvSequence>;
  #length = 0;

  /** @internal Use {@link CudaKvCache.open}. */
  constructor(
    pool: PagePool,
    live: Set<CudaKvSequence>,
    state: { pages: (number[] | undefined)[]; length: number; host: KvSequence | undefined },
  ) {
    this.#pool = pool;
    this.#live = live;
    this.pages = state.pages;
    this.#length = state.length;
    this.host = state.host;
    live.add(this);
  }

  /** Tokens in the cache. */
  get length(): number {
    this.check();
    return this.#length;
  }

  /** A sequence with the same tokens, which shares their memory until either side changes it. */
  fork(): CudaKvSequence {
    this.check();
    const host = this.host?.fork();
    const pages = this.pages.map((held) => held?.slice());
    for (const held of pages) for (const page of held ?? []) this.#pool.share(page);
    return new CudaKvSequence(this.#pool, this.#live, { pages, length: this.#length, host });
  }

  /** Forgets the tokens from `length` on. */
  truncate(length: number): void {
    checkInteger('length', length, 0, Number.MAX_SAFE_INTEGER);
    if (length > this.length) {
      throw new InvalidArgumentError(`length is ${length}; the sequence has only ${this.length} tokens.`);
    }
    this.host?.truncate(length);
    this.cut(length);
  }

  /** Frees what no other sequence shares. */
  [Symbol.dispose](): void {
    if (!this.#live.delete(this)) return;
    for (let layer = 0; layer < this.pages.length; layer += 1) this.drop(layer);
    this.host?.[Symbol.dispose]();
  }

  /** @internal The device forgets a layer. */
  drop(layer: number): void {
    for (const page of this.pages[layer] ?? []) this.#pool.release(page);
    this.pages[layer] = undefined;
  }

  /** @internal {@link truncate}, on the device alone. */
  cut(length: number): void {
    for (const held of this.pages) {
      for (const page of held?.splice(Math.ceil(length / PAGE_TOKENS)) ?? []) this.#pool.release(page);
    }
    this.#length = length;
  }

  /** @internal Pages that `tokens` more tokens take in a layer that the device holds; a shared one is replaced. */
  needs(layer: number, tokens: number): number {
    const held = this.pages[layer]!;
    return Math.ceil((this.#length + tokens) / PAGE_TOKENS) - held.length + (this.#sharesEnd(held) ? 1 : 0);
  }

  /**
   * @internal Takes the pages for `tokens` more tokens of a layer.
   *
   * @param copy copies a page that others hold too to one of the sequence's own; when it throws, the sequence keeps what it had
   */
  grow(layer: number, tokens: number, copy: (from: number, to: number) => void): void {
    const held = this.pages[layer]!;
    if (this.#sharesEnd(held)) {
      const [from, to] = [held.at(-1)!, this.#pool.take()];
      try {
        copy(from, to);
      } catch (error) {
        this.#pool.release(to);
        throw error;
      }
      held[held.length - 1] = to;
      this.#pool.release(from);
    }
    while (held.length < Math.ceil((this.#length + tokens) / PAGE_TOKENS)) held.push(this.#pool.take());
  }

  /** @internal */
  lengthen(tokens: number): void {
    this.#length += tokens;
  }

  /** @internal */
  check(): void {
    if (!this.#live.has(this)) throw new DisposedError('This sequence was disposed of.');
  }

  /** Whether new tokens would be written into a page that another sequence holds too. */
  #sharesEnd(held: readonly number[]): boolean {
    return this.#length % PAGE_TOKENS !== 0 && held.length > 0 && this.#pool.shared(held.at(-1)!);
  }
}
