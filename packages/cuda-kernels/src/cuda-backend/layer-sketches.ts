import { SKETCH_PAGE } from '../kernels/sketch-sizes.js';
import type { PageCounts } from './page-counts.js';
import type { KeySketches } from './sketch-pool.js';

/** What the device has of a layer's sketches: those of the first keys from token `begin` on. Forks hold pages together. */
export class LayerSketches {
  /** Where they are in host memory. */
  of: KeySketches;
  readonly begin: number;
  /** [kvHeads, headDim], what the keys are relative to. */
  readonly centres: Float32Array;
  readonly #counts: PageCounts;
  readonly #pages: number[] = [];
  #keys = 0;

  constructor(counts: PageCounts, of: KeySketches, begin: number, centres: Float32Array) {
    this.#counts = counts;
    this.of = of;
    this.begin = begin;
    this.centres = centres;
  }

  get keys(): number {
    return this.#keys;
  }

  get pages(): readonly number[] {
    return this.#pages;
  }

  /** The same of the first `keys` keys, held by one more. */
  share(keys = this.#keys): LayerSketches {
    const other = new LayerSketches(this.#counts, this.of, this.begin, this.centres);
    other.#pages.push(...this.#pages.slice(0, Math.ceil(keys / SKETCH_PAGE)));
    other.#keys = keys;
    for (const page of other.#pages) this.#counts.share(page);
    return other;
  }

  /** Pages that room for so many keys takes; one that others hold too is replaced when it is written to. */
  needs(keys: number): number {
    return Math.ceil(keys / SKETCH_PAGE) - this.#pages.length + (this.#sharesEnd(keys) ? 1 : 0);
  }

  /** Takes them. What a page that was replaced had is to be written again: {@link keys} are fewer then. */
  grow(keys: number): void {
    if (this.#sharesEnd(keys)) this.cut(Math.floor(this.#keys / SKETCH_PAGE) * SKETCH_PAGE);
    while (this.#pages.length < Math.ceil(keys / SKETCH_PAGE)) this.#pages.push(this.#counts.take());
  }

  /** The first `keys` keys are written. */
  written(keys: number): void {
    this.#keys = keys;
  }

  /** Forgets the keys after the first `keys`. */
  cut(keys: number): void {
    this.#keys = Math.min(this.#keys, keys);
    for (const page of this.#pages.splice(Math.ceil(this.#keys / SKETCH_PAGE))) this.#counts.release(page);
  }

  /** Gives up everything. */
  release(): void {
    this.cut(0);
  }

  /** Whether more keys would be written into a page that another holds too. */
  #sharesEnd(keys: number): boolean {
    const last = this.#pages[Math.floor(this.#keys / SKETCH_PAGE)];
    return keys > this.#keys && last !== undefined && this.#counts.shared(last);
  }
}
