import type { Vectors } from './engine.js';
import { InvalidArgumentError } from './errors.js';
import { headStats, type SimHashStats } from './head-stats.js';
import { engine } from './load-engine.js';
import { logInclusionTable } from './log-inclusion-table.js';
import type { OpenedTables } from './open-tables.js';
import { SimHashProjection } from './simhash-projection.js';
import { poolOf, StoredTables } from './stored-tables.js';
import { translateErrors } from './translate-errors.js';
import {
  checkArray,
  checkCenter,
  checkFinite,
  checkInteger,
  checkNumber,
  checkQuery,
  checkVector,
  checkVectors,
  MAX_BITS,
  MAX_DIM,
  MAX_KEYS,
  MAX_TABLES,
  show,
} from './validate.js';

/** Keys of a segment's part, at most: ids take 16 bits. A segment has up to two parts. */
const PART_KEYS = 65_535;

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
   * which stays fixed afterwards; without it the keys of a transformer all lie in one narrow cone. `none`: as they are. An
   * array [heads, dim]: relative to the head's row.
   */
  center?: 'auto' | 'none' | Float32Array;
  /** Threads of adds, shared among all indexes of the process that ask for the same number. Default: all cores. */
  threads?: number;
  /** A thread pool of another addon (include/magicpig/pool.h), instead of `threads`. */
  pool?: object;
  /** Projections to share; its dim, bits, tables and seed must be those asked for, where they are given. */
  projection?: SimHashProjection;
}

/**
 * Keys that were hashed and sorted into buckets elsewhere, on a GPU for example: the segments of docs/format.md. They are cut
 * into parts of 65,535 keys, the last one shorter, so that ids take 16 bits: key i is id i mod 65,535 of part floor(i / 65,535).
 */
export interface SimHashSegment {
  /** Keys, 1..131,070. */
  count: number;
  /**
   * [tables, 2^bits + 1, parts]: of each part, its keys in the buckets before this one. With one part, bucket b of table t is
   * ids[t][starts[t][b] .. starts[t][b + 1]), and starts[t][2^bits] is `count`.
   */
  starts: Uint16Array;
  /** [tables, count]: of each table by bucket, in a bucket by part, in a part ascending. */
  ids: Uint16Array;
  /** [count]: 1 / |key - centre|, 0 for the zero vector. */
  inverseNorms: Float32Array;
  /**
   * [dim]: what the keys were hashed relative to. Given with the first keys of a head when `center` is `auto`, and only then;
   * {@link SimHashTables.centre} says what later ones must be relative to.
   */
  centre?: Float32Array;
}

/**
 * SimHash tables of many independent heads (paper, Algorithm 1): keys are hashed `tables` times to `bits` bits, and a query
 * returns the keys that share its bucket in at least `minCollisions` tables. A head without keys costs next to nothing.
 *
 * Vectors are float32, or bfloat16 in a Uint16Array. Ids count the keys of a head in the order they were added, from 0. After
 * disposal all methods throw DisposedError.
 */
export class SimHashTables extends StoredTables {
  readonly heads: number;
  readonly dim: number;
  readonly bits: number;
  readonly tables: number;
  readonly #opened: OpenedTables;
  #selector: object | undefined;

  /** @internal */
  constructor(options: undefined, opened: OpenedTables);
  /**
   * @throws InvalidArgumentError when an option is out of range or contradicts `projection`
   * @throws OutOfMemoryError when the projections cannot be allocated
   */
  constructor(options: SimHashTablesOptions);
  constructor(options?: SimHashTablesOptions, opened = create(options as SimHashTablesOptions)) {
    if (!opened.norms || opened.keepsVectors) {
      throw new InvalidArgumentError('The file holds a SimHashIndex; open it with that.');
    }
    super('SimHashTables', opened);
    this.#opened = opened;
    this.heads = opened.heads;
    this.dim = opened.projection.dim;
    this.bits = opened.projection.bits;
    this.tables = opened.projection.tables;
  }

  /**
   * Bytes that one head with so many keys takes at most, however they were added: what to reserve before it is filled.
   * While keys are added, up to as much again is needed for a moment.
   *
   * @throws InvalidArgumentError
   */
  static bytesFor(keys: number, options: Pick<SimHashTablesOptions, 'dim' | 'bits' | 'tables'>): number {
    checkInteger('keys', keys, 0, MAX_KEYS);
    const dim = checkInteger('dim', options.dim, 1, MAX_DIM);
    const bits = checkInteger('bits', options.bits ?? 10, 1, MAX_BITS);
    const tables = checkInteger('tables', options.tables ?? 150, 1, MAX_TABLES);
    return engine().headBytes(bits, tables, keys, dim, true, 0);
  }

  /**
   * Bytes held for all heads, exactly, without the projections, which may be shared. What forks share is divided among them and
   * rounded up: summed over all of them it is what they hold together.
   */
  get bytes(): number {
    return this.access.reading.bytes();
  }

