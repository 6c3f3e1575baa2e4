/**
 * Element type of stored rows. Sums are float32 in all of them.
 * - `bf16`: bfloat16, half the bytes of float32 and its range; the default.
 * - `f16`: IEEE half precision, eight times finer than `bf16` where |x| is between 6e-5 and 65504.
 * - `f32`: the reference.
 * - `int8`: signed bytes with one float32 scale for each row and head, half the bytes of `bf16`.
 */
export type KvDtype = 'bf16' | 'f16' | 'f32' | 'int8';

/** Rows of float32 inside a larger buffer, so that q, k and v are read in place out of one qkv matrix. */
export interface Rows {
  data: Float32Array;
  /** Index of the first element of row 0. */
  offset: number;
  /** Elements from one row to the next, at least the row's width. */
  stride: number;
}

/**
 * Sampled attention for the rows of one entry: tokens [begin, end) come from the selector, all others are exact, or left out.
 */
export interface Sampling {
  /** A selector handle (`magicpig/selector.h`), such as `SimHashTables.selector` of `@magicpig/lsh`. */
  selector: object;
  /** First sampled token; the selector's id 0. */
  begin: number;
  /** One past the last sampled token; at most the position of the entry's first row plus one. */
  end: number;
  /**
   * Leaves out all other tokens: the result is the sampled part alone, zeros and a `logSumExp` of -Infinity when nothing was
   * drawn, to be merged with attention over the others that is computed elsewhere ({@link mergeStates}). Default false.
   */
  sampledOnly?: boolean;
}

export interface AttendOptions {
  /** One for each entry of the step, null for exact attention. Without it all entries are exact. */
  sampling?: readonly (Sampling | null)[];
  /** [rows, queryHeads]: receives log sum_i e^{s_i}, -Infinity where nothing was attended. */
  logSumExp?: Float32Array;
  /**
   * [rows, queryHeads]: receives the standard error of each output, sqrt(E |o - exact|^2), as the sample itself tells it:
   * the variance of the importance-sampled numerator and denominator, to first order, as if keys were included
   * independently. 0 for exact rows, NaN for a truncation or an empty selection, which tell nothing.
   */
  standardError?: Float32Array;
  /** [rows]: the number of keys read, summed over query heads, is added to it. */
  keysRead?: Float64Array;
  /** [2]: milliseconds of all threads are added to it: those that selectors took, and those of sampled attention in all. */
  sampledMs?: Float64Array;
}

/** What a store holds and what the system gave it. Bytes. */
export interface KvStats {
  /** Pages in use, shared ones counted once. */
  pages: number;
  /** Bytes of one page: K and V of `pageTokens` tokens in all layers and heads. */
  pageBytes: number;
  /** Bytes of pages in use. */
  bytes: number;
  slabs: number;
  /** Address space of slabs; memory is committed as pages are first written, at once when it is pinned. */
  reservedBytes: number;
  /** Snapshot files mapped by `load`. */
  mappedBytes: number;
  /** Bytes of slabs that lie in huge pages now, as the system reports them. */
  hugePageBytes: number;
  /** Bytes of slabs that are registered with CUDA, so that a device can read them directly. */
  pinnedBytes: number;
  /**
   * NUMA nodes over which slabs are spread page by page, so that all memory controllers serve the threads. Empty when the
   * process runs on one node: its memory is then local by itself.
   */
  numaNodes: number[];
  /** Why something was not got; nothing for what was, and before the first page. */
  reasons: { hugePages?: string; numa?: string; pinned?: string };
  threads: number;
  /** Instruction set of the kernels: `avx512bf16`, `avx512`, `avx2`, `neon`, `portable`. */
  isa: string;
}
