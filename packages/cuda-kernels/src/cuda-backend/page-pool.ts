import type { DeviceArray } from '../device-array.js';
import type { KvView } from '../kv-view.js';
import { PAGE_TOKENS } from '../kv-view.js';

/** Slots (rows of keys) from one page to the next: a page holds keys, then values. */
const PAGE_SLOTS = 2 * PAGE_TOKENS;

/**
 * Pages of 64 tokens of one layer in device memory, bf16 [page][keys, values][64][kvHeads * headDim]. Sequences share them; a page
 * is free again when nobody holds it.
 */
export class PagePool implements Disposable {
  readonly pages: number;
  readonly pageBytes: number;
  /** Keys and values of all pages, as the kernels that write rows take them: slot {@link slot} of either. */
  readonly keys: DeviceArray<'bf16'>;
  readonly values: DeviceArray<'bf16'>;
  readonly #memory: DeviceArray<'bf16'>;
  readonly #row: number;
  readonly #headDim: number;
  readonly #holders: Uint32Array;
  readonly #free: number[];

  /** @param pages at least 1 */
  constructor(memory: DeviceArray<'bf16'>, pages: number, shape: { kvHeads: number; headDim: number }) {
    this.#memory = memory;
    this.pages = pages;
    this.#row = shape.kvHeads * shape.headDim;
    this.#headDim = shape.headDim;
    this.pageBytes = PagePool.pageBytes(shape);
    const half = PAGE_TOKENS * this.#row;
    this.keys = memory.view(0, memory.length - half);
    this.values = memory.view(half);
    this.#holders = new Uint32Array(pages);
    this.#free = Array.from({ length: pages }, (_, i) => pages - 1 - i);
  }

  static pageBytes(shape: { kvHeads: number; headDim: number }): number {
    return PAGE_SLOTS * shape.kvHeads * shape.headDim * 2;
  }

  get free(): number {
    return this.#free.length;
  }

  /** @throws RangeError when there are not so many; callers look at {@link free} first */
  take(): number {
    const page = this.#free.pop();
    if (page === undefined) throw new RangeError('no page is free');
    this.#holders[page] = 1;
    return page;
  }

  /** One more holder. */
  share(page: number): void {
    this.#holders[page]! += 1;
  }

  shared(page: number): boolean {
    return this.#holders[page]! > 1;
  }

  release(page: number): void {
    this.#holders[page]! -= 1;
    if (this.#holders[page] === 0) this.#free.push(page);
  }

  /** Where the row of a token goes. */
  slot(page: number, token: number): number {
    return page * PAGE_SLOTS + (token % PAGE_TOKENS);
  }

  /** Elements of one page. */
  page(page: number): DeviceArray<'bf16'> {
    const elements = PAGE_SLOTS * this.#row;
    return this.#memory.view(page * elements, elements);
  }

  /** Keys and values of sequences, by tables of pages. */
  view(pages: DeviceArray<'i32'>): KvView {
    const [tokenStride, headStride] = [this.#row, this.#headDim];
    return { k: this.keys, v: this.values, pages, pageStride: PAGE_SLOTS * this.#row, tokenStride, headStride };
  }

  [Symbol.dispose](): void {
    this.#memory[Symbol.dispose]();
  }
}
