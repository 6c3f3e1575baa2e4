import type { DeviceArray } from '../device-array.js';
import type { Stream } from '../stream.js';
import { checkArray, checkInteger, checkMultiple } from '../validate.js';

/**
 * Rotates the first `heads` heads of each row in place, pairing element j with j + headDim / 2 (Hugging Face's convention).
 *
 * @param args.x [rows, stride] f32
 * @param args.table [rows, headDim] f32 of {@link ropeTable}
 * @param args.stride elements between rows, a multiple of 4, at least heads * headDim
 * @param args.headDim a multiple of 8
 */
export function rope(
  stream: Stream,
  args: {
    x: DeviceArray<'f32'>;
    table: DeviceArray<'f32'>;
    rows: number;
    stride: number;
    heads: number;
    headDim: number;
  },
): void {
  const rows = checkInteger('rows', args.rows, 0);
  const headDim = checkMultiple('headDim', args.headDim, 8);
  const heads = checkInteger('heads', args.heads, 0);
  const stride = checkMultiple('stride', args.stride, 4, Math.max(4, heads * headDim));
  const used = rows === 0 ? 0 : (rows - 1) * stride + heads * headDim;
  const x = checkArray(stream, 'x', args.x, 'f32', used);
  const table = checkArray(stream, 'table', args.table, 'f32', rows * headDim);
  stream.run('rope', (native, queue) => native.rope(queue, x, table, rows, stride, heads, headDim));
}
