import { createSequenceSelector, type SequenceSelectorOptions } from './sequence-selector-options.js';

/** Exact TopK attention: the `keys` tokens of largest score. It reads every key to find them, so it saves no time. */
export class TopKSelector {
  /** The handle to pass as `Sampling.selector`. */
  readonly selector: object;

  /** @throws InvalidArgumentError, DisposedError */
  constructor(options: SequenceSelectorOptions) {
    this.selector = createSequenceSelector('topk', options);
  }
}
