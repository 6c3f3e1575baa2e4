import type { DeviceArray } from './device-array.js';
import { type DType, ELEMENT_BYTES } from './dtype.js';
import { InvalidArgumentError } from './errors.js';
import type { Address } from './native.js';
import type { Stream } from './stream.js';

/** Largest count that the kernels take as a 32-bit integer. */
export const MAX_INT = 2 ** 31 - 1;
/** Vector loads of the kernels are this wide. */
const ALIGNMENT = 16;

/** @internal */
export function show(value: unknown): string {
  return typeof value === 'string' ? `'${value}'` : String(value);
}

/** @internal An integer of a range, or an error that names it. */
export function checkInteger(name: string, value: number, min: number, max: number = MAX_INT): number {
  if (!Number.isInteger(value) || value < min || value > max) {
    throw new InvalidArgumentError(`${name} must be an integer from ${min} to ${max}, not ${show(value)}.`);
  }
  return value;
}

/** @internal An integer that is a multiple of another. */
export function checkMultiple(
  name: string,
  value: number,
  of: number,
  min: number = of,
  max: number = MAX_INT,
): number {
  checkInteger(name, value, min, max);
  if (value % of !== 0) throw new InvalidArgumentError(`${name} must be a multiple of ${of}, not ${value}.`);
  return value;
}

/** @internal */
export function checkFinite(name: string, value: number): number {
  if (!Number.isFinite(value)) throw new InvalidArgumentError(`${name} must be a finite number, not ${show(value)}.`);
  return value;
}

/**
 * @internal The address of an array that a kernel reads or writes `elements` elements of.
 *
 * @throws InvalidArgumentError when it is of another type or device, shorter, or not 16-byte aligned
 * @throws DisposedError
 */
export function checkArray(
  stream: Stream,
  name: string,
  array: DeviceArray,
  dtype: DType | readonly DType[],
  elements: number,
): Address {
  const dtypes = typeof dtype === 'string' ? [dtype] : dtype;
  if (!dtypes.includes(array.dtype)) {
    throw new InvalidArgumentError(`${name} must be of type ${dtypes.join(' or ')}, not ${array.dtype}.`);
  }
  if (array.device !== stream.device) {
    throw new InvalidArgumentError(`${name} lives on another Device than the stream; copy it over first.`);
  }
  if (array.length < elements) {
    throw new InvalidArgumentError(
      `${name} holds ${array.length} elements, but the kernel touches ${elements} (${elements * ELEMENT_BYTES[array.dtype]} bytes).`,
    );
  }
  const { address } = array;
  if (address % ALIGNMENT !== 0) {
    throw new InvalidArgumentError(
      `${name} begins at an address that is no multiple of ${ALIGNMENT} bytes; choose another offset.`,
    );
  }
  return address;
}

/** @internal The same for an array that may be left out: 0 then. */
export function checkOptional(
  stream: Stream,
  name: string,
  array: DeviceArray | undefined,
  dtype: DType | readonly DType[],
  elements: number,
): Address {
  return array === undefined ? 0 : checkArray(stream, name, array, dtype, elements);
}

/**
 * @internal The address of a workspace of `bytes` bytes; 0 when none is needed.
 *
 * @throws InvalidArgumentError when it is missing or too small
 */
export function checkWorkspace(stream: Stream, array: DeviceArray<'u8'> | undefined, bytes: number): Address {
  if (bytes === 0) return 0;
  if (array === undefined) {
    throw new InvalidArgumentError(`workspace is missing; these sizes need one of ${bytes} bytes.`);
  }
  return checkArray(stream, 'workspace', array, 'u8', bytes);
}

/** @internal */
export function ceilDiv(a: number, b: number): number {
  return Math.ceil(a / b);
}
