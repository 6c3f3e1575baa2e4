import type { SimHashSegment, SketchBudget } from '@magicpig/lsh';

/**
 * What the runner needs of a KV cache. `KvStore` of `@magicpig/kv-offload` satisfies it; tests put a plain TypeScript one
 * in its place.
 */

/** Rows of float32 inside a larger buffer: row r starts at element `offset + r * stride`. */
export interface Rows {
  data: Float32Array;
  offset: number;
  stride: number;
}

/** Key sketches that a selector draws from: a device can make the same draws. */
export interface KeySketches {
  /** Options of `KeySketch` of `@magicpig/lsh`. */
  readonly bits: number;
  readonly seed: number;
  readonly budget: SketchBudget;
  readonly floor: number;
  /** [headDim], what the keys of a head (layer * kvHeads + KV head) are relative to. */
  centre(head: number): Float32Array;
  /** Takes note of a draw elsewhere: its estimated relative error, mean over the query heads. */
  drawn(error: number): void;
}

/** Tokens [begin, end) are sampled: a selector names the keys to read, by ids relative to `begin`. */
export interface Sampling {
  /** Native handle of a selector (selector.h). */
  selector: object;
  begin: number;
  end: number;
  /** What it draws from, where that is sketches of these tokens' keys. */
  sketch?: KeySketches;
}

/** Keys and values of one context. */
export interface KvSequence extends Disposable {
  /** Tokens in the cache. */
  readonly length: number;
  /** A sequence with the same tokens, which shares their memory until either side changes it. */
  fork(): KvSequence;
  /** Forgets the tokens from `length` on. */
  truncate(length: number): void;
}

export interface AttendOptions {
  /** One for each entry of the step: `null` or absent for exact attention. */
  sampling?: readonly (Sampling | null)[];
  /** Adds to each row, [R], the keys attended, summed over query heads. */
  keysRead?: Float64Array;
  /** Receives log sum exp(scores), [R, queryHeads]. */
  logSumExp?: Float32Array;
}

/** One forward step: the rows of all its entries, in order, R in all. */
export interface KvStep {
  /** Writes the R rows of keys and of values, [kvHeads * headDim] each, of a layer. */
  append(layer: number, keys: Rows, values: Rows): void;
  /**
   * Attention of R rows of queries [queryHeads * headDim] into `output` (the same shape). A row at absolute position p
   * attends to tokens 0..p of its own sequence.
   */
  attend(layer: number, queries: Rows, output: Rows, options?: AttendOptions): void;
  /** Takes the step's tokens off again, after a failure. */
  rollback(): void;
}

/** Where the time of steps over a cache on a device went, in milliseconds; it and the host work at the same time. */
export interface DeviceTimes {
  /** The device computed, its own attention included. */
  readonly gpu: number;
  /** Rows were on their way between device and host. */
  readonly transfer: number;
  /** The host waited for the device. */
  readonly idle: number;
  /** The host chose keys. */
  readonly select: number;
  /** The host attended to keys, and wrote keys and values. */
  readonly attend: number;
}

/** Keys of tokens [begin, end) of one head, to be hashed around the mean of the first `meanKeys` of them. */
export interface HashedKeys {
  layer: number;
  kvHead: number;
  begin: number;
  end: number;
  meanKeys: number;
}

/** Hash tables of `@magicpig/lsh`. */
export interface TableSettings {
  dim: number;
  bits: number;
  tables: number;
  projection: 'gaussian' | 'hadamard';
  seed: number;
}

export interface KvCache extends Disposable {
  /** Of all steps so far, for a cache on a device. */
  readonly times?: DeviceTimes;
  /** Keys cannot be sampled: they are out of the host's reach. Default false. */
  readonly exactOnly?: boolean;
  /** Bytes in use; what several sequences share counts once. */
  readonly bytes: number;
  /** Tokens of a page, the unit that sequences share. */
  readonly pageTokens: number;
  open(): KvSequence;
  /** Bytes that a sequence of so many tokens takes. */
  bytesFor(tokens: number): number;
  /**
   * Makes room for the rows of all entries, or throws with nothing changed. Each `sequence.length` grows by `tokens`.
   *
   * @param entries `sampled` where keys of some layers will be: a cache on a device takes such ones together.
   */
  step(entries: readonly { sequence: KvSequence; tokens: number; sampled?: boolean }[]): KvStep;
  /**
   * Keys of tokens [begin, end) of one head, after RoPE, as float32 [(end - begin) * headDim]; of a step that is under way those of
   * layers whose attention was begun. So do {@link segments}.
   */
  readKeys(
    sequence: KvSequence,
    layer: number,
    kvHead: number,
    begin: number,
    end: number,
    out?: Float32Array,
  ): Float32Array;
  /**
   * Hashes keys where they are, on a device, and sorts them into tables. Undefined where that cannot be, or would take longer:
   * {@link readKeys} then.
   *
   * @returns What `addSegment` of a head's empty tables takes, in order; valid until the next call.
   */
  segments?(sequence: KvSequence, keys: HashedKeys, tables: TableSettings): SimHashSegment[] | undefined;
}

/** A KV cache's sequences in files, which are checksummed and replaced only as a whole. */
export interface KvFiles {
  /** @param attachments Kept with it, by name. */
  save(sequence: KvSequence, path: string, attachments: Readonly<Record<string, Uint8Array>>): void;
  /** @throws when there is no such file, it is damaged, of another shape, or there is no room; attachments are views of the file. */
  load(path: string): { sequence: KvSequence; attachments: Record<string, Uint8Array> };
}
