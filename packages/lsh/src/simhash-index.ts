import type { EngineCandidates, EngineQuery, EngineTables, Vectors } from './engine.js';
import { InvalidArgumentError, UnsupportedError } from './errors.js';
import { headStats, type SimHashStats } from './head-stats.js';
import { engine } from './load-engine.js';
import { logInclusionTable } from './log-inclusion-table.js';
import type { OpenedTables } from './open-tables.js';
import { SimHashProjection } from './simhash-projection.js';
import { poolOf, StoredTables } from './stored-tables.js';
import type { AsyncOptions } from './tables-access.js';
import { translateErrors } from './translate-errors.js';
import {
  checkCenter,
  checkInteger,
  checkNumber,
  checkOutput,
  checkQuery,
  checkVectors,
  MAX_KEYS,
  show,
} from './validate.js';

/** Options of {@link SimHashIndex}. */
export interface SimHashIndexOptions {
  /** Dimension of the vectors, 1..32768. */
  dim: number;
  /** Bits of a hash code (paper: K), 1..16. Default 10. */
  bits?: number;
  /** Hash tables (paper: L), 1..4096. Default 150. */
  tables?: number;
  /** Seeds the projections. Default 0. */
  seed?: number;
  /** Kind of hyperplanes, see {@link SimHashProjection}. Default `gaussian`. */
  projection?: 'gaussian' | 'hadamard';
  /** Tables in which a vector must share the query's bucket to be returned. Default 2. */
  minCollisions?: number;
  /** Floor of the inclusion probability. Default 1e-4. */
  minProbability?: number;
  /**
   * Hash vectors as they are (`none`, default), or relative to the mean of those of the first {@link SimHashIndex.add}
   * (`auto`), or relative to a given vector [dim]. Queries are always hashed as they are, and dot products are those of the
   * vectors as they are.
   */
  center?: 'none' | 'auto' | Float32Array;
  /**
   * Keep the vectors, which probabilities, dot products, {@link SimHashIndex.estimate} and {@link SimHashIndex.topK} need:
   * as float32 (`true` or `f32`, default; 4 * dim bytes each), or rounded to bfloat16 (`bf16`; half of that).
   */
  keepVectors?: boolean | 'f32' | 'bf16';
  /** Threads of adds and batches. Default: all cores. */
  threads?: number;
}

export interface QueryOptions {
  /** Instead of the index's own. */
  minCollisions?: number;
  /** Also say in how many tables each vector shares the query's bucket. */
  collisions?: boolean;
  /** Also give each vector's dot product with the query. */
  dots?: boolean;
  /** Also give each vector's inclusion probability. */
  probabilities?: boolean;
}

/** One element of each array for each vector found. */
export interface QueryResult {
  /** Ascending. */
  ids: Uint32Array;
  collisions?: Uint16Array;
  dots?: Float64Array;
  probabilities?: Float32Array;
}

/** What many queries found, one behind the other: query i found elements offsets[i] to offsets[i + 1] of each array. */
export interface QueryBatchResult extends QueryResult {
  /** [queries + 1] */
  offsets: Uint32Array;
}

/**
 * Vectors sampled by angle: a query returns those that share its bucket in at least `minCollisions` of `tables` SimHash
 * tables, each with a probability known in closed form (paper, Algorithm 1), so that a sum over all vectors can be estimated
 * from the few that were returned.
 *
 * Vectors are float32, or bfloat16 in a Uint16Array. Ids count them in the order they were added, from 0. Single vectors
 * cannot be removed; {@link truncate} forgets the last ones, and the ids of the others stay.
 *
 * While {@link addAsync} runs every other method throws BusyError, and while {@link queryBatchAsync} runs those that change the
 * index do. After disposal all throw DisposedError.
 */
export class SimHashIndex extends StoredTables {
  readonly minProbability: number;
  readonly #keepsVectors: boolean;
  readonly #logTables = new Map<number, Float32Array>();

  /** @internal */
  constructor(options: undefined, opened: OpenedTables);
  /** @throws InvalidArgumentError, OutOfMemoryError */
  constructor(options: SimHashIndexOptions);
  constructor(options?: SimHashIndexOptions, opened = create(options as SimHashIndexOptions)) {
    if (opened.heads !== 1) {
      throw new InvalidArgumentError(`The file holds ${opened.heads} heads; open it with SimHashTables.`);
    }
    super('SimHashIndex', opened);
    this.minProbability = opened.minProbability;
    this.#keepsVectors = opened.keepsVectors;
  }

  get dim(): number {
    return this.projection.dim;
  }

  /** Vectors in the index; their ids are 0..length-1. */
  get length(): number {
    return this.access.reading.length(0);
  }

