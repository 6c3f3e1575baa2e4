import type { DeviceArray } from '../device-array.js';
import type { Stream } from '../stream.js';
import { checkArray, checkInteger, checkMultiple } from '../validate.js';
import { asMatrix, FEW_ROWS } from './linear.js';
import { checkWeight, type WeightMatrix } from './weights.js';

/**
 * SwiGLU's two products and the activation in one pass over the weights, for 1 to 16 rows: out = silu(x G^T) * (x U^T).
 * For more rows: {@link linear} with the same weight, then {@link swiglu}.
 *
 * @param args.out [rows, width] bf16
 * @param args.x [rows, inputs] bf16
 * @param args.weight [2 width, inputs] bf16, or any matrix: G, then U
 * @param args.rows at most 16
 * @param args.width a multiple of 8
 * @param args.inputs a multiple of 8, of 32 with quantised weights
 */
export function linearGated(
  stream: Stream,
  args: {
    out: DeviceArray<'bf16'>;
    x: DeviceArray<'bf16'>;
    weight: DeviceArray<'bf16'> | WeightMatrix;
    rows: number;
    width: number;
    inputs: number;
  },
): void {
  const rows = checkInteger('rows', args.rows, 0, FEW_ROWS);
  const width = checkMultiple('width', args.width, 8);
  const inputs = checkMultiple('inputs', args.inputs, 8);
  const out = checkArray(stream, 'out', args.out, 'bf16', rows * width);
  const x = checkArray(stream, 'x', args.x, 'bf16', rows * inputs);
  const weight = checkWeight(stream, asMatrix(args.weight), 2 * width, inputs, 'inputs');
  stream.run('linearGated', (native, queue) => native.linearGated(queue, out, x, ...weight, rows, width, inputs));
}
