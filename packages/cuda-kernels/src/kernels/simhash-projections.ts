import type { DeviceArray } from '../device-array.js';
import type { Stream } from '../stream.js';
import { checkArray, checkInteger } from '../validate.js';
import { checkHash, type HashSizes, projectionLength } from './hash-sizes.js';

/**
 * Draws the hyperplanes of SimHash, odd 8-bit integers from a counter-based generator: those of `@magicpig/lsh` for the same sizes
 * and seed.
 *
 * @param args.out [bits * tables, padded dim] i8, {@link projectionLength} elements
 * @param args.seed integer 0..2^53-1; default 0
 */
export function simhashProjections(stream: Stream, args: HashSizes & { out: DeviceArray<'i8'>; seed?: number }): void {
  const { dim, bits, tables } = checkHash(args);
  const seed = checkInteger('seed', args.seed ?? 0, 0, Number.MAX_SAFE_INTEGER);
  const out = checkArray(stream, 'out', args.out, 'i8', projectionLength(args));
  stream.run('simhashProjections', (native, queue) => native.simhashProjections(queue, out, dim, bits, tables, seed));
}