  /** Bytes held: tables, kept vectors and projections; not those of a viewed file. */
  get bytes(): number {
    return this.access.reading.bytes() + this.projection.bytes;
  }

  /** The vector that others are hashed relative to, [dim]; zeros without centring and before the first add. */
  get centre(): Float32Array {
    return this.access.reading.centre(0);
  }

  /** Bytes by part, and how evenly the buckets are filled; reads all tables. */
  stats(): SimHashStats {
    return headStats(this.access.reading, 0, this.projection);
  }

  /**
   * Appends vectors [n, dim].
   *
   * @returns the id of the first; the others follow
   * @throws InvalidArgumentError, NonFiniteError, OutOfMemoryError, ReadOnlyError; then nothing was added
   */
  add(vectors: Vectors): number {
    const tables = this.access.changing;
    const first = this.#room(tables, checkVectors('vectors', vectors, this.dim));
    translateErrors(() => tables.add(0, vectors));
    return first;
  }

  /**
   * Like {@link add}, off the calling thread. The vectors are copied at once.
   *
   * @throws as {@link add}, and the signal's reason when that stops it; then nothing was added
   */
  async addAsync(vectors: Vectors, options: AsyncOptions = {}): Promise<number> {
    const rows = checkVectors('vectors', vectors, this.dim);
    const first = this.#room(this.access.changing, rows);
    await this.access.run('changing', rows, options, (tables, control) => tables.addAsync(0, vectors, control));
    return first;
  }

  /**
   * Appends vectors by their codes [n, tables] alone (see {@link SimHashProjection.hash}).
   *
   * @returns the id of the first; the others follow
   * @throws InvalidArgumentError when a code has too many bits; UnsupportedError when the index keeps vectors; ReadOnlyError
   */
  addCodes(codes: Uint16Array): number {
    const tables = this.access.changing;
    if (this.#keepsVectors) {
      throw new UnsupportedError('addCodes: the index keeps vectors; make it with keepVectors: false.');
    }
    if (!(codes instanceof Uint16Array) || codes.length % this.projection.tables !== 0) {
      throw new InvalidArgumentError(`codes must be a Uint16Array of a multiple of ${this.projection.tables} values.`);
    }
    const first = this.#room(tables, codes.length / this.projection.tables);
    translateErrors(() => tables.addCodes(0, codes));
    return first;
  }

  /**
   * The vectors that share the query's bucket in enough tables.
   *
   * @param query [dim]; hashed as it is, not centred
   * @throws InvalidArgumentError, NonFiniteError; UnsupportedError for dot products and probabilities when vectors are not kept
   */
  query(query: Vectors, options: QueryOptions = {}): QueryResult {
    const tables = this.access.reading;
    checkQuery('query', query, this.dim);
    const what = this.#what(options);
    return translateErrors(() => tables.query(0, query, what));
  }

