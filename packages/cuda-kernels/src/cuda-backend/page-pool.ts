import type { DeviceArray } from '../device-array.js';
import type { KvView } from '../kv-view.js';
import { PAGE_TOKENS } from '../kv-view.js';
import { PageCounts } from './page-counts.js';

/** Slots (rows of keys) from one page to the next: a page holds keys, then values. */
const PAGE_SLOTS = 2 * PAGE_TOKENS;

/**
 * Pages of 64 tokens of one layer in device memory, bf16 [page][keys, values][64][kvHeads * headDim]. Sequences share them.
 */
export class PagePool extends PageCounts implements Disposable {
  readonly pages: number;
  readonly pageBytes: number;
  /** Keys and values of all pages, as the kernels that write rows take them: slot {@link slot} of either. */
  readonly keys: DeviceArray<'bf16'>;
  readonly values: DeviceArray<'bf16'>;
  readonly #memory: DeviceArray<'bf16'>;
  readonly #row: number;
  readonly #headDim: number;

  /** @param pages at least 1 */
  constructor(memory: DeviceArray<'bf16'>, pages: number, shape: { kvHeads: number; headDim: number }) {
    super(pages);
    this.#memory = memory;
    this.pages = pages;
    this.#row = shape.kvHeads * shape.headDim;
    this.#headDim = shape.headDim;
    this.pageBytes = PagePool.pageBytes(shape);
    const half = PAGE_TOKENS * this.#row;
    this.keys = memory.view(0, memory.length - half);
    this.values = memory.view(half);
  }

  static pageBytes(shape: { kvHeads: number; headDim: number }): number {
    return PAGE_SLOTS * shape.kvHeads * shape.headDim * 2;
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
