import type { DeviceArray } from '../device-array.js';
import type { Stream } from '../stream.js';
import { checkArray, checkInteger } from '../validate.js';

/**
 * Mean over rows, for `heads` blocks of `dim` columns side by side: the centre of each head's keys. Summed in float64 from the first
 * row to the last, as `@magicpig/lsh` does, so that centres are equal to the bit.
 *
 * @param args.mean [heads, dim] f32
 * @param args.x [rows, stride] f32 or bf16: column c of head h at row * stride + h * headStride + c
 * @param args.rows at least 1
 * @param args.heads default 1
 * @param args.stride default heads * dim
 * @param args.headStride default dim
 */
export function columnMean(
  stream: Stream,
  args: {
    mean: DeviceArray<'f32'>;
    x: DeviceArray<'f32'> | DeviceArray<'bf16'>;
    rows: number;
    dim: number;
    heads?: number;
    stride?: number;
    headStride?: number;
  },
): void {
  const rows = checkInteger('rows', args.rows, 1);
  const dim = checkInteger('dim', args.dim, 1);
  const heads = checkInteger('heads', args.heads ?? 1, 1, 65535);
  const headStride = checkInteger('headStride', args.headStride ?? dim, 1, Number.MAX_SAFE_INTEGER);
  const stride = checkInteger('stride', args.stride ?? heads * dim, 1, Number.MAX_SAFE_INTEGER);
  const mean = checkArray(stream, 'mean', args.mean, 'f32', heads * dim);
  const x = checkArray(stream, 'x', args.x, ['f32', 'bf16'], (rows - 1) * stride + (heads - 1) * headStride + dim);
  const isBf16 = args.x.dtype === 'bf16';
  stream.run('columnMean', (native, queue) =>
    native.columnMean(queue, mean, x, isBf16, rows, heads, dim, stride, headStride),
  );
}
