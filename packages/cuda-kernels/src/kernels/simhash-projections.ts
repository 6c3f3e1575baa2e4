import type { DeviceArray } from '../device-array.js';
import type { Stream } from '../stream.js';
import { checkArray, checkInteger } from '../validate.js';
import { checkHash, type HashSizes, projectionLength } from './hash-sizes.js';

/**
 * Draws the projections of SimHash from a counter-based generator, those of `@magicpig/lsh` for the same sizes and seed: odd 8-bit
 * weights, or for `hadamard` sign flips, a bit each.
 *
 * @param args.out i8, {@link projectionLength} elements
 * @param args.seed integer 0..2^53-1; default 0
 */
export function simhashProjections(stream: Stream, args: HashSizes & { out: DeviceArray<'i8'>; seed?: number }): void {
  const { dim, bits, tables, projection } = checkHash(args);
  const seed = checkInteger('seed', args.seed ?? 0, 0, Number.MAX_SAFE_INTEGER);
  const out = checkArray(stream, 'out', args.out, 'i8', projectionLength(args));
  stream.run('simhashProjections', (native, queue) =>
    (projection === 'gaussian' ? native.simhashProjections : native.hadamardFlips)(queue, out, dim, bits, tables, seed),
  );
}
