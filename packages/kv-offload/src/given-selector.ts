import { InvalidArgumentError } from './errors.js';
import type { KvStore } from './kv-store.js';
import { native } from './native.js';
import { translateErrors } from './translate-errors.js';
import { checkInteger } from './validate.js';

/**
 * Selections made elsewhere, on a device or by an experiment, handed in as ids and log-probabilities. A query head that
 * attends with this selector and has no selection makes `attend` throw SelectorError.
 */
export class GivenSelector {
  /** The handle to pass as `Sampling.selector`. */
  readonly selector: object;
  readonly #store: KvStore;

  constructor(store: KvStore) {
    this.#store = store;
    this.selector = translateErrors(() => native.createGivenSelector(store.handle));
  }

  /**
   * Sets what one query head of one layer reads, until it is set again.
   * @param ids strictly ascending token numbers, relative to `Sampling.begin`; may be empty
   * @param logProbabilities natural logarithm of each id's inclusion probability, subtracted from its score (paper,
   * Algorithm 1). Without it the selection is a truncation: the scores stay as they are.
   * @throws InvalidArgumentError
   */
  set(layer: number, queryHead: number, ids: Uint32Array, logProbabilities?: Float32Array): void {
    const { layers, queryHeads } = this.#store;
    checkInteger('layer', layer, 0, layers - 1);
    checkInteger('queryHead', queryHead, 0, queryHeads - 1);
    if (!(ids instanceof Uint32Array)) throw new InvalidArgumentError('ids is not a Uint32Array.');
    for (let i = 1; i < ids.length; i++) {
      if (ids[i]! <= ids[i - 1]!) {
        throw new InvalidArgumentError(`ids[${i}] is ${ids[i]} after ${ids[i - 1]}; pass strictly ascending ids.`);
      }
    }
    if (logProbabilities !== undefined) {
      if (!(logProbabilities instanceof Float32Array) || logProbabilities.length !== ids.length) {
        throw new InvalidArgumentError(
          `logProbabilities must be a Float32Array of ids.length (${ids.length}) elements.`,
        );
      }
      const wrong = logProbabilities.findIndex((x) => !Number.isFinite(x));
      if (wrong >= 0) {
        throw new InvalidArgumentError(
          `logProbabilities[${wrong}] is ${logProbabilities[wrong]}; a selected key has a finite one.`,
        );
      }
    }
    translateErrors(() => native.setSelection(this.selector, layer * queryHeads + queryHead, ids, logProbabilities));
  }

  /** Forgets all selections. */
  clear(): void {
    translateErrors(() => native.clearSelections(this.selector));
  }
}
