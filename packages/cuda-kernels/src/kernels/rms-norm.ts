import type { DeviceArray } from '../device-array.js';
import type { Stream } from '../stream.js';
import { checkArray, checkFinite, checkInteger, checkMultiple } from '../validate.js';

/**
 * RMSNorm of each row: out = x / sqrt(mean(x^2) + epsilon) * weight.
 *
 * @param args.out [rows, columns] bf16 or f32
 * @param args.x [rows, columns] f32
 * @param args.weight [columns] f32
 * @param args.columns a multiple of 8
 */
export function rmsNorm(
  stream: Stream,
  args: {
    out: DeviceArray<'bf16'> | DeviceArray<'f32'>;
    x: DeviceArray<'f32'>;
    weight: DeviceArray<'f32'>;
    rows: number;
    columns: number;
    epsilon: number;
  },
): void {
  const rows = checkInteger('rows', args.rows, 0);
  const columns = checkMultiple('columns', args.columns, 8);
  const epsilon = checkFinite('epsilon', args.epsilon);
  const out = checkArray(stream, 'out', args.out, ['bf16', 'f32'], rows * columns);
  const x = checkArray(stream, 'x', args.x, 'f32', rows * columns);
  const weight = checkArray(stream, 'weight', args.weight, 'f32', columns);
  stream.run('rmsNorm', (native, queue) =>
    args.out.dtype === 'f32'
      ? native.rmsNormF32(queue, out, x, weight, rows, columns, epsilon)
      : native.rmsNorm(queue, out, x, weight, rows, columns, epsilon),
  );
}
