import type { DeviceArray } from '../device-array.js';
import { InvalidArgumentError } from '../errors.js';
import type { Stream } from '../stream.js';
import { checkArray, checkInteger, checkMultiple, checkOptional } from '../validate.js';
import { checkHash, type HashSizes, projectionLength } from './hash-sizes.js';

/**
 * SimHash codes of many vectors, the same as those of `@magicpig/lsh` bit for bit: rounding to integers, projection, sign and packing
 * in one kernel, so that neither projections nor rounded vectors reach memory.
 *
 * @param args.codes [rows, tables] u16, or [tables, rows] with `layout: 'tables'`, which {@link tableBuild} takes
 * @param args.x [rows, stride] f32 or bf16: row r begins at element r * stride
 * @param args.stride a multiple of 4; default dim
 * @param args.centre [dim] f32, subtracted from each vector first; optional
 * @param args.projections i8 of {@link simhashProjections}
 * @param args.inverseNorms [rows] f32, optional: 1 / |x - centre|, 0 for a zero vector, NaN for one that is not finite
 * @param args.nonFinite [1] i32, optional: the number of vectors with NaN or an infinity is added; their codes are 0
 * @param args.layout `rows` (default) or `tables`
 */
export function simhash(
  stream: Stream,
  args: HashSizes & {
    codes: DeviceArray<'u16'>;
    x: DeviceArray<'f32'> | DeviceArray<'bf16'>;
    rows: number;
    stride?: number;
    centre?: DeviceArray<'f32'>;
    projections: DeviceArray<'i8'>;
    inverseNorms?: DeviceArray<'f32'>;
    nonFinite?: DeviceArray<'i32'>;
    layout?: 'rows' | 'tables';
  },
): void {
  const { dim, bits, tables, projection } = checkHash(args);
  const rows = checkInteger('rows', args.rows, 0);
  const stride = checkMultiple('stride', args.stride ?? dim, 4, dim, Number.MAX_SAFE_INTEGER);
  const layout = args.layout ?? 'rows';
  if (layout !== 'rows' && layout !== 'tables') {
    throw new InvalidArgumentError(`layout must be 'rows' or 'tables', not ${String(layout)}.`);
  }
  const [rowStride, tableStride] = layout === 'rows' ? [tables, 1] : [1, rows];
  const codes = checkArray(stream, 'codes', args.codes, 'u16', rows * tables);
  const x = checkArray(stream, 'x', args.x, ['f32', 'bf16'], rows === 0 ? 0 : (rows - 1) * stride + dim);
  const centre = checkOptional(stream, 'centre', args.centre, 'f32', dim);
  const projections = checkArray(stream, 'projections', args.projections, 'i8', projectionLength(args));
  const norms = checkOptional(stream, 'inverseNorms', args.inverseNorms, 'f32', rows);
  const nonFinite = checkOptional(stream, 'nonFinite', args.nonFinite, 'i32', 1);
  const isBf16 = args.x.dtype === 'bf16';
  stream.run('simhash', (native, queue) =>
    (projection === 'gaussian' ? native.simhash : native.hadamard)(
      queue,
      codes,
      norms,
      nonFinite,
      x,
      isBf16,
      centre,
      projections,
      rows,
      dim,
      bits,
      tables,
      stride,
      rowStride,
      tableStride,
    ),
  );
}