  /**
   * Selector handle for an attention kernel (include/magicpig/selector.h): ids are relative to the first key of a head, and
   * the correction is the table of -log u over the cosine.
   *
   * @throws UnsupportedError without the native addon
   */
  get selector(): object {
    const tables = this.access.reading;
    return (this.#selector ??= translateErrors(() => tables.selector()));
  }

  /** Keys of one head. */
  length(head: number): number {
    return this.access.reading.length(this.#head(head));
  }

  /** Bytes by part, and how evenly the buckets of one head are filled; reads its tables. */
  stats(head: number): SimHashStats {
    return headStats(this.access.reading, this.#head(head), this.projection);
  }

  /**
   * Appends keys to one head.
   *
   * @param keys [n, dim], as they are: centring is done here
   * @throws InvalidArgumentError when the length is no multiple of `dim`, or the head would exceed 2^32 - 1 keys
   * @throws NonFiniteError, OutOfMemoryError, ReadOnlyError; then nothing was added
   */
  add(head: number, keys: Vectors): void {
    const tables = this.access.changing;
    const rows = checkVectors('keys', keys, this.dim);
    if (tables.length(this.#head(head)) + rows > MAX_KEYS) {
      throw new InvalidArgumentError(`A head holds at most ${MAX_KEYS} keys.`);
    }
    translateErrors(() => tables.add(head, keys));
  }

  /**
   * Appends keys that were hashed with these projections and sorted elsewhere: the same as {@link add} of these keys, without the
   * hashing and sorting. Everything is copied, and then checked, on all threads.
   *
   * @throws InvalidArgumentError when an array has a wrong length, a table does not hold every key once and in order, an inverse
   * norm is negative or not finite, `centre` is missing or one too many, or the head would exceed 2^32 - 1 keys;
   * OutOfMemoryError, ReadOnlyError; then nothing was added
   */
  addSegment(head: number, segment: SimHashSegment): void {
    const tables = this.access.changing;
    const { starts, ids, inverseNorms, centre } = segment;
    const room = MAX_KEYS - tables.length(this.#head(head));
    const count = checkInteger('count', segment.count, 1, Math.min(2 * PART_KEYS, room));
    const parts = Math.ceil(count / PART_KEYS);
    checkArray('starts', starts, Uint16Array, this.tables * (2 ** this.bits + 1) * parts);
    checkArray('ids', ids, Uint16Array, this.tables * count);
    checkArray('inverseNorms', inverseNorms, Float32Array, count);
    if (centre !== undefined) checkFinite('centre', checkVector('centre', centre, this.dim));
    translateErrors(() => tables.addSegment(head, count, starts, ids, inverseNorms, centre));
  }

  /**
   * Tables with the same keys, which share their memory until one of the two changes it: what a sequence with a common prefix
   * starts from. Each can be changed and disposed of without the other noticing, also when it is a view of a file: what changes is
   * copied out of it then, and checked (CorruptFileError).
   *
   * @throws OutOfMemoryError
   */
  fork(): SimHashTables {
    const fork = this.access.reading;
    const tables = translateErrors(() => engine().createTables({ fork }));
    return new SimHashTables(undefined, { ...this.#opened, readOnly: false, tables });
  }

  /**
   * Ids, ascending, of the keys of one head that share a bucket with the query in at least `minCollisions` tables.
   *
   * @param query [dim]; hashed as it is, not centred
   * @throws InvalidArgumentError, NonFiniteError
   */
  query(head: number, query: Vectors): Uint32Array {
    const tables = this.access.reading;
    checkQuery('query', query, this.dim);
    this.#head(head);
    return translateErrors(
      () => tables.query(head, query, { minCollisions: this.minCollisions, collisions: false, dots: false }).ids,
    );
  }

  /** The vector that a head's keys are relative to, [dim]; zeros without centring and before the first key. */
  centre(head: number): Float32Array {
    return this.access.reading.centre(this.#head(head));
  }

  /**
   * Forgets all keys of a head from `length` on; the centre stays.
   *
   * @throws InvalidArgumentError when the head has fewer than `length` keys; OutOfMemoryError, ReadOnlyError; then nothing has
   * changed
   */
  truncate(head: number, length: number): void {
    const tables = this.access.changing;
    checkInteger('length', length, 0, tables.length(this.#head(head)));
    translateErrors(() => tables.truncate(head, length));
  }

  /**
   * Forgets all keys of all heads, and their means.
   *
   * @throws ReadOnlyError
   */
  clear(): void {
    this.access.changing.clear();
  }

  #head(head: number): number {
    return checkInteger('head', head, 0, this.heads - 1);
  }
}

function create(options: SimHashTablesOptions): OpenedTables {
  const heads = checkInteger('heads', options.heads, 1, 2 ** 20);
  const projection = options.projection ?? new SimHashProjection(options);
  for (const name of ['dim', 'bits', 'tables', 'seed'] as const) {
    if (options[name] !== undefined && options[name] !== projection[name]) {
      throw new InvalidArgumentError(
        `${name} is ${show(options[name])} but the projection was made with ${projection[name]}; leave it out or make them equal.`,
      );
    }
  }
  const { dim, bits, tables } = projection;
  const minCollisions = checkInteger('minCollisions', options.minCollisions ?? 2, 1, tables);
  const minProbability = checkNumber('minProbability', options.minProbability ?? 1e-4, Number.MIN_VALUE, 1);
  const center = checkCenter(options.center ?? 'auto', heads, dim);
  const pool = poolOf(options);
  const logTable = logInclusionTable({ bits, tables, minCollisions, minProbability });
  const shape = { heads, minCollisions, minProbability, norms: true, keep: 'none' } as const;
  return {
    ...shape,
    projection,
    keepsVectors: false,
    readOnly: false,
    tables: translateErrors(() =>
      engine().createTables({ ...shape, projection: projection.native, logTable, center, pool }),
    ),
  };
}
