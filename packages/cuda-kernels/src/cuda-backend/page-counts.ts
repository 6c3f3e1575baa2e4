/** Which pages of some memory are in use, by how many holders: one is free again when nobody holds it. */
export class PageCounts {
  readonly #holders: Uint32Array;
  readonly #free: number[];

  constructor(pages: number) {
    this.#holders = new Uint32Array(pages);
    this.#free = Array.from({ length: pages }, (_, i) => pages - 1 - i);
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
}
