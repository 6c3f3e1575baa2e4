import { CheckpointError } from '../errors.js';
import type { GgufValue } from './gguf.js';

/** Typed access to a GGUF file's metadata; what has another type than asked for is a CheckpointError naming the key. */
export class GgufMetadata {
  readonly file: string;
  readonly #values: ReadonlyMap<string, GgufValue>;

  constructor(values: ReadonlyMap<string, GgufValue>, file: string) {
    this.#values = values;
    this.file = file;
  }

  keys(): Iterable<string> {
    return this.#values.keys();
  }

  string(key: string): string | undefined {
    return this.#typed(key, 'a string', (value) => typeof value === 'string') as string | undefined;
  }

  number(key: string): number | undefined {
    return this.#typed(key, 'a number', (value) => typeof value === 'number') as number | undefined;
  }

  boolean(key: string): boolean | undefined {
    return this.#typed(key, 'a boolean', (value) => typeof value === 'boolean') as boolean | undefined;
  }

  strings(key: string): string[] | undefined {
    return this.#typed(key, 'a list of strings', Array.isArray) as string[] | undefined;
  }

  numbers(key: string): ArrayLike<number> | undefined {
    return this.#typed(key, 'a list of numbers', ArrayBuffer.isView) as ArrayLike<number> | undefined;
  }

  /** A whole number above 0 that must be there. */
  size(key: string): number {
    const value = this.required(key, this.number(key));
    if (!Number.isInteger(value) || value < 1) throw this.error(key, `is ${value}, not a whole number above 0`);
    return value;
  }

  required<T>(key: string, value: T | undefined): T {
    if (value === undefined) throw this.error(key, 'is missing');
    return value;
  }

  error(key: string, message: string): CheckpointError {
    return new CheckpointError(`metadata ${key} ${message}`, { file: this.file });
  }

  #typed(key: string, kind: string, is: (value: GgufValue) => boolean): GgufValue | undefined {
    const value = this.#values.get(key);
    if (value !== undefined && !is(value)) throw this.error(key, `is not ${kind}`);
    return value;
  }
}
