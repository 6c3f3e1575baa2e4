import type { DeviceArray } from '../device-array.js';
import { InvalidArgumentError } from '../errors.js';
import { type Address, type Native, NOT_SUPPORTED } from '../native.js';
import type { Stream } from '../stream.js';
import { checkArray, checkInteger, checkMultiple, checkOptional } from '../validate.js';
import { checkWeight, type WeightMatrix } from './weights.js';

/** Rows up to which the kernel that reads the weights once, and nothing else, is used. */
export const FEW_ROWS = 16;

/**
 * out (+)= x W^T + bias, with float32 sums.
 *
 * Up to 16 rows go through a kernel bound by reading W once, which takes quantised weights too ({@link WeightMatrix}); more through cuBLASLt where it is installed
 * ({@link Device.cublasLt}), and otherwise through this package's own tensor-core product. Within one of these three a row's
 * result does not depend on the other rows' values.
 *
 * @param args.out [rows, outputs] f32
 * @param args.x [rows, inputs] bf16
 * @param args.weight [outputs, inputs] bf16, or up to 16 rows any matrix; for more rows of x, {@link unpackWeight} comes first
 * @param args.bias [outputs] f32, optional
 * @param args.inputs a multiple of 8, of 32 with quantised weights
 * @param args.accumulate add to what `out` holds; default false
 * @param args.use `own` keeps cuBLASLt out; default `any`
 */
export function linear(
  stream: Stream,
  args: {
    out: DeviceArray<'f32'>;
    x: DeviceArray<'bf16'>;
    weight: DeviceArray<'bf16'> | WeightMatrix;
    bias?: DeviceArray<'f32'>;
    rows: number;
    outputs: number;
    inputs: number;
    accumulate?: boolean;
    use?: 'any' | 'own';
  },
): void {
  const matrix = asMatrix(args.weight);
  const rows = checkInteger('rows', args.rows, 0);
  if (rows > FEW_ROWS && matrix.kind !== 'bf16') {
    throw new InvalidArgumentError(
      `rows must be at most ${FEW_ROWS} with quantised weights, not ${rows}; unpack them.`,
    );
  }
  const outputs = checkInteger('outputs', args.outputs, 1);
  const inputs = checkMultiple('inputs', args.inputs, 8);
  const accumulate = args.accumulate ?? false;
  const out = checkArray(stream, 'out', args.out, 'f32', rows * outputs);
  const x = checkArray(stream, 'x', args.x, 'bf16', rows * inputs);
  const view = checkWeight(stream, matrix, outputs, inputs, 'inputs');
  const weight = view[1];
  const bias = checkOptional(stream, 'bias', args.bias, 'f32', outputs);
  if (rows === 0) return;
  const own = (native: Native, queue: Address) =>
    rows <= FEW_ROWS
      ? native.linear(queue, out, x, ...view, bias, rows, outputs, inputs, accumulate)
      : native.gemm(queue, out, x, weight, bias, rows, outputs, inputs, accumulate);

  // cuBLASLt adds no bias to float32 results: the bias goes first, which the vector kernel does for whole quads of columns.
  const theirs =
    rows > FEW_ROWS && args.use !== 'own' && (bias === 0 || outputs % 4 === 0) && stream.device.cublasLt.available;
  if (!theirs) {
    stream.run('linear', own);
    return;
  }
  const workspace = stream.cublasLtWorkspace();
  // What it answers decides what is called: that cannot be held back.
  stream.runNow('linear', (native, queue) => {
    if (bias !== 0) {
      const status = native.addBias(queue, out, bias, rows, outputs, accumulate);
      if (status !== 0) return status;
    }
    const sum = accumulate || bias !== 0;
    const status = native.multiplyCublasLt(queue, out, x, weight, rows, outputs, inputs, sum, workspace);
    // No algorithm of theirs for this shape: ours takes any.
    return status === NOT_SUPPORTED ? native.gemm(queue, out, x, weight, 0, rows, outputs, inputs, sum) : status;
  });
}

/** @internal A bare array of bf16 is a matrix too. */
export function asMatrix(weight: DeviceArray<'bf16'> | WeightMatrix): WeightMatrix {
  if ('kind' in weight) {
    if (weight.kind === 'f32') throw new InvalidArgumentError('weight.kind must be bf16, q8 or q4, not f32.');
    return weight;
  }
  if (weight.dtype !== 'bf16') throw new InvalidArgumentError(`weight must be of type bf16, not ${weight.dtype}.`);
  return { kind: 'bf16', values: weight.as('u8') };
}
