import { availableParallelism } from 'node:os';
import type { EnginePool } from './engine.js';
import { InvalidArgumentError } from './errors.js';
import { type OpenedTables, openTables } from './open-tables.js';
import type { SimHashProjection } from './simhash-projection.js';
import { TablesAccess } from './tables-access.js';
import { translateErrors } from './translate-errors.js';
import { checkInteger, checkPath, show } from './validate.js';

/** Options of `load`, `fromBuffer` and `view`. */
export interface OpenOptions {
  /** Threads of adds and batches, shared among all indexes of the process that ask for the same number. Default: all cores. */
  threads?: number;
  /** A thread pool of another addon (include/magicpig/pool.h), instead of `threads`. */
  pool?: object;
  /** Projections to share, if they are those that the file was made with. */
  projection?: SimHashProjection;
}

type Stored<T> = new (options: undefined, opened: OpenedTables) => T;

/** What {@link SimHashIndex} and {@link SimHashTables} have in common: files, and the end of their life. */
export abstract class StoredTables {
  readonly projection: SimHashProjection;
  readonly minCollisions: number;
  /** Whether this is a view of a file, which cannot be changed (but forked, see {@link SimHashTables.fork}). */
  readonly readOnly: boolean;
  /** @internal */
  protected readonly access: TablesAccess;

  protected constructor(name: string, opened: OpenedTables) {
    this.projection = opened.projection;
    this.minCollisions = opened.minCollisions;
    this.readOnly = opened.readOnly;
    this.access = new TablesAccess(name, opened.tables, opened.readOnly);
  }

  /**
   * Reads a file that {@link save} wrote, checking all of it.
   *
   * @throws FileError, CorruptFileError, OutOfMemoryError; InvalidArgumentError when `projection` is not the file's, or the
   * file is that of another class
   */
  static load<T>(this: Stored<T>, path: string, options: OpenOptions = {}): T {
    return new this(undefined, openTables(checkPath(path), 'load', poolOf(options), options.projection));
  }

  /** Like {@link load}, from the bytes that {@link toBuffer} gave. */
  static fromBuffer<T>(this: Stored<T>, bytes: Uint8Array, options: OpenOptions = {}): T {
    if (!(bytes instanceof Uint8Array)) {
      throw new InvalidArgumentError(`bytes must be a Uint8Array, not ${show(bytes)}.`);
    }
    return new this(undefined, openTables(bytes, 'load', poolOf(options), options.projection));
  }

  /**
   * Maps a file that {@link save} wrote into memory: at once, sharing memory with other processes, and read-only. Its contents
   * are not checked, unless `verify` is set; damaged ones give wrong results. The file must not be cut short while it is
   * viewed; replacing it by {@link save} does no harm.
   *
   * @throws as {@link load}
   */
  static view<T>(this: Stored<T>, path: string, options: OpenOptions & { verify?: boolean } = {}): T {
    const mode = options.verify ? 'view-verified' : 'view';
    return new this(undefined, openTables(checkPath(path), mode, poolOf(options), options.projection));
  }

  /**
   * Writes everything to a file: a new one beside `path`, renamed when it is complete, so that a file of that name is replaced
   * as a whole or not at all. The format is that of docs/format.md.
   *
   * @throws InvalidArgumentError, FileError, OutOfMemoryError
   */
  save(path: string): void {
    const tables = this.access.reading;
    checkPath(path);
    translateErrors(() => tables.save(path));
  }

  /**
   * The bytes that {@link save} writes.
   *
   * @throws OutOfMemoryError
   */
  toBuffer(): Uint8Array {
    const tables = this.access.reading;
    return translateErrors(() => tables.toBuffer());
  }

  /**
   * Frees everything: at once, or when the asynchronous calls that still run have stopped; their promises are rejected. A kernel
   * that still holds a selector gets an error from it.
   */
  [Symbol.dispose](): void {
    this.access.dispose();
  }
}

/** The pool that options name. */
export function poolOf({ pool, threads }: Pick<OpenOptions, 'pool' | 'threads'>): EnginePool {
  if (pool !== undefined && threads !== undefined) {
    throw new InvalidArgumentError('pool and threads exclude each other; leave one out.');
  }
  return pool ?? checkInteger('threads', threads ?? availableParallelism(), 1, 1024);
}
