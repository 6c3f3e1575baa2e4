import { InvalidArgumentError } from '../errors.js';
import { checkFinite, checkInteger, show } from '../validate.js';

/**
 * How many keys a draw reads, in expectation: a `share` of them, a `count`, or as few as bring the estimated relative standard error of
 * the softmax's denominator down to `error`, but at least the share `min` (default 0.005) and at most `max` (default 0.25). The budgets of
 * `KeySketch` of `@magicpig/lsh`.
 */
export type SketchBudget = { share: number } | { count: number } | { error: number; min?: number; max?: number };

/** @internal The budget as the kernel's kind, value, least and most. */
export function checkBudget(budget: SketchBudget): [number, number, number, number] {
  if (typeof budget !== 'object' || budget === null) {
    throw new InvalidArgumentError(
      `budget must be { share }, { count } or { error, min?, max? }, not ${show(budget)}.`,
    );
  }
  const positive = (name: string, value: number, most: number) => {
    if (!(checkFinite(name, value) > 0) || value > most) {
      throw new InvalidArgumentError(`${name} must be above 0 and at most ${most}, not ${value}.`);
    }
    return value;
  };
  if ('count' in budget) return [0, checkInteger('budget.count', budget.count, 1), 0, 1];
  if ('share' in budget) return [1, positive('budget.share', budget.share, 1), 0, 1];
  const min = positive('budget.min', budget.min ?? 0.005, 1);
  const max = positive('budget.max', budget.max ?? Math.max(0.25, min), 1);
  if (max < min) throw new InvalidArgumentError(`budget.max (${max}) must be at least budget.min (${min}).`);
  return [2, positive('budget.error', budget.error, 1e9), min, max];
}
