import { InvalidArgumentError } from './errors.js';
import type { KvStore } from './kv-store.js';
import { native } from './native.js';
import { translateErrors } from './translate-errors.js';
import { checkInteger } from './validate.js';

/** The cached tokens of one sequence. Made by {@link KvStore.open} and {@link fork}. */
export class KvSequence implements Disposable {
  readonly store: KvStore;
  /** @internal */
  readonly handle: object;

  /** @internal */
  constructor(store: KvStore, handle: object) {
    this.store = store;
    this.handle = handle;
  }

  /**
   * Tokens, those of the last step included.
   * @throws DisposedError
   */
  get length(): number {
    return translateErrors(() => native.sequenceLength(this.handle));
  }

  /**
   * Forgets the tokens from `length` on and frees their pages.
   * @throws InvalidArgumentError when `length` exceeds the present one
   * @throws DisposedError
   */
  truncate(length: number): void {
    const present = this.length;
    checkInteger('length', length, 0, Number.MAX_SAFE_INTEGER);
    if (length > present) {
      throw new InvalidArgumentError(`length is ${length}; the sequence has only ${present} tokens.`);
    }
    translateErrors(() => native.truncateSequence(this.handle, length));
  }

  /**
   * A sequence with the same tokens. All pages are shared; one is copied when either side appends to it.
   * @throws DisposedError
   */
  fork(): KvSequence {
    return new KvSequence(
      this.store,
      translateErrors(() => native.forkSequence(this.handle)),
    );
  }

  /**
   * Frees the pages that no other sequence shares, at once.
   * @throws DisposedError when it was disposed of before
   */
  [Symbol.dispose](): void {
    translateErrors(() => native.disposeSequence(this.handle));
  }
}
