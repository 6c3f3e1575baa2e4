import { type SimHashProjection, SimHashTables } from '@magicpig/lsh';
import { meanKeys } from './mean-keys.js';

/** What the tables of all layers of a policy have in common. */
export interface LayerTablesOptions {
  layers: number;
  kvHeads: number;
  headDim: number;
  projection: SimHashProjection;
  minCollisions: number;
  /** Thread pool that hashes and builds. */
  pool: object;
}

/** The SimHash tables of one layer's KV heads, all over the same tokens. */
export class LayerTables implements Disposable {
  readonly layer: number;
  readonly #options: LayerTablesOptions;
  readonly #stagger: number;
  #tables: SimHashTables | undefined;
  #keys = 0;
  #meanKeys = 0;
  /** Tables that will take the place of the present ones, around a newer mean. */
  #next: SimHashTables | undefined;

  /** @param stagger See {@link meanKeys}. */
  constructor(options: LayerTablesOptions, layer: number, stagger: number) {
    this.layer = layer;
    this.#options = options;
    this.#stagger = stagger;
  }

  /** Bytes held. */
  get bytes(): number {
    return (this.#tables?.bytes ?? 0) + (this.#next?.bytes ?? 0);
  }

  /** Keys of each head in the tables. */
  get keys(): number {
    return this.#keys;
  }

  /** Keys that their mean is over. */
  get meanKeys(): number {
    return this.#meanKeys;
  }

  /** @throws TypeError while there are no tables. */
  get selector(): object {
    return this.#tables!.selector;
  }

  /**
   * Keys that each head lacks before the tables hold the first `keys` keys around the mean that belongs to them: the first
   * of them, by number.
   */
  lacks(keys: number): number {
    return this.#tables && meanKeys(keys, this.#stagger) === this.#meanKeys ? Math.min(this.#keys, keys) : 0;
  }

  /** Begins to bring the tables to `keys` keys. Call {@link add} for each head, then {@link finish}. */
  begin(keys: number): void {
    const from = this.lacks(keys);
    if (from === 0) this.#next = this.#create();
    else this.#truncate(from);
  }

  /**
   * One head's keys from {@link lacks} on.
   *
   * @param vectors [keys - lacks(keys), headDim]
   */
  add(kvHead: number, keys: number, vectors: Float32Array): void {
    const { kvHeads, headDim } = this.#options;
    const head = this.layer * kvHeads + kvHead;
    if (!this.#next) {
      if (vectors.length > 0) this.#tables!.add(head, vectors);
      return;
    }
    // The first keys added make the mean.
    const mean = meanKeys(keys, this.#stagger) * headDim;
    this.#next.add(head, vectors.subarray(0, mean));
    if (mean < vectors.length) this.#next.add(head, vectors.subarray(mean));
  }

  finish(keys: number): void {
    if (this.#next) {
      this.#tables?.[Symbol.dispose]();
      this.#tables = this.#next;
      this.#meanKeys = meanKeys(keys, this.#stagger);
      this.#next = undefined;
    }
    this.#keys = keys;
  }

  /** Forgets what comes from keys after the first `keys`, and everything when the mean does; also what was not finished. */
  restrict(keys: number): void {
    this.#next?.[Symbol.dispose]();
    this.#next = undefined;
    if (this.#meanKeys > keys) this[Symbol.dispose]();
    else if (this.#tables) this.#truncate(Math.min(keys, this.#keys));
  }

  [Symbol.dispose](): void {
    this.#tables?.[Symbol.dispose]();
    this.#next?.[Symbol.dispose]();
    this.#tables = undefined;
    this.#next = undefined;
    this.#keys = 0;
    this.#meanKeys = 0;
  }

  #create(): SimHashTables {
    const { layers, kvHeads, headDim, projection, minCollisions, pool } = this.#options;
    return new SimHashTables({ heads: layers * kvHeads, dim: headDim, projection, minCollisions, pool });
  }

  #truncate(keys: number): void {
    const { kvHeads } = this.#options;
    for (let head = this.layer * kvHeads; head < (this.layer + 1) * kvHeads; head += 1) {
      this.#tables!.truncate(head, keys);
    }
    this.#keys = keys;
  }
}
