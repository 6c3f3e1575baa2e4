import { collisionProbability } from './collision-probability.js';
import { checkInteger, MAX_BITS, MAX_TABLES } from './validate.js';

/** Shape of an index as far as probabilities depend on it. */
export interface InclusionOptions {
  /** Bits of a hash code (paper: K), 1..16. */
  bits: number;
  /** Hash tables (paper: L), 1..4096. */
  tables: number;
  /** Tables in which a key must share the query's bucket to be returned. Default 2, as in the paper. */
  minCollisions?: number;
}

/**
 * Probability that a key is among a query's candidates: that it shares the query's bucket in at least `minCollisions` of
 * `tables` tables (paper, Algorithm 1: for two, u = 1 - (1 - p^K)^L - L p^K (1 - p^K)^(L-1)).
 *
 * @param cosine cosine between the query and the (centred) key
 * @throws InvalidArgumentError when an option is out of range or `cosine` is NaN
 */
export function inclusionProbability(cosine: number, options: InclusionOptions): number {
  const bits = checkInteger('bits', options.bits, 1, MAX_BITS);
  const tables = checkInteger('tables', options.tables, 1, MAX_TABLES);
  const minCollisions = checkInteger('minCollisions', options.minCollisions ?? 2, 1, tables);
  return upperTail(tables, minCollisions, collisionProbability(cosine) ** bits);
}

/**
 * P(X >= least) of X ~ Binomial(trials, p). All terms of either sum are positive, and the sum is taken on the side that does
 * not cancel: 1 - P(X < least) loses every digit when p is small.
 */
export function upperTail(trials: number, least: number, p: number): number {
  if (p <= 0) return 0;
  if (p >= 1) return 1;
  const odds = p / (1 - p);
  if (least > (trials + 1) * p) {
    // The terms fall from `least` on.
    let term = Math.exp(logTerm(trials, least, p));
    let sum = 0;
    for (let k = least; k <= trials && term > sum * 1e-17; k++) {
      sum += term;
      term *= (odds * (trials - k)) / (k + 1);
    }
    return Math.min(1, sum);
  }
  let term = Math.exp(logTerm(trials, least - 1, p));
  let below = 0;
  for (let k = least - 1; k >= 0 && term > below * 1e-17; k--) {
    below += term;
    term *= k / (odds * (trials - k + 1));
  }
  return Math.max(0, 1 - below);
}

/** log P(X = k) of X ~ Binomial(trials, p), the binomial coefficient as a sum of at most 4,096 logarithms. */
function logTerm(trials: number, k: number, p: number): number {
  let log = k * Math.log(p) + (trials - k) * Math.log1p(-p);
  for (let i = 1; i <= Math.min(k, trials - k); i++) log += Math.log((trials - Math.min(k, trials - k) + i) / i);
  return log;
}
