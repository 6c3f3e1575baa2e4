import type { DeviceArray } from '../device-array.js';
import type { Stream } from '../stream.js';
import { checkArray, checkInteger, checkMultiple } from '../validate.js';

/**
 * SwiGLU: out = silu(gate) * up.
 *
 * @param args.out [rows, width] bf16
 * @param args.gateUp [rows, 2 width] f32: each row's gate, then its up
 * @param args.width a multiple of 8
 */
export function swiglu(
  stream: Stream,
  args: { out: DeviceArray<'bf16'>; gateUp: DeviceArray<'f32'>; rows: number; width: number },
): void {
  const rows = checkInteger('rows', args.rows, 0);
  const width = checkMultiple('width', args.width, 8);
  const out = checkArray(stream, 'out', args.out, 'bf16', rows * width);
  const gateUp = checkArray(stream, 'gateUp', args.gateUp, 'f32', 2 * rows * width);
  stream.run('swiglu', (native, queue) => native.swiglu(queue, out, gateUp, rows, width));
}
