import { InvalidArgumentError } from './errors.js';
import type { EngineSketchBudget } from './key-sketch-engine.js';
import { checkInteger, checkNumber, MAX_KEYS, show } from './validate.js';

/**
 * How many keys a draw reads, in expectation: a `share` of them, a `count`, or as few as bring the estimated relative standard
 * error of the softmax's denominator down to `error`, but at least the share `min` (default 0.005) and at most `max` (default 0.25).
 */
export type SketchBudget = { share: number } | { count: number } | { error: number; min?: number; max?: number };

const DEFAULT_MIN = 0.005;
const DEFAULT_MAX = 0.25;
const LEAST = 1e-9;

/** @internal */
export function checkBudget(budget: unknown): EngineSketchBudget {
  if (typeof budget === 'object' && budget !== null) {
    const keys = Object.keys(budget);
    const options = budget as Record<string, unknown>;
    const has = (...allowed: string[]) => keys.includes(allowed[0]!) && keys.every((key) => allowed.includes(key));
    if (has('share'))
      return { kind: 1, value: checkNumber('budget.share', options.share, LEAST, 1), least: 0, most: 1 };
    if (has('count'))
      return { kind: 0, value: checkInteger('budget.count', options.count, 1, MAX_KEYS), least: 0, most: 1 };
    if (has('error', 'min', 'max')) {
      const least = checkNumber('budget.min', options.min ?? DEFAULT_MIN, LEAST, 1);
      const most = checkNumber('budget.max', options.max ?? Math.max(DEFAULT_MAX, least), least, 1);
      return { kind: 2, value: checkNumber('budget.error', options.error, LEAST, 1e9), least, most };
    }
  }
  const given = typeof budget === 'object' && budget !== null ? JSON.stringify(budget) : show(budget);
  throw new InvalidArgumentError(`budget must be { share }, { count } or { error, min?, max? }, not ${given}.`);
}
