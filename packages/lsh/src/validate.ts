import type { Vectors } from './engine.js';
import { InvalidArgumentError, NonFiniteError } from './errors.js';

/** Codes are stored in 16 bits. */
export const MAX_BITS = 16;
export const MAX_TABLES = 4096;
/** Beyond this the integers that vectors are rounded to would have fewer than ten bits (see simhash-projection.ts). */
export const MAX_DIM = 32_768;
const VECTORS = 'Float32Array, or a Uint16Array of bfloat16';
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
export function checkRows(name: string, value: unknown, width: number, what = 'Float32Array'): number {
  if (!(value instanceof Float32Array)) {
    throw new InvalidArgumentError(`${name} must be a ${what}, not ${show(value)}.`);
  }
  return checkRowLength(name, value, width);
}

function checkRowLength(name: string, value: Vectors, width: number): number {
  if (isDetached(value)) throw new InvalidArgumentError(`${name} is a view of a detached buffer.`);
  if (value.length % width !== 0) {
    throw new InvalidArgumentError(`${name} has ${value.length} values, which is no multiple of dim = ${width}.`);
  }
  return value.length / width;
}

/** Checks vectors, a Float32Array or a Uint16Array of bfloat16, of `dim` values each; returns how many there are. */
export function checkVectors(name: string, value: unknown, dim: number): number {
  if (!(value instanceof Uint16Array)) return checkRows(name, value, dim, VECTORS);
  return checkRowLength(name, value, dim);
}

/** Checks one vector, a Float32Array or a Uint16Array of bfloat16. */
export function checkQuery(name: string, value: unknown, dim: number): void {
  if (value instanceof Uint16Array) {
    checkLength(name, value, dim);
  } else {
    checkVector(name, value, dim, VECTORS);
  }
}

/** Checks a typed array of a caller's. */
export function checkOutput<T extends ArrayBufferView>(name: string, value: unknown, type: new () => T): void {
  if (!(value instanceof type)) {
    throw new InvalidArgumentError(`${name} must be a ${type.name}, not ${show(value)}.`);
  }
  if (isDetached(value)) throw new InvalidArgumentError(`${name} is a view of a detached buffer.`);
}

/** Checks a `center` option; vectors must be [heads, dim] and finite. Copies them. */
export function checkCenter(value: unknown, heads: number, dim: number): 'none' | 'auto' | Float32Array {
  if (value === 'none' || value === 'auto') return value;
  if (!(value instanceof Float32Array) || value.length !== heads * dim) {
    const shape = heads === 1 ? `${dim}` : `heads * dim = ${heads * dim}`;
    throw new InvalidArgumentError(
      `center must be 'none', 'auto' or a Float32Array of ${shape} values, not ${show(value)}.`,
    );
  }
  return checkFinite('center', value.slice());
}

export function checkFinite(name: string, value: Float32Array): Float32Array {
  if (!value.every(Number.isFinite)) throw new NonFiniteError(`${name} holds NaN or an infinity.`);
  return value;
}

/** Checks a typed array of exactly `length` values. */
export function checkArray<T extends Float32Array | Uint16Array>(
  name: string,
  value: unknown,
  type: new () => T,
  length: number,
): void {
  checkOutput(name, value, type);
  if ((value as T).length !== length) {
    throw new InvalidArgumentError(`${name} has ${(value as T).length} values and must have ${length}.`);
  }
}

/** Checks the path of a file. */
export function checkPath(path: unknown): string {
  if (typeof path !== 'string' || path === '' || path.includes('\0')) {
    throw new InvalidArgumentError(`path must be the path of a file, not ${show(path)}.`);
  }
  return path;
}

/** Checks a Float32Array of exactly `length` values. */
export function checkVector(name: string, value: unknown, length: number, what = 'Float32Array'): Float32Array {
  if (!(value instanceof Float32Array)) {
    throw new InvalidArgumentError(`${name} must be a ${what}, not ${show(value)}.`);
  }
  checkLength(name, value, length);
  return value;
}

function checkLength(name: string, value: Vectors, length: number): void {
  if (isDetached(value)) throw new InvalidArgumentError(`${name} is a view of a detached buffer.`);
  if (value.length !== length) {
    throw new InvalidArgumentError(`${name} has ${value.length} values; dim is ${length}.`);
  }
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
