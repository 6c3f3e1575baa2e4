import type { SimHashSegment } from '@magicpig/lsh';
import type { KeyIndex } from './key-index.js';

/** Counts what may have changed the bytes of any index: those that share memory divide them. */
let changes = 0;

/** An index of the keys of one layer's KV heads, which may have got further with some of them than with others. */
export class GrowingIndex implements Disposable {
  readonly layer: number;
  readonly index: KeyIndex;
  /** The first keys of each head, by number, that their mean is over. */
  readonly meanKeys: number;
  /** Keys of each head that count. */
  readonly #counts: number[];
  /** Keys of each head that are there: those that do not count go when others take their place. */
  readonly #held: number[];
  /** As of so many {@link changes}. */
  #bytes = { sum: 0, changes: -1 };

  /** @param index With the keys of `keys` of this layer's heads (head = layer * kvHeads + KV head), none of other layers. */
  constructor(layer: number, index: KeyIndex, meanKeys: number, keys: readonly number[]) {
    this.layer = layer;
    this.index = index;
    this.meanKeys = meanKeys;
    this.#counts = [...keys];
    this.#held = [...keys];
    changes += 1;
  }

  /** Bytes held; what forks share is divided among them. */
  get bytes(): number {
    if (this.#bytes.changes !== changes) this.#bytes = { sum: this.index.bytes, changes };
    return this.#bytes.sum;
  }

  /** Keys that every head has. */
  get keys(): number {
    return Math.min(...this.#counts);
  }

  length(kvHead: number): number {
    return this.#counts[kvHead]!;
  }

  /** KV heads that have fewer than the first `keys` keys. */
  lacking(keys: number): number[] {
    return [...this.#counts.keys()].filter((kvHead) => this.#counts[kvHead]! < keys);
  }

  /**
   * The next keys of a head. Those of a head's first call are those that the mean is over.
   *
   * @param vectors [n, headDim]
   */
  add(kvHead: number, vectors: Float32Array, n: number): void {
    this.#cut(kvHead);
    this.index.add(this.#head(kvHead), vectors);
    this.#added(kvHead, n);
  }

  /** The first keys of a head, hashed and sorted elsewhere. */
  addSegments(kvHead: number, segments: readonly SimHashSegment[]): void {
    for (const segment of segments) {
      this.index.addSegment!(this.#head(kvHead), segment);
      this.#added(kvHead, segment.count);
    }
  }

  /** Lets only the first `keys` keys of each head count. */
  restrict(keys: number): void {
    for (const [kvHead, count] of this.#counts.entries()) this.#counts[kvHead] = Math.min(count, keys);
  }

  /** Frees what does not count. */
  settle(): void {
    for (const kvHead of this.#counts.keys()) this.#cut(kvHead);
  }

  /** Keys of a head that would have to be sorted anew to add another: its tables hold some that do not count. */
  resorted(kvHead: number): number {
    return this.#held[kvHead]! > this.#counts[kvHead]! ? this.#counts[kvHead]! : 0;
  }

  /** Another with the same keys; undefined when its kind of index cannot be shared. */
  fork(): GrowingIndex | undefined {
    const index = this.index.fork?.();
    if (!index) return undefined;
    const fork = new GrowingIndex(this.layer, index, this.meanKeys, this.#held);
    for (const [kvHead, count] of this.#counts.entries()) fork.#counts[kvHead] = count;
    return fork;
  }

  [Symbol.dispose](): void {
    changes += 1;
    this.index[Symbol.dispose]();
  }

  #head(kvHead: number): number {
    return this.layer * this.#counts.length + kvHead;
  }

  #cut(kvHead: number): void {
    const count = this.#counts[kvHead]!;
    if (this.#held[kvHead] === count) return;
    this.index.truncate(this.#head(kvHead), count);
    this.#held[kvHead] = count;
    changes += 1;
  }

  #added(kvHead: number, n: number): void {
    this.#counts[kvHead]! += n;
    this.#held[kvHead] = this.#counts[kvHead]!;
    changes += 1;
  }
}
