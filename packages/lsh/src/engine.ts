/** The projections of one (dim, bits, tables, seed), inside an engine. */
export interface EngineProjection {
  /** Bytes held. */
  readonly bytes: number;
  /** Writes the codes of `vectors` [n, dim] to `codes` [n, tables]. Throws NON_FINITE. */
  hash(vectors: Float32Array, codes: Uint16Array): void;
}

/** Tables of many heads, inside an engine. Arguments are checked by the caller. */
export interface EngineTables {
  /** Bytes held, exactly. */
  bytes(): number;
  /** Keys of one head. */
  length(head: number): number;
  /** Appends `keys` [n, dim] to one head. Throws NON_FINITE, OUT_OF_MEMORY; then nothing has changed. */
  add(head: number, keys: Float32Array): void;
  /** Appends keys by their codes [n, tables]. Throws INVALID_ARGUMENT, OUT_OF_MEMORY; then nothing has changed. */
  addCodes(head: number, codes: Uint16Array): void;
  /**
   * Ascending ids of the keys that share a bucket with `query` [dim] in at least `minCollisions` tables, and on request in
   * how many. Throws NON_FINITE.
   */
  query(
    head: number,
    query: Float32Array,
    minCollisions: number,
    collisions: boolean,
  ): { ids: Uint32Array; collisions?: Uint16Array };
  /** The head's centre [dim], zeros before the first add. */
  centre(head: number): Float32Array;
  /** Forgets all keys of a head from `length` on. */
  truncate(head: number, length: number): void;
  /** Forgets all keys and centres. */
  clear(): void;
  /** Frees everything. Holders of the selector then find it empty and failing. */
  dispose(): void;
  /** Selector handle of include/magicpig/selector.h. Throws UNSUPPORTED. */
  selector(): object;
}

export interface EngineTablesOptions {
  projection: EngineProjection;
  heads: number;
  minCollisions: number;
  /** -log u over the cosine. */
  logTable: Float32Array;
  /** Centre each head on the mean of the keys of its first add. */
  centred: boolean;
  /** A pool handle of include/magicpig/pool.h, or the number of threads. */
  pool: object | number;
}

/** One implementation of hashing and tables: the native addon, or TypeScript. */
export interface Engine {
  /** What runs: `avx512`, `avx2`, `neon`, `portable` or `typescript`. */
  readonly isa: string;
  createProjection(hadamard: boolean, dim: number, bits: number, tables: number, seed: number): EngineProjection;
  createTables(options: EngineTablesOptions): EngineTables;
}
