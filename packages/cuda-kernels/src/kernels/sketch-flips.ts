import type { DeviceArray } from '../device-array.js';
import type { Stream } from '../stream.js';
import { checkArray, checkInteger } from '../validate.js';
import { checkSketch, type SketchSizes, sketchLengths } from './sketch-sizes.js';

/**
 * Draws the sign flips of the random rotation that sketches are made under.
 *
 * @param args.flips i32, {@link sketchLengths}
 * @param args.seed integer 0..2^53-1; default 0
 */
export function sketchFlips(stream: Stream, args: SketchSizes & { flips: DeviceArray<'i32'>; seed?: number }): void {
  const { dim } = checkSketch(args);
  const seed = checkInteger('seed', args.seed ?? 0, 0, Number.MAX_SAFE_INTEGER);
  const flips = checkArray(stream, 'flips', args.flips, 'i32', sketchLengths(args).flips);
  stream.run('sketchFlips', (native, queue) => native.sketchFlips(queue, flips, dim, seed));
}
