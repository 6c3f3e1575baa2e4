import type { DeviceArray } from '../device-array.js';
import type { Stream } from '../stream.js';
import { checkArray, checkInteger, checkMultiple, checkOptional } from '../validate.js';

/**
 * One softmax out of two over disjoint keys: out = (e^lseA a + e^lseB b) / (e^lseA + e^lseB), row by row. How exact attention over
 * static tokens and sampled attention over the others become one result.
 *
 * @param args.out [rows, headDim] bf16 or f32; may be `a`
 * @param args.a [rows, headDim] f32, and
 * @param args.lseA [rows] f32, its log-sum-exp; -Infinity for a part without keys, whose values are then ignored
 * @param args.b, args.lseB likewise
 * @param args.logSumExp [rows] f32, optional: of the result; may be `lseA`
 * @param args.headDim a multiple of 4
 */
export function mergeAttention(
  stream: Stream,
  args: {
    out: DeviceArray<'bf16'> | DeviceArray<'f32'>;
    a: DeviceArray<'f32'>;
    lseA: DeviceArray<'f32'>;
    b: DeviceArray<'f32'>;
    lseB: DeviceArray<'f32'>;
    logSumExp?: DeviceArray<'f32'>;
    rows: number;
    headDim: number;
  },
): void {
  const rows = checkInteger('rows', args.rows, 0);
  const headDim = checkMultiple('headDim', args.headDim, 4);
  const out = checkArray(stream, 'out', args.out, ['bf16', 'f32'], rows * headDim);
  const a = checkArray(stream, 'a', args.a, 'f32', rows * headDim);
  const b = checkArray(stream, 'b', args.b, 'f32', rows * headDim);
  const lseA = checkArray(stream, 'lseA', args.lseA, 'f32', rows);
  const lseB = checkArray(stream, 'lseB', args.lseB, 'f32', rows);
  const lse = checkOptional(stream, 'logSumExp', args.logSumExp, 'f32', rows);
  const [f32, bf16] = args.out.dtype === 'f32' ? [out, 0] : [0, out];
  stream.run('mergeAttention', (native, queue) =>
    native.mergeAttention(queue, f32, bf16, lse, a, lseA, b, lseB, rows, headDim),
  );
}
