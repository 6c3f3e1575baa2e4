import type { DeviceArray } from '../device-array.js';
import type { Stream } from '../stream.js';
import { checkArray, checkFinite, checkInteger, checkMultiple } from '../validate.js';

/**
 * Fills an array with normal values drawn on the device, so that random weights need not travel. Element i depends on the seed
 * and i alone (Philox4x32-10, Box-Muller), and is that of `@magicpig/cpu-kernels` within 2e-6.
 *
 * @param args.seed integer 0..2^53-1
 * @param args.first the first element of `out` is element `first` of the sequence; a multiple of 4, default 0
 * @param args.mean default 0
 * @param args.deviation standard deviation, default 1
 */
export function fillNormal(
  stream: Stream,
  args: {
    out: DeviceArray<'f32'> | DeviceArray<'bf16'>;
    seed: number;
    first?: number;
    mean?: number;
    deviation?: number;
  },
): void {
  const seed = checkInteger('seed', args.seed, 0, Number.MAX_SAFE_INTEGER);
  const first = checkMultiple('first', args.first ?? 0, 4, 0, Number.MAX_SAFE_INTEGER);
  const mean = checkFinite('mean', args.mean ?? 0);
  const deviation = checkFinite('deviation', args.deviation ?? 1);
  const { length, dtype } = args.out;
  const out = checkArray(stream, 'out', args.out, ['f32', 'bf16'], length);
  const [f32, bf16] = dtype === 'f32' ? [out, 0] : [0, out];
  stream.run('fillNormal', (native, queue) =>
    native.fillNormal(queue, f32, bf16, length, seed, mean, deviation, first),
  );
}
