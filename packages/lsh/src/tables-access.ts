import type { EngineTables } from './engine.js';
import { BusyError, DisposedError, ReadOnlyError } from './errors.js';
import { translateError } from './translate-errors.js';

/** Options of calls that run off the calling thread. */
export interface AsyncOptions {
  /** Stops the call; its promise is then rejected with the signal's reason. */
  signal?: AbortSignal;
  /** Called some times a second, and at the end, with the rows that are done and all rows. */
  onProgress?: (done: number, total: number) => void;
}

/** How often progress is reported. */
const PROGRESS_MS = 50;

/**
 * Who may use an object's tables: nobody after disposal, no changes in a view of a file, no changes beside an asynchronous
 * query, and nothing at all beside an asynchronous change.
 */
export class TablesAccess {
  readonly readOnly: boolean;
  readonly #name: string;
  #tables: EngineTables | undefined;
  #change = false;
  /** Control words of running calls, see EngineTables.addAsync. */
  readonly #running = new Set<Uint32Array>();

  constructor(name: string, tables: EngineTables, readOnly: boolean) {
    this.#name = name;
    this.#tables = tables;
    this.readOnly = readOnly;
  }

  /** Tables to read. Throws DisposedError, BusyError. */
  get reading(): EngineTables {
    if (!this.#tables) throw this.#disposed();
    if (this.#change) {
      throw new BusyError(`The ${this.#name} is being added to; wait for the promise of addAsync.`);
    }
    return this.#tables;
  }

  /** Tables to change. Throws DisposedError, BusyError, ReadOnlyError. */
  get changing(): EngineTables {
    const tables = this.reading;
    if (this.readOnly) throw new ReadOnlyError(`The ${this.#name} is a view of a file; load the file to change it.`);
    if (this.#running.size > 0) {
      throw new BusyError(`The ${this.#name} is being queried; wait for the promise of queryBatchAsync.`);
    }
    return tables;
  }

  /** Makes an asynchronous call over `rows` rows, which resolves to false or undefined when it was stopped. */
  async run<T>(
    kind: 'reading' | 'changing',
    rows: number,
    { signal, onProgress }: AsyncOptions,
    call: (tables: EngineTables, control: Uint32Array) => Promise<T | false | undefined>,
  ): Promise<T> {
    const tables = this[kind];
    signal?.throwIfAborted();
    const control = new Uint32Array(new SharedArrayBuffer(2 * Uint32Array.BYTES_PER_ELEMENT));
    const stop = () => Atomics.store(control, 0, 1);
    let failure: { error: unknown } | undefined;
    const report = (done: number) => {
      try {
        onProgress?.(done, rows);
      } catch (error) {
        failure ??= { error };
        stop();
      }
    };
    const timer = onProgress && setInterval(() => report(Atomics.load(control, 1)), PROGRESS_MS);
    signal?.addEventListener('abort', stop);
    this.#running.add(control);
    this.#change = kind === 'changing';
    try {
      const result = await translated(() => call(tables, control));
      if (!this.#tables) throw this.#disposed();
      if (result === false || result === undefined) {
        if (failure) throw failure.error;
        throw signal?.reason;
      }
      report(rows);
      return result;
    } finally {
      clearInterval(timer);
      signal?.removeEventListener('abort', stop);
      this.#running.delete(control);
      this.#change = false;
      if (!this.#tables && this.#running.size === 0) tables.dispose();
    }
  }

  /** Frees the tables, or stops the calls that use them and lets the last one free them. */
  dispose(): void {
    const tables = this.#tables;
    this.#tables = undefined;
    for (const control of this.#running) Atomics.store(control, 0, 1);
    if (this.#running.size === 0) tables?.dispose();
  }

  #disposed(): DisposedError {
    return new DisposedError(`This ${this.#name} was disposed of.`);
  }
}

async function translated<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    throw translateError(error);
  }
}
