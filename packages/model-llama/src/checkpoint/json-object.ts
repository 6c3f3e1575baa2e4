import { CheckpointError } from '../errors.js';

/** Typed access to a parsed JSON object; null counts as absent. Wrong types are CheckpointErrors naming file and key. */
export class JsonObject {
  readonly #value: Record<string, unknown>;
  readonly #file: string;
  readonly #prefix: string;

  constructor(value: unknown, file: string, prefix = '') {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw new CheckpointError(`${prefix === '' ? 'the file' : prefix.slice(0, -1)} is not a JSON object`, { file });
    }
    this.#value = value as Record<string, unknown>;
    this.#file = file;
    this.#prefix = prefix;
  }

  has(key: string): boolean {
    return this.get(key) !== undefined;
  }

  get(key: string): unknown {
    return Object.hasOwn(this.#value, key) ? (this.#value[key] ?? undefined) : undefined;
  }

  keys(): string[] {
    return Object.keys(this.#value);
  }

  path(key: string): string {
    return this.#prefix + key;
  }

  string(key: string): string | undefined {
    return this.#typed<string>(key, 'a string', (value) => typeof value === 'string');
  }

  boolean(key: string): boolean | undefined {
    return this.#typed<boolean>(key, 'true or false', (value) => typeof value === 'boolean');
  }

  /** A finite number. */
  number(key: string): number | undefined {
    return this.#typed<number>(key, 'a number', Number.isFinite);
  }

  /** A whole number above 0. */
  count(key: string): number | undefined {
    return this.#typed<number>(
      key,
      'a whole number above 0',
      (value) => Number.isSafeInteger(value) && (value as number) > 0,
    );
  }

  strings(key: string): string[] | undefined {
    return this.#typed<string[]>(
      key,
      'a list of strings',
      (value) => Array.isArray(value) && value.every((item) => typeof item === 'string'),
    );
  }

  object(key: string): JsonObject | undefined {
    const value = this.get(key);
    return value === undefined ? undefined : new JsonObject(value, this.#file, `${this.path(key)}.`);
  }

  objects(key: string): JsonObject[] | undefined {
    return this.#typed<unknown[]>(key, 'a list', Array.isArray)?.map(
      (value, i) => new JsonObject(value, this.#file, `${this.path(key)}[${i}].`),
    );
  }

  required<T>(key: string, value: T | undefined): T {
    if (value === undefined) throw this.error(`${this.path(key)} is missing`);
    return value;
  }

  error(message: string): CheckpointError {
    return new CheckpointError(message, { file: this.#file });
  }

  #typed<T>(key: string, kind: string, is: (value: unknown) => boolean): T | undefined {
    const value = this.get(key);
    if (value === undefined) return undefined;
    if (!is(value)) {
      throw new CheckpointError(`${this.path(key)} is ${JSON.stringify(value).slice(0, 80)}, not ${kind}`, {
        file: this.#file,
      });
    }
    return value as T;
  }
}
