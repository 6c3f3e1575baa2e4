import type { KeySketches } from './sketch-pool.js';

// What the cache on the device needs of a cache in host memory; `KvStore` of @magicpig/kv-offload satisfies it.

/** Rows of float32 inside a larger buffer: row r starts at element `offset + r * stride`. */
export interface Rows {
  data: Float32Array;
  offset: number;
  stride: number;
}

/** Tokens [begin, end) are sampled by a selector (a native handle); all others attend exactly. */
export interface Sampling {
  selector: object;
  begin: number;
  end: number;
  /** Leaves out all others: they are attended to elsewhere. Default false. */
  sampledOnly?: boolean;
  /** What `selector` draws from, where that is key sketches: the device can draw the same. */
  sketch?: KeySketches;
}

/** Options of attention. */
export interface AttendOptions {
  /** One for each entry of the step: `null` or absent for exact attention. */
  sampling?: readonly (Sampling | null)[];
  /** Adds to each row, [R], the keys attended, summed over query heads. */
  keysRead?: Float64Array;
  /** Receives log sum exp(scores), [R, queryHeads]; with it, queries and keys are rotated in place too. */
  logSumExp?: Float32Array;
  /** Of attention in host memory, [2]: adds milliseconds of all threads: those that selectors took, and of sampled attention in all. */
  sampledMs?: Float64Array;
}

/** Keys and values of one context. */
export interface KvSequence extends Disposable {
  readonly length: number;
  fork(): KvSequence;
  truncate(length: number): void;
}

/** One forward step: the rows of all its entries, in order. */
export interface HostStep {
  append(layer: number, keys: Rows, values: Rows): void;
  attend(layer: number, queries: Rows, output: Rows, options?: AttendOptions): void;
  rollback(): void;
}

/** A cache in host memory. */
export interface HostCache extends Disposable {
  /** Of its keys and values; must be `bf16`. */
  readonly dtype: string;
  readonly bytes: number;
  readonly pageTokens: number;
  open(): KvSequence;
  bytesFor(tokens: number): number;
  step(entries: readonly { sequence: KvSequence; tokens: number }[]): HostStep;
  /**
   * Tokens [begin, end) of one head, [(end - begin) * headDim], keys after RoPE: numbers, or the bits of stored bf16 for a Uint16Array.
   */
  readKeys<T extends Float32Array | Uint16Array = Float32Array>(
    sequence: KvSequence,
    layer: number,
    kvHead: number,
    begin: number,
    end: number,
    out?: T,
  ): T;
  readValues<T extends Float32Array | Uint16Array = Float32Array>(
    sequence: KvSequence,
    layer: number,
    kvHead: number,
    begin: number,
    end: number,
    out?: T,
  ): T;
  save(sequence: KvSequence, path: string, attachments: Readonly<Record<string, Uint8Array>>): void;
  load(path: string): { sequence: KvSequence; attachments: Record<string, Uint8Array> };
}
