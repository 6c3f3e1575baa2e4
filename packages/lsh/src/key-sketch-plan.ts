/** From a histogram of scores and a budget to the threshold that keys are drawn by: native/sketch_plan.cc, operation by operation. */
import type { EngineSketchBudget } from './key-sketch-engine.js';

export const BINS = 128;
const LEVELS = 64;
/** e^(-1/4): from the weight of one bin to the next. */
const NEXT_WEIGHT = 0.7788007830714049;
const WEIGHTS = new Float64Array(BINS).fill(1);
for (let i = 1; i < BINS; i++) WEIGHTS[i] = WEIGHTS[i - 1]! * NEXT_WEIGHT;
/** More than any weight's inverse: every key is drawn. */
const ALL_TAU = 1e30;

export interface SketchPlan {
  /** The probability of a bin is min(1, tau (e^(-bin / 4) + floor)). */
  tau: number;
  floor: number;
  /** Bin of level 0, see native/sketch_kernels.h. */
  base: number;
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
  let total = 0;
  for (let i = BINS - 1; i >= 0; i--) total += counts[i]! * WEIGHTS[i]!;
  const floor = (floorShare * total) / counted;

  const sums = new Float64Array(BINS + 1);
  const ratios = new Float64Array(BINS + 1);
  const squares = new Float64Array(BINS + 1);
  for (let i = BINS - 1; i >= 0; i--) {
    const raised = WEIGHTS[i]! + floor;
    const square = WEIGHTS[i]! * WEIGHTS[i]!;
    sums[i] = sums[i + 1]! + counts[i]! * raised;
    ratios[i] = ratios[i + 1]! + counts[i]! * (square / raised);
    squares[i] = squares[i + 1]! + counts[i]! * square;
  }
  const part = counted / keys;

  const solve = (tauFrom: (bin: number, above: number) => number): { tau: number; first: number; above: number } => {
    let above = 0;
    for (let i = 0; i < BINS; i++) {
      const tau = tauFrom(i, above);
      if (tau * (WEIGHTS[i]! + floor) <= 1) return { tau, first: i, above };
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
  return { tau: plan.tau, floor, base: Math.max(plan.first - 1, 0), error };
}

/** What keys of each level are drawn by: the 2^16-fold of pi, rounded to a rank's threshold, and log pi. */
export function planLevels({ tau, floor, base }: SketchPlan): { thresholds: Float64Array; logs: Float32Array } {
  const thresholds = new Float64Array(LEVELS);
  for (let level = 0; level < LEVELS; level++) {
    thresholds[level] = nearestThreshold(tau * (WEIGHTS[Math.min(base + level, BINS - 1)]! + floor));
  }
  return { thresholds, logs: Float32Array.from(thresholds, logOf) };
}

/** Five leading bits of pi 2^16 + 16, less 16, and at least 1; only a pi of at least 1 gives 2^16. */
function nearestThreshold(pi: number): number {
  if (pi >= 1) return 2 ** 16;
  let raised = pi * 2 ** 16 + 16;
  let unit = 1;
  for (; raised >= 32; unit *= 2) raised /= 2;
  return Math.min(Math.max(Math.floor(raised + 0.5) * unit - 16, 1), 2 ** 16 - 16);
}

/** Coefficients of Cephes' logf (Moshier), the highest first. */
const LOG_COEFFICIENTS = Float32Array.of(
  ...[7.0376836292e-2, -1.151461031e-1, 1.167699874e-1, -1.2420140846e-1, 1.4249322787e-1],
  ...[-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1],
);
const ROOT_HALF = 0x3f3504f3;
const LN_2 = Math.fround(Math.LN2);
const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

/** log(x / 2^16). */
function logOf(x: number): number {
  const { fround } = Math;
  float[0] = x;
  const word = bits[0]!;
  const exponent = (word - ROOT_HALF) >> 23;
  bits[0] = word - (exponent << 23);
  const z = fround(float[0]! - 1);
  const p = LOG_COEFFICIENTS.reduce((sum, coefficient) => fround(fround(sum * z) + coefficient));
  const square = fround(z * z);
  const log = fround(z + fround(fround(fround(p * z) * square) - fround(0.5 * square)));
  return fround(log + fround((exponent - 16) * LN_2));
}

/** e^(variance / 2), as (1 + x / 2^10)^(2^10): the same on every machine. */
export function noiseInflation(variance: number): number {
  let power = 1 + Math.min(variance, 50) / 2 / 1024;
  for (let i = 0; i < 10; i++) power *= power;
  return power;
}
