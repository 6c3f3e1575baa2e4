import { InvalidArgumentError } from './errors.js';

/** Codes are stored in 16 bits. */
export const MAX_BITS = 16;
export const MAX_TABLES = 4096;
/** Beyond this the integers that vectors are rounded to would have fewer than ten bits (see simhash-projection.ts). */
export const MAX_DIM = 32_768;
/** Ids are 32 bits. */
export const MAX_KEYS = 2 ** 32 - 1;

export function checkInteger(name: string, value: unknown, least: number, most: number): number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < least || value > most) {
    throw new InvalidArgumentError(`${name} must be an integer from ${least} to ${most}, not ${show(value)}.`);
  }
  return value;
}

export function checkNumber(name: string, value: unknown, least: number, most: number): number {
  if (typeof value !== 'number' || !(value >= least && value <= most)) {
    throw new InvalidArgumentError(`${name} must be a number from ${least} to ${most}, not ${show(value)}.`);
  }
  return value;
}

/** Checks a Float32Array of rows of `width` values; returns the number of rows. */
export function checkRows(name: string, value: unknown, width: number): number {
  if (!(value instanceof Float32Array)) {
    throw new InvalidArgumentError(`${name} must be a Float32Array, not ${show(value)}.`);
  }
  if (isDetached(value)) throw new InvalidArgumentError(`${name} is a view of a detached buffer.`);
  if (value.length % width !== 0) {
    throw new InvalidArgumentError(`${name} has ${value.length} values, which is no multiple of dim = ${width}.`);
  }
  return value.length / width;
}

/** Checks a Float32Array of exactly `length` values. */
export function checkVector(name: string, value: unknown, length: number): Float32Array {
  if (!(value instanceof Float32Array)) {
    throw new InvalidArgumentError(`${name} must be a Float32Array, not ${show(value)}.`);
  }
  if (isDetached(value)) throw new InvalidArgumentError(`${name} is a view of a detached buffer.`);
  if (value.length !== length) {
    throw new InvalidArgumentError(`${name} has ${value.length} values; dim is ${length}.`);
  }
  return value;
}

/** A view of a transferred or detached buffer has length 0, as an empty one has; a zero-length slice tells them apart. */
function isDetached(view: ArrayBufferView): boolean {
  if (view.byteLength > 0 || !(view.buffer instanceof ArrayBuffer)) return false;
  try {
    new Uint8Array(view.buffer);
    return false;
  } catch {
    return true;
  }
}

export function show(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value);
  if (typeof value === 'object' && value !== null) return value.constructor?.name ?? 'object';
  return String(value);
}
