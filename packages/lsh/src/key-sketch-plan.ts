/** From a histogram of scores and a budget to the threshold that keys are drawn by: native/sketch_plan.cc, operation by operation. */
import type { EngineSketchBudget } from './key-sketch-engine.js';

export const BINS = 256;
/** Random words are compared by their upper 24 bits. */
export const UNIFORM_ONE = 2 ** 24;

/** e^(-1/16) and e^(-1/8): the weight in the middle of the first bin, and from one bin to the next. */
const FIRST_WEIGHT = 0.9394130628134758;
const NEXT_WEIGHT = 0.8824969025845955;
/** More than any weight's inverse: every key is drawn. */
const ALL_TAU = 1e30;

export interface SketchPlan {
  /** Times 2^24. */
  tau: number;
  floor: number;
  /** Relative standard error of the sum of e^score over all keys, as estimated. */
  error: number;
}

/** `counts` [BINS] are those of `counted` out of `keys` keys, both at least 1; errors are larger by `inflation`. */
export function planDraw(
  counts: Uint32Array,
  counted: number,
  keys: number,
  budget: EngineSketchBudget,
  floorShare: number,
  inflation: number,
): SketchPlan {
  const weight = new Float64Array(BINS);
  weight[0] = FIRST_WEIGHT;
  for (let i = 1; i < BINS; i++) weight[i] = weight[i - 1]! * NEXT_WEIGHT;
  let total = 0;
  for (let i = BINS - 1; i >= 0; i--) total += counts[i]! * weight[i]!;
  const floor = (floorShare * total) / counted;

  const sums = new Float64Array(BINS + 1);
  const ratios = new Float64Array(BINS + 1);
  const squares = new Float64Array(BINS + 1);
  for (let i = BINS - 1; i >= 0; i--) {
    const raised = weight[i]! + floor;
    const square = weight[i]! * weight[i]!;
    sums[i] = sums[i + 1]! + counts[i]! * raised;
    ratios[i] = ratios[i + 1]! + counts[i]! * (square / raised);
    squares[i] = squares[i + 1]! + counts[i]! * square;
  }
  const part = counted / keys;

  const solve = (tauFrom: (bin: number, above: number) => number): { tau: number; first: number; above: number } => {
    let above = 0;
    for (let i = 0; i < BINS; i++) {
      const tau = tauFrom(i, above);
      if (tau * (weight[i]! + floor) <= 1) return { tau, first: i, above };
      above += counts[i]!;
    }
    return { tau: ALL_TAU, first: BINS, above };
  };
  const byCount = (expected: number) =>
    expected >= counted
      ? { tau: ALL_TAU, first: BINS, above: counted }
      : solve((i, above) => (expected - above) / sums[i]!);

  let plan: ReturnType<typeof solve>;
  if (budget.kind === 2) {
    const target = budget.value / inflation;
    const variance = (target * target * total * total) / part;
    plan = solve((i) => ratios[i]! / (variance + squares[i]!));
    const expected = plan.tau * sums[plan.first]! + plan.above;
    const bounded = Math.min(Math.max(expected, budget.least * counted), budget.most * counted);
    if (bounded !== expected || expected >= counted) plan = byCount(bounded);
  } else {
    plan = byCount(budget.kind === 1 ? budget.value * counted : budget.value * part);
  }
  const variance = Math.max(ratios[plan.first]! / plan.tau - squares[plan.first]!, 0) * part;
  const error = (Math.sqrt(variance) / total) * inflation;
  return { tau: Math.fround(plan.tau * UNIFORM_ONE), floor: Math.fround(floor), error };
}

/** e^(variance / 2), as (1 + x / 2^10)^(2^10): the same on every machine. */
export function noiseInflation(variance: number): number {
  let power = 1 + Math.min(variance, 50) / 2 / 1024;
  for (let i = 0; i < 10; i++) power *= power;
  return power;
}
