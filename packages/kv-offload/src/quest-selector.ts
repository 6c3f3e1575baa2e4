import { indexSelector } from './index-selector.js';
import { SequenceSelector, type SequenceSelectorOptions } from './sequence-selector.js';

/**
 * Quest (arXiv 2406.10774): blocks of 16 tokens, those first whose element-wise minimum and maximum allow the largest
 * score, until `keys` tokens are read. A truncation, not an estimate.
 */
export class QuestSelector extends SequenceSelector {
  /** @throws InvalidArgumentError, DisposedError */
  constructor(options: SequenceSelectorOptions) {
    super('quest', options);
  }

  /**
   * Takes the sequence's tokens up to `end` into the blocks, in all layers. Needed before `attend` samples them, and again,
   * then from the first token on, when the sequence was truncated below them: until then `attend` throws SelectorError.
   * @throws DisposedError
   * @throws InvalidArgumentError when the sequence has fewer tokens, or `end` lies before an earlier one
   */
  index(end: number): void {
    indexSelector(this.selector, end);
  }
}
