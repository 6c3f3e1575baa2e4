import { GrowingIndex } from './growing-index.js';
import type { KeyIndex } from './key-index.js';
import { outgrownAt } from './mean-keys.js';

/** What the indexes of all layers of a policy have in common. */
export interface LayerIndexOptions {
  kvHeads: number;
  /** An empty one, with room for the heads of all layers: head = layer * kvHeads + KV head. */
  create(): KeyIndex;
}

/** The index of one layer's KV heads, and what will take its place. */
export class LayerIndex implements Disposable {
  readonly layer: number;
  readonly #options: LayerIndexOptions;
  readonly #stagger: number;
  #current: GrowingIndex | undefined;
  /** Around another mean; not finished. */
  #next: GrowingIndex | undefined;

  /** @param stagger See {@link outgrownAt}. */
  constructor(options: LayerIndexOptions, layer: number, stagger: number) {
    this.layer = layer;
    this.#options = options;
    this.#stagger = stagger;
  }

  /** Bytes held; what forks share is divided among them. */
  get bytes(): number {
    return (this.#current?.bytes ?? 0) + (this.#next?.bytes ?? 0);
  }

  /** Undefined before the first keys. */
  get current(): GrowingIndex | undefined {
    return this.#current;
  }

  /** Keys that the mean of the present index is over; 0 when there is none. */
  get meanKeys(): number {
    return this.#current?.meanKeys ?? 0;
  }

  /** Keys of each head in the present index. */
  get keys(): number {
    return this.#current?.keys ?? 0;
  }

  /** Keys of a context that has outgrown the present mean. */
  get outgrownAt(): number {
    return this.#current ? outgrownAt(this.#current.meanKeys, this.#stagger) : Number.POSITIVE_INFINITY;
  }

  /**
   * The index around the mean of the first `meanKeys` keys, to be filled: the present one, or one that {@link finish} puts in its
   * place.
   *
   * @param inUse The present one is drawn from until then; otherwise it goes at once.
   */
  begin(meanKeys: number, inUse: boolean): GrowingIndex {
    if (this.#current?.meanKeys === meanKeys) return this.#current;
    if (!inUse) this.#drop();
    if (this.#next?.meanKeys !== meanKeys) {
      this.#next?.[Symbol.dispose]();
      const { create, kvHeads } = this.#options;
      this.#next = new GrowingIndex(this.layer, create(), meanKeys, Array(kvHeads).fill(0));
    }
    return this.#next;
  }

  /** An index around that mean is there or being made. */
  has(meanKeys: number): boolean {
    return this.#current?.meanKeys === meanKeys || this.#next?.meanKeys === meanKeys;
  }

  /** Puts what was begun in the place of the present one. */
  finish(): void {
    if (!this.#next) return;
    this.#drop();
    this.#current = this.#next;
    this.#next = undefined;
  }

  /** Forgets what comes from keys after the first `keys`, and everything when the mean does; also what was not finished. */
  restrict(keys: number): void {
    this.#next?.[Symbol.dispose]();
    this.#next = undefined;
    if (this.meanKeys > keys) this.#drop();
    this.#current?.restrict(keys);
  }

  /** Goes on from the first `keys` keys of another's index, where it has one that can be shared. */
  share(other: LayerIndex, keys: number): void {
    const fork = other.#current?.fork();
    if (!fork) return;
    this[Symbol.dispose]();
    this.#current = fork;
    this.restrict(keys);
  }

  /** Another with the same keys; undefined when its kind of index cannot be shared. */
  fork(): LayerIndex | undefined {
    const fork = new LayerIndex(this.#options, this.layer, this.#stagger);
    fork.share(this, Number.POSITIVE_INFINITY);
    return !this.#current || fork.#current ? fork : undefined;
  }

  /** Takes in an index of which the keys, and how many its mean is over, are known; nothing may be in it yet. */
  fill(index: KeyIndex, { keys, meanKeys }: { keys: number; meanKeys: number }): void {
    this.#current = new GrowingIndex(this.layer, index, meanKeys, Array(this.#options.kvHeads).fill(keys));
  }

  [Symbol.dispose](): void {
    this.#next?.[Symbol.dispose]();
    this.#next = undefined;
    this.#drop();
  }

  #drop(): void {
    this.#current?.[Symbol.dispose]();
    this.#current = undefined;
  }
}
