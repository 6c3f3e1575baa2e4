import type { DeviceArray } from '../device-array.js';
import type { Stream } from '../stream.js';
import { checkArray, checkFinite, checkInteger, checkMultiple } from '../validate.js';

/**
 * Angles of the rotary embedding: row r holds cos(positions[r] * f[j]) * scale for j < headDim / 2, then the sines.
 *
 * @param args.table [rows, headDim] f32
 * @param args.positions [rows] i32
 * @param args.inverseFrequencies [headDim / 2] f32, radians a token
 * @param args.headDim a multiple of 8
 * @param args.scale default 1
 */
export function ropeTable(
  stream: Stream,
  args: {
    table: DeviceArray<'f32'>;
    positions: DeviceArray<'i32'>;
    inverseFrequencies: DeviceArray<'f32'>;
    rows: number;
    headDim: number;
    scale?: number;
  },
): void {
  const rows = checkInteger('rows', args.rows, 0);
  const headDim = checkMultiple('headDim', args.headDim, 8);
  const scale = checkFinite('scale', args.scale ?? 1);
  const table = checkArray(stream, 'table', args.table, 'f32', rows * headDim);
  const positions = checkArray(stream, 'positions', args.positions, 'i32', rows);
  const frequencies = checkArray(stream, 'inverseFrequencies', args.inverseFrequencies, 'f32', headDim / 2);
  stream.run('ropeTable', (native, queue) =>
    native.ropeTable(queue, table, positions, frequencies, rows, headDim, scale),
  );
}
