import type { KvStore } from './kv-store.js';
import { native } from './native.js';
import { translateErrors } from './translate-errors.js';
import { checkInteger } from './validate.js';

/**
 * StreamingLLM (arXiv 2309.17453): of the sampled tokens the first `sink` and the last `window`, for every query alike.
 * A truncation, not an estimate.
 */
export class WindowSelector {
  /** The handle to pass as `Sampling.selector`. */
  readonly selector: object;

  /** @throws InvalidArgumentError */
  constructor({ store, sink = 4, window }: { store: KvStore; sink?: number; window: number }) {
    checkInteger('sink', sink, 0, 2 ** 31 - 1);
    checkInteger('window', window, 0, 2 ** 31 - 1);
    this.selector = translateErrors(() => native.createWindowSelector(store.handle, sink, window));
  }
}
