import { SequenceSelector, type SequenceSelectorOptions } from './sequence-selector.js';

/** Exact TopK attention: the `keys` tokens of largest score. It reads every key to find them, so it saves no time. */
export class TopKSelector extends SequenceSelector {
  /** @throws InvalidArgumentError, DisposedError */
  constructor(options: SequenceSelectorOptions) {
    super('topk', options);
  }
}
