import type { SketchEngine } from './key-sketch-engine.js';

/** Rows of float32, or of bfloat16 (the upper halves of float32 values) in a Uint16Array. */
export type Vectors = Float32Array | Uint16Array;

/** How vectors are kept: not at all, as float32, or rounded to bfloat16 (nearest, ties to even). */
export type KeptVectors = 'none' | 'f32' | 'bf16';

/** A pool handle of include/magicpig/pool.h, or the number of threads. TypeScript has no threads and takes either. */
export type EnginePool = object | number;

/** The projections of one (hadamard, dim, bits, tables, seed), inside an engine. */
export interface EngineProjection {
  /** Bytes held. */
  readonly bytes: number;
  /** Writes the codes of `vectors` [n, dim] to `codes` [n, tables], on `threads` threads. Throws NON_FINITE, OUT_OF_MEMORY. */
  hash(vectors: Vectors, codes: Uint16Array, threads: number): void;
}

/** What a query asks for. */
export interface EngineQuery {
  /** Tables in which a key must share the query's bucket, 1..tables. */
  minCollisions: number;
  /** Also in how many tables each does. */
  collisions: boolean;
  /** Also the dot products with the query (not centred). Only when vectors are kept. */
  dots: boolean;
  /** -log u over the cosine (see log-inclusion-table.ts): asks for probabilities. Only when vectors are kept. */
  logTable?: Float32Array;
  /**
   * Only the so many candidates of largest dot product, largest first and, where equal, smaller ids first; instead of all
   * by ascending id. Only with `dots`, and without the other two.
   */
  nearest?: number;
}

/** What a query finds: one element of each array for each candidate. */
export interface EngineCandidates {
  /** Ascending, unless `nearest` was asked for. */
  ids: Uint32Array;
  collisions?: Uint16Array;
  /** Products are summed as doubles in eight interleaved sums (element i in sum i % 8), which are then added from first to last. */
  dots?: Float64Array;
  /**
   * exp(-logTable at the cosine between the query and the vector relative to the centre), interpolated linearly. The cosine
   * is (q . k - q . centre) * inverseNorm(k) / |q|, dot products and |q|^2 summed as `dots` are; 0 where a norm is 0.
   */
  probabilities?: Float32Array;
}

/** Candidates of many queries, one behind the other: those of query i are at [offsets[i], offsets[i + 1]). */
export interface EngineCandidatesBatch extends EngineCandidates {
  /** [queries + 1] */
  offsets: Uint32Array;
}

/** Bytes and shape of one head's tables, whole where forks share them. */
export interface EngineStats {
  /** Vectors in each sorted segment. */
  segments: Uint32Array;
  /** Vectors behind the last segment, which a query compares code by code. */
  listed: number;
  /** Buckets that hold a vector, over all tables. */
  occupied: number;
  /** Vectors in the fullest bucket. */
  largest: number;
  /** Sum over all buckets of the square of the vectors in them. */
  squares: number;
  /** Bytes of ids sorted by bucket. */
  idBytes: number;
  /** Bytes of the buckets' starts. */
  startBytes: number;
  /** Bytes of the codes of listed vectors. */
  codeBytes: number;
  /** Bytes of kept vectors. */
  vectorBytes: number;
  /** Bytes of inverse norms and the centre. */
  normBytes: number;
}

/**
 * Tables of many heads, inside an engine. Arguments, and which methods may be called when, are checked by the caller: none
 * but `dispose`d ones are used, viewed files are not changed but in forks, and while an asynchronous call runs nothing is
 * changed (and nothing at all is called during `addAsync`). What changes a fork of a viewed file may throw CORRUPT_FILE too.
 */
