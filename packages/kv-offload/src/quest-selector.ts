import { indexSelector } from './index-selector.js';
import { createSequenceSelector, type SequenceSelectorOptions } from './sequence-selector-options.js';

/**
 * Quest (arXiv 2406.10774): blocks of 16 tokens, those first whose element-wise minimum and maximum allow the largest
 * score, until `keys` tokens are read. A truncation, not an estimate.
 */
export class QuestSelector {
  /** The handle to pass as `Sampling.selector`. */
  readonly selector: object;

  /** @throws InvalidArgumentError, DisposedError */
  constructor(options: SequenceSelectorOptions) {
    this.selector = createSequenceSelector('quest', options);
  }

  /**
   * Takes the sequence's tokens up to `end` into the blocks, in all layers. Needed before `attend` samples them.
   * @throws InvalidArgumentError when the sequence has fewer tokens, or `end` lies before an earlier one
   */
  index(end: number): void {
    indexSelector(this.selector, end);
  }
}
