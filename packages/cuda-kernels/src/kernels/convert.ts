import type { DeviceArray } from '../device-array.js';
import { InvalidArgumentError } from '../errors.js';
import type { Stream } from '../stream.js';
import { checkArray, checkInteger } from '../validate.js';

/**
 * Converts between f32 and bf16, rounding to nearest even.
 *
 * @param args.out f32 or bf16, the type that `x` is not
 * @param args.count elements; all of x when absent
 */
export function convert(
  stream: Stream,
  args: { out: DeviceArray<'f32'> | DeviceArray<'bf16'>; x: DeviceArray<'f32'> | DeviceArray<'bf16'>; count?: number },
): void {
  const count = checkInteger('count', args.count ?? args.x.length, 0, Number.MAX_SAFE_INTEGER);
  if (args.out.dtype === args.x.dtype) {
    throw new InvalidArgumentError(`Both arrays are ${args.x.dtype}: there is nothing to convert; use stream.copy.`);
  }
  const out = checkArray(stream, 'out', args.out, ['f32', 'bf16'], count);
  const x = checkArray(stream, 'x', args.x, ['f32', 'bf16'], count);
  stream.run('convert', (native, queue) =>
    args.out.dtype === 'bf16' ? native.toBf16(queue, out, x, count) : native.toF32(queue, out, x, count),
  );
}
