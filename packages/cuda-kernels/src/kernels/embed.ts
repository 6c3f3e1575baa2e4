import type { DeviceArray } from '../device-array.js';
import type { Stream } from '../stream.js';
import { checkArray, checkInteger, checkMultiple } from '../validate.js';

/**
 * out[r] = row tokens[r] of the embedding table. A token outside the vocabulary gives a row of NaN.
 *
 * @param args.out [rows, width] f32
 * @param args.table [vocabulary, width] bf16
 * @param args.tokens [rows] i32
 * @param args.width a multiple of 8
 */
export function embed(
  stream: Stream,
  args: {
    out: DeviceArray<'f32'>;
    table: DeviceArray<'bf16'>;
    tokens: DeviceArray<'i32'>;
    rows: number;
    width: number;
    vocabulary: number;
  },
): void {
  const rows = checkInteger('rows', args.rows, 0);
  const width = checkMultiple('width', args.width, 8);
  const vocabulary = checkInteger('vocabulary', args.vocabulary, 1);
  const out = checkArray(stream, 'out', args.out, 'f32', rows * width);
  const table = checkArray(stream, 'table', args.table, 'bf16', vocabulary * width);
  const tokens = checkArray(stream, 'tokens', args.tokens, 'i32', rows);
  stream.run('embed', (native, queue) => native.embed(queue, out, table, tokens, rows, width, vocabulary));
}
