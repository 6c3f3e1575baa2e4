import { InvalidArgumentError } from './errors.js';

/** Attention over a part of the keys: what `attend` writes. */
export interface PartialState {
  /** [states, headDim] */
  output: Float32Array;
  /** [states]: log sum_i e^{s_i} over the part's keys; -Infinity for a part with none. */
  logSumExp: Float32Array;
}

/**
 * Attention over the union of disjoint sets of keys, from the results over each (FlashAttention's rescaling):
 * o = sum_p e^{lse_p - lse} o_p with lse = log sum_p e^{lse_p}. Parts are merged in their order.
 *
 * @param parts at least one, all of one shape
 * @returns a new state; zeros and -Infinity where no part had any key
 * @throws InvalidArgumentError for parts of different shapes
 */
export function mergeStates(parts: readonly PartialState[]): PartialState {
  const [first] = parts;
  if (first === undefined) throw new InvalidArgumentError('parts is empty; pass at least one state.');
  const states = first.logSumExp.length;
  const dim = states === 0 ? 0 : first.output.length / states;
  for (const [i, part] of parts.entries()) {
    if (part.logSumExp.length !== states || part.output.length !== first.output.length || !Number.isInteger(dim)) {
      throw new InvalidArgumentError(
        `parts[${i}] has ${part.logSumExp.length} states and ${part.output.length} output elements; ` +
          `parts[0] has ${states} and ${first.output.length}.`,
      );
    }
  }
  const output = new Float32Array(first.output.length);
  const logSumExp = new Float32Array(states).fill(Number.NEGATIVE_INFINITY);
  for (let state = 0; state < states; state++) {
    const max = parts.reduce((largest, part) => Math.max(largest, part.logSumExp[state]!), Number.NEGATIVE_INFINITY);
    if (max === Number.NEGATIVE_INFINITY) continue;
    let sum = 0;
    for (const part of parts) sum += Math.exp(part.logSumExp[state]! - max);
    for (const part of parts) {
      const weight = Math.exp(part.logSumExp[state]! - max) / sum;
      if (weight === 0) continue;
      for (let i = state * dim; i < (state + 1) * dim; i++) output[i]! += weight * part.output[i]!;
    }
    logSumExp[state] = max + Math.log(sum);
  }
  return { output, logSumExp };
}
