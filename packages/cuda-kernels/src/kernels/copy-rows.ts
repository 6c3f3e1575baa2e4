import type { DeviceArray } from '../device-array.js';
import type { Stream } from '../stream.js';
import { checkArray, checkInteger, checkMultiple } from '../validate.js';

/**
 * out[r] = row indices[r] of x: the last tokens' rows before the logits. An index outside x gives a row of NaN.
 *
 * @param args.out [rows, width] f32
 * @param args.x [any, width] f32
 * @param args.indices [rows] i32
 * @param args.width a multiple of 4
 */
export function copyRows(
  stream: Stream,
  args: { out: DeviceArray<'f32'>; x: DeviceArray<'f32'>; indices: DeviceArray<'i32'>; rows: number; width: number },
): void {
  const rows = checkInteger('rows', args.rows, 0);
  const width = checkMultiple('width', args.width, 4);
  const available = Math.floor(args.x.length / width);
  const out = checkArray(stream, 'out', args.out, 'f32', rows * width);
  const x = checkArray(stream, 'x', args.x, 'f32', 0);
  const indices = checkArray(stream, 'indices', args.indices, 'i32', rows);
  stream.run('copyRows', (native, queue) => native.copyRows(queue, out, x, indices, rows, width, available));
}
