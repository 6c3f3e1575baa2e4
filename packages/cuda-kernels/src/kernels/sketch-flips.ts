import type { DeviceArray } from '../device-array.js';
import type { Stream } from '../stream.js';
import { checkArray, checkInteger } from '../validate.js';
import { sketchLengths } from './sketch-sizes.js';

/**
 * Draws the sign flips of the random rotation that sketches are made under.
 *
 * @param args.dim dimension of the keys, 1..256
 * @param args.flips i32, `sketchLengths(...).flips` elements
 * @param args.seed integer 0..2^53-1; default 0
 */
export function sketchFlips(stream: Stream, args: { dim: number; flips: DeviceArray<'i32'>; seed?: number }): void {
  const { dim } = args;
  const seed = checkInteger('seed', args.seed ?? 0, 0, Number.MAX_SAFE_INTEGER);
  const flips = checkArray(stream, 'flips', args.flips, 'i32', sketchLengths({ dim, kvHeads: 1, pages: 1 }).flips);
  stream.run('sketchFlips', (native, queue) => native.sketchFlips(queue, flips, dim, seed));
}
