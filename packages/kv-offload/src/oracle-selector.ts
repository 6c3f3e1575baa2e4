import { SequenceSelector, type SequenceSelectorOptions } from './sequence-selector.js';

/**
 * Oracle sampling (paper, section 3.1): `keys` independent draws from the true softmax, each with its probability. It
 * reads every key to know them, and shows the least error that sampling can have.
 */
export class OracleSelector extends SequenceSelector {
  /**
   * @param options.seed 0 to 2^32 - 1; a draw depends on it, the layer, the query head and the position. Default 0.
   * @throws InvalidArgumentError, DisposedError
   */
  constructor(options: SequenceSelectorOptions & { seed?: number }) {
    super('oracle', options, options.seed);
  }
}
