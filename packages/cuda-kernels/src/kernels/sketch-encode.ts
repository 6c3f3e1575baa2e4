import type { DeviceArray } from '../device-array.js';
import type { Stream } from '../stream.js';
import { checkArray, checkInteger, checkOptional } from '../validate.js';
import { checkSketch, type SketchSizes, sketchLengths } from './sketch-sizes.js';

/**
 * Encodes keys of one KV head: each coordinate of the centred, rotated key on a grid of 2^bits levels, and one factor (RaBitQ's
 * estimator). Called again as the context grows, behind the keys encoded before.
 *
 * @param args.codes i32 and
 * @param args.factors u16 (bf16 bits) of all KV heads, {@link sketchLengths}
 * @param args.x [rows, stride] f32 or bf16
 * @param args.stride default dim
 * @param args.centre [dim] f32, the mean of the head's keys; optional
 * @param args.flips i32 of {@link sketchFlips}
 * @param args.firstKey where the first row goes; default 0
 */
export function sketchEncode(
  stream: Stream,
  args: SketchSizes & {
    codes: DeviceArray<'i32'>;
    factors: DeviceArray<'u16'>;
    x: DeviceArray<'f32'> | DeviceArray<'bf16'>;
    rows: number;
    stride?: number;
    centre?: DeviceArray<'f32'>;
    flips: DeviceArray<'i32'>;
    kvHead: number;
    firstKey?: number;
  },
): void {
  const { dim, bits, kvHeads, capacity } = checkSketch(args);
  const kvHead = checkInteger('kvHead', args.kvHead, 0, kvHeads - 1);
  const firstKey = checkInteger('firstKey', args.firstKey ?? 0, 0, capacity);
  const rows = checkInteger('rows', args.rows, 0, capacity - firstKey);
  const stride = checkInteger('stride', args.stride ?? dim, dim, Number.MAX_SAFE_INTEGER);
  const lengths = sketchLengths(args);
  const codes = checkArray(stream, 'codes', args.codes, 'i32', lengths.codes);
  const factors = checkArray(stream, 'factors', args.factors, 'u16', lengths.factors);
  const x = checkArray(stream, 'x', args.x, ['f32', 'bf16'], rows === 0 ? 0 : (rows - 1) * stride + dim);
  const centre = checkOptional(stream, 'centre', args.centre, 'f32', dim);
  const flips = checkArray(stream, 'flips', args.flips, 'i32', lengths.flips);
  const isBf16 = args.x.dtype === 'bf16';
  stream.run('sketchEncode', (native, queue) =>
    native.sketchEncode(
      queue,
      codes,
      factors,
      x,
      isBf16,
      centre,
      flips,
      dim,
      bits,
      kvHeads,
      capacity,
      kvHead,
      firstKey,
      rows,
      stride,
    ),
  );
}
