import { InvalidArgumentError } from './errors.js';
import { native } from './native.js';
import { SequenceSelector, type SequenceSelectorOptions } from './sequence-selector.js';
import { translateErrors } from './translate-errors.js';
import type { Rows } from './types.js';
import { checkInteger, checkRows } from './validate.js';

/**
 * H2O (arXiv 2306.14048): the `keys` tokens that took the largest share of attention in the queries observed so far
 * ("heavy hitters"), for each query head. A truncation, not an estimate.
 */
export class H2oSelector extends SequenceSelector {
  /** @throws InvalidArgumentError, DisposedError */
  constructor(options: SequenceSelectorOptions) {
    super('h2o', options);
  }

  /**
   * Adds the attention weights of some queries over tokens `begin` to their own position. Tokens from which the sequence was
   * truncated have lost theirs.
   * @param queries [rows, queryHeads * headDim] float32, after RoPE
   * @param rows queries, at positions `first`, `first + 1`, ...
   * @throws DisposedError
   * @throws InvalidArgumentError for a wrong shape, or positions that the sequence does not have or that lie before `begin`
   */
  observe(layer: number, queries: Rows, rows: number, first: number): void {
    const { layers, queryHeads, headDim } = this.sequence.store;
    checkInteger('layer', layer, 0, layers - 1);
    checkInteger('rows', rows, 1, 2 ** 31 - 1);
    checkInteger('first', first, 0, 2 ** 31 - 1);
    checkRows('queries', queries, rows, queryHeads * headDim);
    const done = translateErrors(() =>
      native.observeSelector(this.selector, layer, queries.data, queries.offset, queries.stride, rows, first),
    );
    if (!done) {
      throw new InvalidArgumentError(
        `Positions ${first} to ${first + rows - 1} are not all tokens of the sequence at or after begin = ${this.begin}.`,
      );
    }
  }
}
