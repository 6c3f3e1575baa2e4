import { type InclusionOptions, inclusionProbability } from './inclusion-probability.js';
import { checkInteger, checkNumber } from './validate.js';

/** Options of {@link logInclusionTable}. */
export interface LogInclusionTableOptions extends InclusionOptions {
  /** Smaller probabilities are raised to this, so that no weight exceeds its inverse. Default 1e-4; 0 is refused. */
  minProbability?: number;
  /** Entries, at least 2. Default 4,097. */
  size?: number;
}

/**
 * -log u over the cosine, tabulated because a scalar acos, pow and log for every key cost more than reading the key.
 *
 * @returns Float32Array [size]; entry i is -log(max(u, minProbability)) at cosine -1 + 2 i / (size - 1). Between entries
 *   interpolate linearly.
 * @throws InvalidArgumentError when an option is out of range
 */
export function logInclusionTable(options: LogInclusionTableOptions): Float32Array {
  const size = checkInteger('size', options.size ?? 4097, 2, 2 ** 24);
  const floor = checkNumber('minProbability', options.minProbability ?? 1e-4, Number.MIN_VALUE, 1);
  const table = new Float32Array(size);
  for (let i = 0; i < size; i++) {
    table[i] = -Math.log(Math.max(floor, inclusionProbability(-1 + (2 * i) / (size - 1), options)));
  }
  return table;
}
