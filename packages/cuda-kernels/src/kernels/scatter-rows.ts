import type { DeviceArray } from '../device-array.js';
import type { Stream } from '../stream.js';
import { checkArray, checkInteger, checkMultiple, checkOptional } from '../validate.js';

/**
 * Rows of keys or values from host memory, which holds them head by head, into a cache on the device, which holds them token by
 * token.
 *
 * @param args.out [slots, heads, headDim] bf16: row r goes to slot slots[r]
 * @param args.x [heads, rows, headDim] bf16
 * @param args.slots [rows] i32; row r to slot r when absent. A negative slot is not stored; the largest must exist in out (it is on
 *   the device and cannot be checked).
 * @param args.headDim a multiple of 8
 */
export function scatterRows(
  stream: Stream,
  args: {
    out: DeviceArray<'bf16'>;
    x: DeviceArray<'bf16'>;
    slots?: DeviceArray<'i32'>;
    rows: number;
    heads: number;
    headDim: number;
  },
): void {
  const rows = checkInteger('rows', args.rows, 0);
  const heads = checkInteger('heads', args.heads, 1);
  const headDim = checkMultiple('headDim', args.headDim, 8);
  const out = checkArray(stream, 'out', args.out, 'bf16', args.slots === undefined ? rows * heads * headDim : 0);
  const x = checkArray(stream, 'x', args.x, 'bf16', rows * heads * headDim);
  const slots = checkOptional(stream, 'slots', args.slots, 'i32', rows);
  stream.run('scatterRows', (native, queue) => native.scatterRows(queue, out, x, slots, rows, heads, headDim));
}
