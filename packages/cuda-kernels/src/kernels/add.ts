import type { DeviceArray } from '../device-array.js';
import type { Stream } from '../stream.js';
import { checkArray, checkInteger } from '../validate.js';

/**
 * x += y, element by element, both f32.
 *
 * @param args.count elements; all of y when absent
 */
export function add(stream: Stream, args: { x: DeviceArray<'f32'>; y: DeviceArray<'f32'>; count?: number }): void {
  const count = checkInteger('count', args.count ?? args.y.length, 0, Number.MAX_SAFE_INTEGER);
  const x = checkArray(stream, 'x', args.x, 'f32', count);
  const y = checkArray(stream, 'y', args.y, 'f32', count);
  stream.run('add', (native, queue) => native.add(queue, x, y, count));
}
