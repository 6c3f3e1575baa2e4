import { availableParallelism } from 'node:os';
import type { EngineTables } from './engine.js';
import { DisposedError, InvalidArgumentError, UnsupportedError } from './errors.js';
import { engine } from './load-engine.js';
import { logInclusionTable } from './log-inclusion-table.js';
import { SimHashProjection } from './simhash-projection.js';
import { translateErrors } from './translate-errors.js';
import { checkInteger, checkNumber, checkRows, checkVector, MAX_KEYS, show } from './validate.js';

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
  /** Hash vectors as they are (`none`, default), or relative to the mean of those of the first {@link SimHashIndex.add}. */
  center?: 'none' | 'auto';
  /** Keep the vectors, 4 * dim bytes each, which probabilities, {@link SimHashIndex.estimate} and {@link SimHashIndex.topK} need. Default true. */
  keepVectors?: boolean;
  /** Threads of adds. Default: all cores. */
  threads?: number;
}

export interface QueryOptions {
  /** Instead of the index's own. */
  minCollisions?: number;
  /** Also say in how many tables each vector shares the query's bucket. */
  collisions?: boolean;
  /** Also give each vector's inclusion probability. */
  probabilities?: boolean;
}

export interface QueryResult {
  /** Ascending. */
  ids: Uint32Array;
  collisions?: Uint16Array;
  probabilities?: Float32Array;
}

/**
 * Vectors sampled by angle: a query returns those that share its bucket in at least `minCollisions` of `tables` SimHash
 * tables, each with a probability known in closed form (paper, Algorithm 1), so that a sum over all vectors can be estimated
 * from the few that were returned.
 */
export class SimHashIndex {
  readonly projection: SimHashProjection;
  readonly minCollisions: number;
  readonly minProbability: number;
  readonly #logTables = new Map<number, Float32Array>();
  #tables: EngineTables | undefined;
  /** [capacity, dim], the first `length` rows in use; absent when vectors are not kept. */
  #vectors: Float32Array | undefined;

