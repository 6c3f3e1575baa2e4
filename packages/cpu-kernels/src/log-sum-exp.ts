import { cpuInfo, type Isa } from './cpu-info.js';
import { InvalidArgumentError } from './errors.js';
import { native } from './native.js';

/**
 * The largest of some values and the logarithm of the sum of their exponentials: what the logits of a vocabulary come down
 * to for a greedy choice and its log-probability. In one thread, some 10 microseconds for 50,000 values.
 *
 * @param values At least one.
 * @param isa Code path, for tests and comparisons. Default `cpuInfo().isa`.
 * @returns `largest`, the index of the largest value, the first among equals; `logSumExp`, with a relative error of the sum
 *   of about 1e-7, or NaN when a value is not finite.
 * @throws InvalidArgumentError
 */
export function logSumExp(values: Float32Array, isa?: Isa): { largest: number; logSumExp: number } {
  if (!(values instanceof Float32Array) || values.length === 0) {
    throw new InvalidArgumentError('logSumExp: values must be a Float32Array with at least one element');
  }
  if (isa !== undefined && !cpuInfo().available.includes(isa)) {
    throw new InvalidArgumentError(
      `logSumExp: isa must be one of ${cpuInfo().available.join(', ')} on this processor, not ${isa}`,
    );
  }
  return native.logSumExp(values, isa);
}