  /**
   * Writes what {@link query} would return to arrays of the caller's; those that are there say what is asked for. Once queries
   * of this kind have been seen nothing is allocated for results.
   *
   * @returns how many vectors were found; as many as the shortest array holds are written
   * @throws as {@link query}
   */
  queryInto(query: Vectors, out: QueryResult, options: Pick<QueryOptions, 'minCollisions'> = {}): number {
    const tables = this.access.reading;
    checkQuery('query', query, this.dim);
    checkOutput('out.ids', out.ids, Uint32Array);
    if (out.collisions) checkOutput('out.collisions', out.collisions, Uint16Array);
    if (out.dots) checkOutput('out.dots', out.dots, Float64Array);
    if (out.probabilities) checkOutput('out.probabilities', out.probabilities, Float32Array);
    const what = this.#what({
      minCollisions: options.minCollisions,
      collisions: out.collisions !== undefined,
      dots: out.dots !== undefined,
      probabilities: out.probabilities !== undefined,
    });
    return translateErrors(() => tables.queryInto(0, query, what, out));
  }

  /**
   * {@link query} for many queries [m, dim], on all threads.
   *
   * @throws as {@link query}; OutOfMemoryError for more than 2^32 - 1 results
   */
  queryBatch(queries: Vectors, options: QueryOptions = {}): QueryBatchResult {
    const tables = this.access.reading;
    checkVectors('queries', queries, this.dim);
    const what = this.#what(options);
    return translateErrors(() => tables.queryBatch(0, queries, what));
  }

  /**
   * Like {@link queryBatch}, off the calling thread. The queries are copied at once.
   *
   * @throws as {@link queryBatch}, and the signal's reason when that stops it
   */
  async queryBatchAsync(queries: Vectors, options: QueryOptions & AsyncOptions = {}): Promise<QueryBatchResult> {
    const rows = checkVectors('queries', queries, this.dim);
    const what = this.#what(options);
    return this.access.run('reading', rows, options, (tables, control) =>
      tables.queryBatchAsync(0, queries, what, control),
    );
  }

  /**
   * Estimates the sum of f over all vectors from those that a query returns, each weighted by the inverse of its inclusion
   * probability: unbiased, but for vectors whose probability lies below `minProbability`.
   *
   * @param f gets a vector's id and its dot product with the query
   * @throws as {@link query}
   */
  estimate(query: Vectors, f: (id: number, dot: number) => number): { sum: number; read: number } {
    const { ids, dots, probabilities } = this.query(query, {
      dots: true,
      probabilities: true,
    }) as Required<QueryResult>;
    let sum = 0;
    for (let i = 0; i < ids.length; i++) sum += f(ids[i]!, dots[i]!) / probabilities[i]!;
    return { sum, read: ids.length };
  }

  /**
   * The k vectors of largest dot product with the query among those that it returns, largest first; fewer if it returns
   * fewer. Vectors at wide angles may be missed, however long they are.
   *
   * @throws as {@link query}
   */
  topK(
    query: Vectors,
    k: number,
    options: Pick<QueryOptions, 'minCollisions'> = {},
  ): { ids: Uint32Array; dots: Float64Array } {
    const tables = this.access.reading;
    checkQuery('query', query, this.dim);
    const nearest = checkInteger('k', k, 1, MAX_KEYS);
    const what = { ...this.#what({ ...options, dots: true }), nearest };
    const { ids, dots } = translateErrors(() => tables.query(0, query, what)) as Required<EngineCandidates>;
    return { ids, dots };
  }

  /**
   * Forgets all vectors from `length` on. A mean that others are hashed relative to stays.
   *
   * @throws InvalidArgumentError when the index has fewer; OutOfMemoryError, ReadOnlyError; then nothing has changed
   */
  truncate(length: number): void {
    const tables = this.access.changing;
    checkInteger('length', length, 0, tables.length(0));
    translateErrors(() => tables.truncate(0, length));
  }

  /**
   * Forgets all vectors, and their mean.
   *
   * @throws ReadOnlyError
   */
  clear(): void {
    this.access.changing.clear();
  }

  #room(tables: EngineTables, rows: number): number {
    const first = tables.length(0);
    if (first + rows > MAX_KEYS) throw new InvalidArgumentError(`An index holds at most ${MAX_KEYS} vectors.`);
    return first;
  }

  #what({ minCollisions = this.minCollisions, collisions, dots, probabilities }: QueryOptions): EngineQuery {
    checkInteger('minCollisions', minCollisions, 1, this.projection.tables);
    if ((dots || probabilities) && !this.#keepsVectors) {
      throw new UnsupportedError('The index was made with keepVectors: false, so it knows no dot products.');
    }
    return {
      minCollisions,
      collisions: collisions ?? false,
      dots: dots ?? false,
      logTable: probabilities ? this.#logTable(minCollisions) : undefined,
    };
  }

  #logTable(minCollisions: number): Float32Array {
    let table = this.#logTables.get(minCollisions);
    if (!table) {
      const { bits, tables } = this.projection;
      table = logInclusionTable({ bits, tables, minCollisions, minProbability: this.minProbability });
      this.#logTables.set(minCollisions, table);
    }
    return table;
  }
}

function create(options: SimHashIndexOptions): OpenedTables {
  const projection = new SimHashProjection({ ...options, kind: options.projection });
  const { dim, bits, tables } = projection;
  const minCollisions = checkInteger('minCollisions', options.minCollisions ?? 2, 1, tables);
  const minProbability = checkNumber('minProbability', options.minProbability ?? 1e-4, Number.MIN_VALUE, 1);
  const center = checkCenter(options.center ?? 'none', 1, dim);
  const kept = options.keepVectors ?? true;
  const keep = kept === true ? 'f32' : kept === false ? 'none' : kept;
  if (keep !== 'none' && keep !== 'f32' && keep !== 'bf16') {
    throw new InvalidArgumentError(`keepVectors must be true, false, 'f32' or 'bf16', not ${show(kept)}.`);
  }
  const norms = keep !== 'none';
  const pool = poolOf(options);
  const logTable = logInclusionTable({ bits, tables, minCollisions, minProbability });
  const shape = { heads: 1, minCollisions, minProbability, norms, keep } as const;
  return {
    ...shape,
    projection,
    keepsVectors: norms,
    readOnly: false,
    tables: translateErrors(() =>
      engine().createTables({ ...shape, projection: projection.native, logTable, center, pool }),
    ),
  };
}
