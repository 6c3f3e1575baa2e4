import type { DeviceArray } from '../device-array.js';
import type { Stream } from '../stream.js';
import { checkArray, checkFinite, checkInteger, checkMultiple } from '../validate.js';

/**
 * The residual sum and the norm after it in one pass: x += y, then out = rmsNorm(x) * weight.
 *
 * @param args.out [rows, columns] bf16
 * @param args.x [rows, columns] f32, updated
 * @param args.y [rows, columns] f32
 * @param args.weight [columns] f32
 * @param args.columns a multiple of 8
 */
export function addRmsNorm(
  stream: Stream,
  args: {
    out: DeviceArray<'bf16'>;
    x: DeviceArray<'f32'>;
    y: DeviceArray<'f32'>;
    weight: DeviceArray<'f32'>;
    rows: number;
    columns: number;
    epsilon: number;
  },
): void {
  const rows = checkInteger('rows', args.rows, 0);
  const columns = checkMultiple('columns', args.columns, 8);
  const epsilon = checkFinite('epsilon', args.epsilon);
  const out = checkArray(stream, 'out', args.out, 'bf16', rows * columns);
  const x = checkArray(stream, 'x', args.x, 'f32', rows * columns);
  const y = checkArray(stream, 'y', args.y, 'f32', rows * columns);
  const weight = checkArray(stream, 'weight', args.weight, 'f32', columns);
  stream.run('addRmsNorm', (native, queue) => native.addRmsNorm(queue, out, x, y, weight, rows, columns, epsilon));
}
