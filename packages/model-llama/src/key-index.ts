import type { SimHashSegment } from '@magicpig/lsh';
import type { KeySketches } from './kv-cache.js';

/** Keys of many heads, of which a selector names those that a query reads: hash tables, key sketches. */
export interface KeyIndex extends Disposable {
  /** Bytes held; what forks share is divided among them. */
  readonly bytes: number;
  /** Native handle of a selector (selector.h) over the keys of all heads. */
  readonly selector: object;
  /** What the selector draws from, where it is sketches. */
  readonly sketch?: KeySketches;
  /**
   * Appends keys to a head. Those of the first call make the mean that the head's keys are relative to.
   *
   * @param keys [n, headDim]
   */
  add(head: number, keys: Float32Array): void;
  /** Appends keys to a head that were hashed and sorted elsewhere. */
  addSegment?(head: number, segment: SimHashSegment): void;
  /** Forgets a head's keys from `length` on. */
  truncate(head: number, length: number): void;
  /** Another with the same keys, which shares their memory until one of the two changes it. */
  fork?(): KeyIndex;
  /** The keys as bytes. */
  toBuffer?(): Uint8Array;
  /** Estimated relative error of what was drawn since the last call: mean over the draws, undefined without any. */
  takeError?(): number | undefined;
}