  /** @throws InvalidArgumentError, OutOfMemoryError */
  constructor(options: SimHashIndexOptions) {
    const projection = new SimHashProjection({ ...options, kind: options.projection });
    this.projection = projection;
    this.minCollisions = checkInteger('minCollisions', options.minCollisions ?? 2, 1, projection.tables);
    this.minProbability = checkNumber('minProbability', options.minProbability ?? 1e-4, Number.MIN_VALUE, 1);
    const center = options.center ?? 'none';
    if (center !== 'none' && center !== 'auto') {
      throw new InvalidArgumentError(`center must be 'none' or 'auto', not ${show(center)}.`);
    }
    if (options.keepVectors ?? true) this.#vectors = new Float32Array(0);
    const pool = checkInteger('threads', options.threads ?? availableParallelism(), 1, 1024);
    this.#tables = translateErrors(() =>
      engine().createTables({
        projection: projection.native,
        heads: 1,
        minCollisions: this.minCollisions,
        minProbability: this.minProbability,
        norms: false,
        keep: 'none',
        logTable: this.#logTable(this.minCollisions),
        center,
        pool,
      }),
    );
  }

  get dim(): number {
    return this.projection.dim;
  }

  /** Vectors in the index; their ids are 0..length-1. */
  get length(): number {
    return this.#engine.length(0);
  }

  /** Bytes held: tables, kept vectors and projections. */
  get bytes(): number {
    return this.#engine.bytes() + this.projection.bytes + (this.#vectors?.byteLength ?? 0);
  }

  /** The vector that others are hashed relative to, [dim]; zeros without centring and before the first add. */
  get centre(): Float32Array {
    return this.#engine.centre(0);
  }

  /**
   * Appends vectors [n, dim].
   *
   * @returns the id of the first; the others follow
   * @throws InvalidArgumentError, NonFiniteError, OutOfMemoryError; then nothing was added
   */
  add(vectors: Float32Array): number {
    const tables = this.#engine;
    const rows = checkRows('vectors', vectors, this.dim);
    const first = this.#room(rows);
    const kept = this.#vectors && this.#grow(this.#vectors, first, rows);
    translateErrors(() => tables.add(0, vectors));
    kept?.set(vectors, first * this.dim);
    this.#vectors = kept;
    return first;
  }

  /**
   * Appends vectors by their codes [n, tables] alone (see {@link SimHashProjection.hash}).
   *
   * @returns the id of the first; the others follow
   * @throws InvalidArgumentError when a code has too many bits; UnsupportedError when the index keeps vectors
   */
  addCodes(codes: Uint16Array): number {
    const tables = this.#engine;
    if (this.#vectors)
      throw new UnsupportedError('addCodes: the index keeps vectors; make it with keepVectors: false.');
    if (!(codes instanceof Uint16Array) || codes.length % this.projection.tables !== 0) {
      throw new InvalidArgumentError(`codes must be a Uint16Array of a multiple of ${this.projection.tables} values.`);
    }
    const first = this.#room(codes.length / this.projection.tables);
    translateErrors(() => tables.addCodes(0, codes));
    return first;
  }

  /**
   * The vectors that share the query's bucket in enough tables.
   *
   * @param query [dim]; hashed as it is, not centred
   * @throws InvalidArgumentError, NonFiniteError; UnsupportedError for probabilities when vectors are not kept
   */
  query(query: Float32Array, options: QueryOptions = {}): QueryResult {
    const tables = this.#engine;
    checkVector('query', query, this.dim);
    const least = checkInteger('minCollisions', options.minCollisions ?? this.minCollisions, 1, this.projection.tables);
    const result: QueryResult = translateErrors(() =>
      tables.query(0, query, { minCollisions: least, collisions: options.collisions ?? false, dots: false }),
    );
    if (options.probabilities) {
      const { cosines } = this.#compare(query, result.ids);
      result.probabilities = Float32Array.from(cosines, (cosine) => this.#probability(cosine, least));
    }
    return result;
  }

  /**
   * Estimates the sum of f over all vectors from those that a query returns, each weighted by the inverse of its inclusion
   * probability: unbiased, but for vectors whose probability lies below `minProbability`.
   *
   * @param f gets a vector's id and its dot product with the query
   * @throws as {@link query}
   */
  estimate(query: Float32Array, f: (id: number, dot: number) => number): { sum: number; read: number } {
    const { ids } = this.query(query);
    const { dots, cosines } = this.#compare(query, ids);
    let sum = 0;
    ids.forEach((id, i) => {
      sum += f(id, dots[i]!) / this.#probability(cosines[i]!, this.minCollisions);
    });
    return { sum, read: ids.length };
  }

  /**
   * The k vectors of largest dot product with the query among those that it returns, largest first; fewer if it returns
   * fewer. Vectors at wide angles may be missed, however long they are.
   *
   * @throws as {@link query}
   */
  topK(query: Float32Array, k: number): { ids: Uint32Array; dots: Float64Array } {
    checkInteger('k', k, 1, MAX_KEYS);
    const { ids } = this.query(query);
    const { dots } = this.#compare(query, ids);
    const order = Uint32Array.from(ids, (_, i) => i).sort((a, b) => dots[b]! - dots[a]! || a - b);
    const best = order.subarray(0, k);
    return { ids: best.map((i) => ids[i]!), dots: Float64Array.from(best, (i) => dots[i]!) };
  }

  /**
   * Forgets all vectors from `length` on.
   *
   * @throws InvalidArgumentError when the index has fewer
   */
  truncate(length: number): void {
    const tables = this.#engine;
    checkInteger('length', length, 0, tables.length(0));
    translateErrors(() => tables.truncate(0, length));
  }

  /** Forgets all vectors and the centre. */
  clear(): void {
    this.#engine.clear();
    if (this.#vectors) this.#vectors = new Float32Array(0);
  }

  /** Frees everything at once. */
  [Symbol.dispose](): void {
    this.#tables?.dispose();
    this.#tables = undefined;
    this.#vectors = undefined;
  }

  get #engine(): EngineTables {
    if (!this.#tables) throw new DisposedError('This SimHashIndex was disposed of.');
    return this.#tables;
  }

  #room(rows: number): number {
    const first = this.#engine.length(0);
    if (first + rows > MAX_KEYS) throw new InvalidArgumentError(`An index holds at most ${MAX_KEYS} vectors.`);
    return first;
  }

  #grow(vectors: Float32Array, used: number, rows: number): Float32Array {
    const needed = (used + rows) * this.dim;
    if (needed <= vectors.length) return vectors;
    const larger = new Float32Array(Math.max(needed, Math.ceil(vectors.length * 1.25)));
    larger.set(vectors.subarray(0, used * this.dim));
    return larger;
  }

  /** Dot products of the query with the kept vectors, and its cosines with them relative to the centre. */
  #compare(query: Float32Array, ids: Uint32Array): { dots: Float64Array; cosines: Float64Array } {
    const vectors = this.#vectors;
    if (!vectors)
      throw new UnsupportedError('The index was made with keepVectors: false, so it knows no dot products.');
    const { dim } = this;
    const centre = this.centre;
    let square = 0;
    let shift = 0;
    for (let i = 0; i < dim; i++) {
      square += query[i]! ** 2;
      shift += query[i]! * centre[i]!;
    }
    const dots = new Float64Array(ids.length);
    const cosines = new Float64Array(ids.length);
    ids.forEach((id, at) => {
      let dot = 0;
      let norm = 0;
      for (let i = 0; i < dim; i++) {
        const value = vectors[id * dim + i]!;
        dot += query[i]! * value;
        norm += (value - centre[i]!) ** 2;
      }
      dots[at] = dot;
      cosines[at] = square * norm > 0 ? (dot - shift) / Math.sqrt(square * norm) : 0;
    });
    return { dots, cosines };
  }

  #probability(cosine: number, minCollisions: number): number {
    const table = this.#logTable(minCollisions);
    const at = Math.min(1, Math.max(0, (cosine + 1) / 2)) * (table.length - 1);
    const i = Math.min(table.length - 2, Math.floor(at));
    return Math.exp(-(table[i]! + (at - i) * (table[i + 1]! - table[i]!)));
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
