import type { DeviceArray } from '../device-array.js';
import type { Stream } from '../stream.js';
import { checkArray, checkInteger, checkOptional } from '../validate.js';
import { checkSketch, checkStore, MAX_SKETCH_KEYS, type SketchSizes, type SketchStore } from './sketch-sizes.js';

/**
 * Encodes keys of all KV heads of one sequence: each coordinate of the centred, rotated key on a grid of 2^bits levels, and one factor
 * (RaBitQ's estimator); the same bits as `KeySketch` of `@magicpig/lsh`. Called again as the context grows, behind the keys encoded
 * before.
 *
 * @param args.x [rows, rowStride] f32 or bf16: key r of KV head h begins at element r * rowStride + h * headStride
 * @param args.rowStride default kvHeads * headStride
 * @param args.headStride default dim
 * @param args.centres [kvHeads, dim] f32, the means that the keys are relative to, of {@link columnMean}; optional
 * @param args.sequence row of the page table; default 0
 * @param args.firstKey where the first row goes; default 0
 * @param args.rejected [1] i32, optional: the number of keys that are not finite or longer than 2^60 is added. They score as the centre does.
 */
export function sketchEncode(
  stream: Stream,
  args: SketchSizes &
    SketchStore & {
      x: DeviceArray<'f32'> | DeviceArray<'bf16'>;
      rows: number;
      rowStride?: number;
      headStride?: number;
      centres?: DeviceArray<'f32'>;
      sequence?: number;
      firstKey?: number;
      rejected?: DeviceArray<'i32'>;
    },
): void {
  const { dim, bits, kvHeads } = checkSketch(args);
  const sequence = checkInteger('sequence', args.sequence ?? 0, 0, 65534);
  const firstKey = checkInteger('firstKey', args.firstKey ?? 0, 0, MAX_SKETCH_KEYS);
  const rows = checkInteger('rows', args.rows, 0, MAX_SKETCH_KEYS - firstKey);
  const headStride = checkInteger('headStride', args.headStride ?? dim, dim);
  const rowStride = checkInteger('rowStride', args.rowStride ?? kvHeads * headStride, dim, Number.MAX_SAFE_INTEGER);
  const { view, flips } = checkStore(stream, args, args, sequence + 1, firstKey + rows);
  const rejected = checkOptional(stream, 'rejected', args.rejected, 'i32', 1);
  const elements = rows === 0 ? 0 : (rows - 1) * rowStride + (kvHeads - 1) * headStride + dim;
  const x = checkArray(stream, 'x', args.x, ['f32', 'bf16'], elements);
  const centres = checkOptional(stream, 'centres', args.centres, 'f32', kvHeads * dim);
  const isBf16 = args.x.dtype === 'bf16';
  stream.run('sketchEncode', (native, queue) =>
    native.sketchEncode(
      queue,
      ...view,
      rejected,
      x,
      isBf16,
      centres,
      flips,
      dim,
      bits,
      kvHeads,
      sequence,
      firstKey,
      rows,
      rowStride,
      headStride,
    ),
  );
}
