import { InvalidArgumentError } from './errors.js';
import type { Rows } from './types.js';

/** Refuses `value` unless it is an integer in [min, max]. */
export function checkInteger(name: string, value: unknown, min: number, max: number): asserts value is number {
  if (!Number.isInteger(value) || (value as number) < min || (value as number) > max) {
    throw new InvalidArgumentError(`${name} is ${String(value)}; pass an integer from ${min} to ${max}.`);
  }
}

/** Refuses rows that are not float32, or whose `count` rows of `width` elements do not lie inside their buffer. */
export function checkRows(name: string, rows: Rows, count: number, width: number): void {
  if (!(rows?.data instanceof Float32Array)) {
    throw new InvalidArgumentError(`${name}.data is not a Float32Array; pass { data, offset, stride }.`);
  }
  checkInteger(`${name}.offset`, rows.offset, 0, rows.data.length);
  checkInteger(`${name}.stride`, rows.stride, width, Number.MAX_SAFE_INTEGER);
  const end = count === 0 ? 0 : rows.offset + (count - 1) * rows.stride + width;
  if (end > rows.data.length) {
    throw new InvalidArgumentError(
      `${name}: ${count} rows of ${width} at offset ${rows.offset}, stride ${rows.stride} end at element ${end}, ` +
        `but data has ${rows.data.length}.`,
    );
  }
}
