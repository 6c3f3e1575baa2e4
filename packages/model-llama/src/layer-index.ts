import type { SimHashSegment } from '@magicpig/lsh';
import type { KeyIndex } from './key-index.js';
import { meanKeys, outgrown } from './mean-keys.js';

/** What the indexes of all layers of a policy have in common. */
export interface LayerIndexOptions {
  kvHeads: number;
  headDim: number;
  /** An empty one, with room for the heads of all layers: head = layer * kvHeads + KV head. */
  create(): KeyIndex;
}

/** Counts what may have changed the bytes of any index: those that share memory divide them. */
let changes = 0;

/** The index of one layer's KV heads, all over the same tokens. */
export class LayerIndex implements Disposable {
  readonly layer: number;
  readonly #options: LayerIndexOptions;
  readonly #stagger: number;
  #index: KeyIndex | undefined;
  #keys = 0;
  #meanKeys = 0;
  /** What will take the place of the present one, around another mean. */
  #next: KeyIndex | undefined;
  /** Of the work begun. */
  #goal = { keys: 0, meanKeys: 0 };
  /** As of so many {@link changes}. */
  #bytes = { sum: 0, changes: -1 };

  /** @param stagger See {@link outgrown}. */
  constructor(options: LayerIndexOptions, layer: number, stagger: number) {
    this.layer = layer;
    this.#options = options;
    this.#stagger = stagger;
  }

  /** Bytes held; what forks share is divided among them. */
  get bytes(): number {
    if (this.#bytes.changes !== changes) {
      this.#bytes = { sum: (this.#index?.bytes ?? 0) + (this.#next?.bytes ?? 0), changes };
    }
    return this.#bytes.sum;
  }

  /** Keys of each head in the index. */
  get keys(): number {
    return this.#keys;
  }

  /** Keys that their mean is over. */
  get meanKeys(): number {
    return this.#meanKeys;
  }

  /** Undefined before the first keys. */
  get index(): KeyIndex | undefined {
    return this.#index;
  }

  /**
   * Begins to bring the index to the first `keys` keys. Call {@link add} for each head, then {@link finish}.
   *
   * @param grown The context has grown since the index was last brought to its keys: the mean may stay for a while.
   * @returns The first key, by number, that each head lacks.
   */
  begin(keys: number, grown: boolean): number {
    changes += 1;
    const stays = grown && this.#index && !outgrown(this.#meanKeys, keys, this.#stagger);
    this.#goal = { keys, meanKeys: stays ? this.#meanKeys : meanKeys(keys) };
    if (this.#index && this.#goal.meanKeys === this.#meanKeys) {
      this.#truncate(Math.min(this.#keys, keys));
      return this.#keys;
    }
    this.#next = this.#options.create();
    return 0;
  }

  /** Keys that the mean of what was begun is over, when that is an index of its own; undefined when keys join the present one. */
  get newMeanKeys(): number | undefined {
    return this.#next && this.#goal.meanKeys;
  }

  /** All keys of one head of the new index, hashed and sorted elsewhere around the mean of the first {@link newMeanKeys}. */
  addSegments(kvHead: number, segments: readonly SimHashSegment[]): void {
    changes += 1;
    const head = this.layer * this.#options.kvHeads + kvHead;
    for (const segment of segments) this.#next!.addSegment!(head, segment);
  }

  /**
   * The keys that one head lacks.
   *
   * @param vectors [n, headDim]
   */
  add(kvHead: number, vectors: Float32Array): void {
    changes += 1;
    const { kvHeads, headDim } = this.#options;
    const head = this.layer * kvHeads + kvHead;
    if (!this.#next) {
      if (vectors.length > 0) this.#index!.add(head, vectors);
      return;
    }
    // The first keys added make the mean.
    const mean = this.#goal.meanKeys * headDim;
    this.#next.add(head, vectors.subarray(0, mean));
    if (mean < vectors.length) this.#next.add(head, vectors.subarray(mean));
  }

  finish(): void {
    changes += 1;
    if (this.#next) {
      this.#index?.[Symbol.dispose]();
      this.#index = this.#next;
      this.#meanKeys = this.#goal.meanKeys;
      this.#next = undefined;
    }
    this.#keys = this.#goal.keys;
  }

  /** Forgets what comes from keys after the first `keys`, and everything when the mean does; also what was not finished. */
  restrict(keys: number): void {
    changes += 1;
    this.#next?.[Symbol.dispose]();
    this.#next = undefined;
    if (this.#meanKeys > keys) this[Symbol.dispose]();
    else if (this.#index) this.#truncate(Math.min(keys, this.#keys));
  }

  /** Goes on from the first `keys` keys of another's index, where it has one that can be shared. */
  share(other: LayerIndex, keys: number): void {
    const index = other.index?.fork?.();
    if (!index) return;
    this[Symbol.dispose]();
    this.fill(index, other).restrict(keys);
  }

  /** Another with the same keys; undefined when its kind of index cannot be shared. */
  fork(): LayerIndex | undefined {
    const fork = new LayerIndex(this.#options, this.layer, this.#stagger);
    fork.share(this, this.#keys);
    return !this.#index || fork.index ? fork : undefined;
  }

  /** Takes in an index of which the keys, and how many its mean is over, are known; nothing may be in it yet. */
  fill(index: KeyIndex, { keys, meanKeys }: { keys: number; meanKeys: number }): this {
    this.#index = index;
    this.#keys = keys;
    this.#meanKeys = meanKeys;
    changes += 1;
    return this;
  }

  [Symbol.dispose](): void {
    changes += 1;
    this.#index?.[Symbol.dispose]();
    this.#next?.[Symbol.dispose]();
    this.#index = undefined;
    this.#next = undefined;
    this.#keys = 0;
    this.#meanKeys = 0;
  }

  #truncate(keys: number): void {
    const { kvHeads } = this.#options;
    for (let head = this.layer * kvHeads; head < (this.layer + 1) * kvHeads; head += 1) {
      this.#index!.truncate(head, keys);
    }
    this.#keys = keys;
  }
}
