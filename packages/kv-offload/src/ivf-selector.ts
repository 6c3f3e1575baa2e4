import { indexSelector } from './index-selector.js';
import { SequenceSelector, type SequenceSelectorOptions } from './sequence-selector.js';
import { checkInteger } from './validate.js';

/**
 * An inverted file, as vector indexes use it: k-means cells of the keys, those nearest to the query (by inner product
 * with the cell's centre) first, until at least `keys` tokens are read. A truncation, not an estimate.
 */
export class IvfSelector extends SequenceSelector {
  /**
   * @param options.cells cells of a head's keys, 1 to 65536. Default 128. They are trained on the tokens of the first
   * {@link index} and stay; later tokens join the nearest one.
   * @param options.seed of the training, 0 to 2^32 - 1. Default 0.
   * @throws InvalidArgumentError, DisposedError
   */
  constructor(options: SequenceSelectorOptions & { cells?: number; seed?: number }) {
    const { cells = 128, seed } = options;
    checkInteger('cells', cells, 1, 65536);
    super('ivf', options, seed, cells);
  }

  /**
   * Takes the sequence's tokens up to `end` into the cells, in all layers. Needed before `attend` samples them, and again,
   * then from the first token on, when the sequence was truncated below them: until then `attend` throws SelectorError.
   * @throws DisposedError
   * @throws InvalidArgumentError when the sequence has fewer tokens, or `end` lies before an earlier one
   */
  index(end: number): void {
    indexSelector(this.selector, end);
  }
}
