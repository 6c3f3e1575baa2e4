import { availableParallelism } from 'node:os';
import type { EngineTables } from './engine.js';
import { DisposedError, InvalidArgumentError } from './errors.js';
import { engine } from './load-engine.js';
import { logInclusionTable } from './log-inclusion-table.js';
import { SimHashProjection } from './simhash-projection.js';
import { translateErrors } from './translate-errors.js';
import { checkInteger, checkNumber, checkRows, checkVector, MAX_KEYS, show } from './validate.js';

/** Options of {@link SimHashTables}. */
export interface SimHashTablesOptions {
  /** Independent indexes in this object; for a Llama, layers * KV heads. */
  heads: number;
  /** Dimension of the vectors. */
  dim: number;
  /** Bits of a hash code (paper: K), 1..16. Default 10. */
  bits?: number;
  /** Hash tables (paper: L), 1..4096. Default 150. */
  tables?: number;
  /** Seeds the projections. Default 0. */
  seed?: number;
  /** Tables in which a key must share the query's bucket to be returned. Default 2. */
  minCollisions?: number;
  /** Floor of the inclusion probability, so that no weight exceeds its inverse. Default 1e-4. */
  minProbability?: number;
  /**
   * `auto` (default): each head hashes its keys relative to the mean of the keys of its first {@link SimHashTables.add},
   * which stays fixed afterwards; without it the keys of a transformer all lie in one narrow cone. `none`: as they are.
   */
  center?: 'auto' | 'none';
  /** Threads of adds, shared among all indexes of the process that ask for the same number. Default: all cores. */
  threads?: number;
  /** A thread pool of another addon (include/magicpig/pool.h), instead of `threads`. */
  pool?: object;
  /** Projections to share; its dim, bits, tables and seed must be those asked for, where they are given. */
  projection?: SimHashProjection;
}

/**
 * SimHash tables of many independent heads (paper, Algorithm 1): keys are hashed `tables` times to `bits` bits, and a query
 * returns the keys that share its bucket in at least `minCollisions` tables. A head without keys costs next to nothing.
 *
 * Vectors are float32. Ids count the keys of a head in the order they were added, from 0.
 */
export class SimHashTables {
  readonly heads: number;
  readonly dim: number;
  readonly bits: number;
  readonly tables: number;
  readonly minCollisions: number;
  readonly projection: SimHashProjection;
  #tables: EngineTables | undefined;
  #selector: object | undefined;

  /**
   * @throws InvalidArgumentError when an option is out of range or contradicts `projection`
   * @throws OutOfMemoryError when the projections cannot be allocated
   */
  constructor(options: SimHashTablesOptions) {
    this.heads = checkInteger('heads', options.heads, 1, 2 ** 20);
    const projection = options.projection ?? new SimHashProjection(options);
    for (const name of ['dim', 'bits', 'tables', 'seed'] as const) {
      if (options[name] !== undefined && options[name] !== projection[name]) {
        throw new InvalidArgumentError(
          `${name} is ${show(options[name])} but the projection was made with ${projection[name]}; leave it out or make them equal.`,
        );
      }
    }
    this.projection = projection;
    this.dim = projection.dim;
    this.bits = projection.bits;
    this.tables = projection.tables;
    this.minCollisions = checkInteger('minCollisions', options.minCollisions ?? 2, 1, this.tables);
    const minProbability = checkNumber('minProbability', options.minProbability ?? 1e-4, Number.MIN_VALUE, 1);
    const center = options.center ?? 'auto';
    if (center !== 'auto' && center !== 'none') {
      throw new InvalidArgumentError(`center must be 'auto' or 'none', not ${show(center)}.`);
    }
    if (options.pool !== undefined && options.threads !== undefined) {
      throw new InvalidArgumentError('pool and threads exclude each other; leave one out.');
    }
    const { bits, tables, minCollisions } = this;
    const logTable = logInclusionTable({ bits, tables, minCollisions, minProbability });
    this.#tables = translateErrors(() =>
      engine().createTables({
        projection: projection.native,
        heads: this.heads,
        minCollisions,
        minProbability,
        norms: true,
        keep: 'none',
        logTable,
        center,
        pool: options.pool ?? checkInteger('threads', options.threads ?? availableParallelism(), 1, 1024),
      }),
    );
  }

  /** Bytes held for all heads, exactly; the projections, which may be shared, are not counted. */
  get bytes(): number {
    return this.#engine.bytes();
  }

  /**
   * Selector handle for an attention kernel (include/magicpig/selector.h): ids are relative to the first key of a head, and
   * the correction is the table of -log u over the cosine.
   *
   * @throws UnsupportedError without the native addon
   */
  get selector(): object {
    const tables = this.#engine;
    return (this.#selector ??= translateErrors(() => tables.selector()));
  }

  /** Keys of one head. */
  length(head: number): number {
    return this.#engine.length(this.#head(head));
  }

  /**
   * Appends keys to one head.
   *
   * @param keys [n, dim], as they are: centring is done here
   * @throws InvalidArgumentError when the length is no multiple of `dim`, or the head would exceed 2^32 - 1 keys
   * @throws NonFiniteError, OutOfMemoryError; then nothing was added
   */
  add(head: number, keys: Float32Array): void {
    const tables = this.#engine;
    const rows = checkRows('keys', keys, this.dim);
    if (tables.length(this.#head(head)) + rows > MAX_KEYS) {
      throw new InvalidArgumentError(`A head holds at most ${MAX_KEYS} keys.`);
    }
    translateErrors(() => tables.add(head, keys));
  }

  /**
   * Ids, ascending, of the keys of one head that share a bucket with the query in at least `minCollisions` tables.
   *
   * @param query [dim]; hashed as it is, not centred
   * @throws InvalidArgumentError, NonFiniteError
   */
  query(head: number, query: Float32Array): Uint32Array {
    const tables = this.#engine;
    checkVector('query', query, this.dim);
    this.#head(head);
    return translateErrors(
      () => tables.query(head, query, { minCollisions: this.minCollisions, collisions: false, dots: false }).ids,
    );
  }

  /** The vector that a head's keys are relative to, [dim]; zeros without centring and before the first key. */
  centre(head: number): Float32Array {
    return this.#engine.centre(this.#head(head));
  }

  /**
   * Forgets all keys of a head from `length` on; the centre stays.
   *
   * @throws InvalidArgumentError when the head has fewer than `length` keys
   */
  truncate(head: number, length: number): void {
    const tables = this.#engine;
    checkInteger('length', length, 0, tables.length(this.#head(head)));
    translateErrors(() => tables.truncate(head, length));
  }

  /** Forgets all keys and centres of all heads. */
  clear(): void {
    this.#engine.clear();
  }

  /** Frees the tables at once. A kernel that still holds the selector gets an error from it. */
  [Symbol.dispose](): void {
    this.#tables?.dispose();
    this.#tables = undefined;
  }

  get #engine(): EngineTables {
    if (!this.#tables) throw new DisposedError('These SimHashTables were disposed of.');
    return this.#tables;
  }

  #head(head: number): number {
    return checkInteger('head', head, 0, this.heads - 1);
  }
}
