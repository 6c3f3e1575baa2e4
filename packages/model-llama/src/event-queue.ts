/** A queue with one reader that waits: what is pushed is kept until it is read. */
export class EventQueue<T> {
  #items: T[] = [];
  #failure: { error: unknown } | undefined;
  #reader: { resolve(item: T): void; reject(error: unknown): void } | undefined;

  push(item: T): void {
    if (this.#reader) {
      this.#reader.resolve(item);
      this.#reader = undefined;
    } else {
      this.#items.push(item);
    }
  }

  /** Makes this and every later read throw. What was not read yet comes first, unless it is to be dropped. */
  fail(error: unknown, options: { drop?: boolean } = {}): void {
    if (options.drop) this.#items = [];
    this.#failure ??= { error };
    this.#reader?.reject(error);
    this.#reader = undefined;
  }

  next(): Promise<T> {
    if (this.#items.length > 0) return Promise.resolve(this.#items.shift()!);
    if (this.#failure) return Promise.reject(this.#failure.error);
    return new Promise((resolve, reject) => {
      this.#reader = { resolve, reject };
    });
  }
}
