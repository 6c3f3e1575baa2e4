import type { DeviceArray } from '../device-array.js';
import { InvalidArgumentError } from '../errors.js';
import type { Stream } from '../stream.js';
import { checkArray, checkInteger, checkMultiple, checkOptional } from '../validate.js';

/**
 * From the fused projection to what attention reads, in one pass: rotates queries and keys, and rounds all to bf16.
 *
 * @param args.qkv [rows, (queryHeads + 2 kvHeads) * headDim] f32
 * @param args.table [rows, headDim] f32 of {@link ropeTable}
 * @param args.q [rows, queryHeads, headDim] bf16
 * @param args.k keys and
 * @param args.v values, [slots, kvHeads, headDim] bf16: row r goes to slot slots[r]
 * @param args.slots [rows] i32; row r to slot r when absent. A negative slot is not stored; the largest must exist in k and v
 *   (it is on the device and cannot be checked).
 * @param args.headDim a multiple of 8
 */
export function ropeSplit(
  stream: Stream,
  args: {
    qkv: DeviceArray<'f32'>;
    table: DeviceArray<'f32'>;
    q: DeviceArray<'bf16'>;
    k: DeviceArray<'bf16'>;
    v: DeviceArray<'bf16'>;
    slots?: DeviceArray<'i32'>;
    rows: number;
    queryHeads: number;
    kvHeads: number;
    headDim: number;
  },
): void {
  const rows = checkInteger('rows', args.rows, 0);
  const headDim = checkMultiple('headDim', args.headDim, 8);
  const queryHeads = checkInteger('queryHeads', args.queryHeads, 1);
  const kvHeads = checkInteger('kvHeads', args.kvHeads, 1);
  const stored = args.slots === undefined ? rows * kvHeads * headDim : 0;
  const qkv = checkArray(stream, 'qkv', args.qkv, 'f32', rows * (queryHeads + 2 * kvHeads) * headDim);
  const table = checkArray(stream, 'table', args.table, 'f32', rows * headDim);
  const q = checkArray(stream, 'q', args.q, 'bf16', rows * queryHeads * headDim);
  const k = checkArray(stream, 'k', args.k, 'bf16', stored);
  const v = checkArray(stream, 'v', args.v, 'bf16', stored);
  const slots = checkOptional(stream, 'slots', args.slots, 'i32', rows);
  if (args.k.length !== args.v.length) {
    throw new InvalidArgumentError(`k holds ${args.k.length} elements and v ${args.v.length}; they must hold as many.`);
  }
  stream.run('ropeSplit', (native, queue) =>
    native.ropeSplit(queue, q, k, v, qkv, table, slots, rows, queryHeads, kvHeads, headDim),
  );
}