export interface EngineTables {
  /** Bytes held, those shared with forks divided among them and rounded up; those of a viewed file are not counted. */
  bytes(): number;
  stats(head: number): EngineStats;
  /** Keys of one head. */
  length(head: number): number;
  /** Appends `vectors` [n, dim] to one head. Throws NON_FINITE, OUT_OF_MEMORY; then nothing has changed. */
  add(head: number, vectors: Vectors): void;
  /** Appends keys by their codes [n, tables]. Throws INVALID_ARGUMENT, OUT_OF_MEMORY; then nothing has changed. */
  addCodes(head: number, codes: Uint16Array): void;
  /**
   * `add` off the calling thread; `vectors` may be reused at once. `control` [2] lies in shared memory: the caller sets
   * control[0] to 1 to stop the call, which counts finished rows in control[1].
   *
   * @returns false when stopped; then nothing has changed
   */
  addAsync(head: number, vectors: Vectors, control: Uint32Array): Promise<boolean>;
  /**
   * Appends the keys of a segment, whose arrays have the right lengths. Throws INVALID_ARGUMENT when it does not hold every key
   * once and in order in each table, an inverse norm is negative or not finite, or `centre` is not there exactly when the head is
   * to be centred on a mean and has none yet; OUT_OF_MEMORY. Then nothing has changed.
   */
  addSegment(
    head: number,
    count: number,
    starts: Uint16Array,
    ids: Uint16Array,
    inverseNorms: Float32Array,
    centre: Float32Array | undefined,
  ): void;
  /** Candidates of `query` [dim]. Throws NON_FINITE, OUT_OF_MEMORY. */
  query(head: number, query: Vectors, what: EngineQuery): EngineCandidates;
  /**
   * Writes candidates of `query` [dim] to the arrays of `out` (those asked for are there), as many as the shortest holds,
   * and allocates nothing once it has seen queries of this kind. Throws NON_FINITE, OUT_OF_MEMORY.
   *
   * @returns how many there are, written or not
   */
  queryInto(head: number, query: Vectors, what: EngineQuery, out: EngineCandidates): number;
  /** Candidates of `queries` [m, dim], on all threads. Throws NON_FINITE, OUT_OF_MEMORY. */
  queryBatch(head: number, queries: Vectors, what: EngineQuery): EngineCandidatesBatch;
  /** `queryBatch` off the calling thread; `queries` and `control` as in `addAsync`. Resolves to undefined when stopped. */
  queryBatchAsync(
    head: number,
    queries: Vectors,
    what: EngineQuery,
    control: Uint32Array,
  ): Promise<EngineCandidatesBatch | undefined>;
  /** The head's centre [dim], zeros where it has none. */
  centre(head: number): Float32Array;
  /** Forgets all keys of a head from `length` on; the centre stays. Throws OUT_OF_MEMORY; then nothing has changed. */
  truncate(head: number, length: number): void;
  /** Forgets all keys, and centres that were means. */
  clear(): void;
  /** Writes a file of docs/format.md, all or nothing. Throws IO, OUT_OF_MEMORY. */
  save(path: string): void;
  /** The bytes that `save` writes. Throws OUT_OF_MEMORY. */
  toBuffer(): Uint8Array;
  /** Frees everything. Holders of the selector then find it empty and failing. */
  dispose(): void;
  /** Selector handle of include/magicpig/selector.h. Throws UNSUPPORTED. */
  selector(): object;
}

/** What tables keep beside the codes of their keys, and how they were made: the part of their options that files carry. */
export interface EngineTablesShape {
  heads: number;
  minCollisions: number;
  minProbability: number;
  /** Keep inverse norms, which the selector and probabilities need. */
  norms: boolean;
  keep: KeptVectors;
}

export interface EngineTablesOptions extends EngineTablesShape {
  projection: EngineProjection;
  /** -log u over the cosine, for the selector. */
  logTable: Float32Array;
  /** Centre each head on nothing, on the mean of the keys of its first add, or on its row of an array [heads, dim]. */
  center: 'none' | 'auto' | Float32Array;
  pool: EnginePool;
}

/** An open file of tables (docs/format.md): its header and section table are sound, its contents are not looked at yet. */
export interface EngineFile {
  readonly shape: EngineTablesShape & {
    hadamard: boolean;
    dim: number;
    bits: number;
    tables: number;
    seed: number;
    center: 'none' | 'auto' | 'given';
  };
  /**
   * The tables in the file. With `view` they stay there, are read-only and are there at once, unless `verify` asks to read
   * and check everything; without, contents are checked always. `projection` and `logTable` belong to `shape`.
   * Throws CORRUPT_FILE, OUT_OF_MEMORY.
   */
  tables(
    projection: EngineProjection,
    logTable: Float32Array,
    pool: EnginePool,
    mode: 'load' | 'view' | 'view-verified',
  ): EngineTables;
}

/** One implementation of hashing and tables: the native addon, or TypeScript. */
export interface Engine {
  /** What runs: `avx512`, `avx2`, `neon`, `portable` or `typescript`. */
  readonly isa: string;
  readonly sketches: SketchEngine;
  createProjection(hadamard: boolean, dim: number, bits: number, tables: number, seed: number): EngineProjection;
  /** Empty tables, or ones with the keys of others, which share their memory until one of the two changes it. */
  createTables(options: EngineTablesOptions | { fork: EngineTables }): EngineTables;
  /** Opens a file by its path, or its bytes, which must not change until `tables` returns. Throws IO, CORRUPT_FILE, UNSUPPORTED. */
  openTables(source: string | Uint8Array): EngineFile;
  /** Upper bound of the bytes of one head with `keys` keys, however they are added; `vectors` is the bytes of one kept vector. */
  headBytes(bits: number, tables: number, keys: number, dim: number, norms: boolean, vectors: number): number;
}
