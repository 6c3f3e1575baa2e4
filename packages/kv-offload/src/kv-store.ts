import { availableParallelism } from 'node:os';
import { InvalidArgumentError } from './errors.js';
import { KvSequence } from './kv-sequence.js';
import { KvStep } from './kv-step.js';
import { native } from './native.js';
import { translateErrors } from './translate-errors.js';
import type { KvDtype, KvStats } from './types.js';
import { checkInteger } from './validate.js';

export interface KvStoreOptions {
  layers: number;
  /** Key/value heads a layer. */
  kvHeads: number;
  /** Query heads a layer, a multiple of `kvHeads`; query head h reads KV head floor(h / (queryHeads / kvHeads)). */
  queryHeads: number;
  /** Elements of one head's row: a multiple of 8, at most 256. */
  headDim: number;
  /** Element type of stored rows. Default `bf16`. */
  dtype?: KvDtype;
  /** Tokens a page: a power of two, 16 to 4096. Smaller wastes less at a sequence's end; larger shares less when forking. Default 64. */
  pageTokens?: number;
  /** Bytes of pages that may be in use; a step that needs more is refused. Default no limit. */
  maxBytes?: number;
  /** Threads of the store's own pool, the calling one included, when no `pool` is given. Default `os.availableParallelism()`. */
  threads?: number;
  /** A thread pool handle (`magicpig/pool.h`) to share, such as `CpuBackend.pool`. */
  pool?: object;
}

export interface StepEntry {
  sequence: KvSequence;
  /** Tokens to append to it in this step, at least 1. */
  tokens: number;
}

const HEAD_DIM_MAX = 256;
const DTYPES: readonly KvDtype[] = ['bf16', 'f16', 'f32', 'int8'];

/**
 * Keys and values of many sequences in host memory, in pages that sequences with a common prefix share, and attention
 * over them (arXiv 2410.16179).
 *
 * A step appends tokens to some sequences and attends with their queries, layer by layer:
 *
 * ```ts
 * const step = store.step([{ sequence, tokens: 1 }]);
 * for (let layer = 0; layer < layers; layer++) {
 *   step.append(layer, keys, values);
 *   step.attend(layer, queries, output);
 * }
 * ```
 *
 * A row's result depends on its own sequence's data, its position, its sampling and on whether its entry has one token
 * or more; never on threads, on other entries, or on how a prompt was cut into steps.
 */
export class KvStore implements Disposable {
  readonly layers: number;
  readonly kvHeads: number;
  readonly queryHeads: number;
  readonly headDim: number;
  readonly dtype: KvDtype;
  readonly pageTokens: number;
  /** Limit on {@link bytes}; Infinity when there is none. */
  readonly maxBytes: number;
  /** @internal */
  readonly handle: object;
  readonly #pageBytes: number;

  /** @throws InvalidArgumentError for a shape that is not supported */
  constructor(options: KvStoreOptions) {
    const { layers, kvHeads, queryHeads, headDim, dtype = 'bf16', pageTokens = 64, pool } = options;
    const { maxBytes = Number.POSITIVE_INFINITY, threads = availableParallelism() } = options;
    checkInteger('layers', layers, 1, 65536);
    checkInteger('kvHeads', kvHeads, 1, 65536);
    checkInteger('queryHeads', queryHeads, kvHeads, 65536);
    if (queryHeads % kvHeads !== 0) {
      throw new InvalidArgumentError(`queryHeads is ${queryHeads}; pass a multiple of kvHeads (${kvHeads}).`);
    }
    checkInteger('headDim', headDim, 8, HEAD_DIM_MAX);
    if (headDim % 8 !== 0) throw new InvalidArgumentError(`headDim is ${headDim}; pass a multiple of 8.`);
    if (!DTYPES.includes(dtype)) {
      throw new InvalidArgumentError(`dtype is ${String(dtype)}; pass one of ${DTYPES.join(', ')}.`);
    }
    checkInteger('pageTokens', pageTokens, 16, 4096);
    if ((pageTokens & (pageTokens - 1)) !== 0) {
      throw new InvalidArgumentError(`pageTokens is ${pageTokens}; pass a power of two.`);
    }
    if (typeof maxBytes !== 'number' || !(maxBytes > 0)) {
      throw new InvalidArgumentError(`maxBytes is ${String(maxBytes)}; pass a positive number of bytes.`);
    }
    checkInteger('threads', threads, 1, 1024);
    this.layers = layers;
    this.kvHeads = kvHeads;
    this.queryHeads = queryHeads;
    this.headDim = headDim;
    this.dtype = dtype;
    this.pageTokens = pageTokens;
    this.maxBytes = maxBytes;
    this.handle = translateErrors(() =>
      native.createStore({ layers, kvHeads, queryHeads, headDim, dtype, pageTokens, maxBytes, threads, pool }),
    );
    this.#pageBytes = native.storeStats(this.handle).pageBytes;
  }

  /** Bytes of pages in use, exactly; pages that several sequences share count once. */
  get bytes(): number {
    return native.storeBytes(this.handle);
  }

  /** Bytes that a sequence of `tokens` tokens takes when it shares nothing. */
  bytesFor(tokens: number): number {
    checkInteger('tokens', tokens, 0, Number.MAX_SAFE_INTEGER);
    return Math.ceil(tokens / this.pageTokens) * this.#pageBytes;
  }

  /**
   * The machine's read bandwidth in bytes a second, over memory of the store's kind and all of its threads: what exact
   * attention over a long context is limited by. Takes some tens of milliseconds.
   * @param bytes read in each round, shared by the threads; several times the last cache. Default 256 MiB.
   * @param rounds the fastest of which counts. Default 5.
   * @throws KvOutOfMemoryError
   */
  readBandwidth(bytes = 2 ** 28, rounds = 5): number {
    checkInteger('bytes', bytes, 1, Number.MAX_SAFE_INTEGER);
    checkInteger('rounds', rounds, 1, 1000);
    return translateErrors(() => native.readBandwidth(this.handle, bytes, rounds));
  }

  stats(): KvStats {
    return { ...native.storeStats(this.handle), isa: native.isa };
  }

  /**
   * An empty sequence. It takes no memory until a step appends to it.
   * @throws DisposedError
   */
  open(): KvSequence {
    return new KvSequence(
      this,
      translateErrors(() => native.openSequence(this.handle)),
    );
  }

  /**
   * Reserves pages for `tokens` more tokens of each sequence and lengthens the sequences by them. Pages shared with a
   * fork are copied where the step will write.
   * @throws KvOutOfMemoryError when it does not fit; no sequence has changed
   * @throws InvalidArgumentError for a sequence of another store, or one that appears twice
   * @throws DisposedError
   */
  step(entries: readonly StepEntry[]): KvStep {
    for (const [i, entry] of entries.entries()) {
      checkInteger(`entries[${i}].tokens`, entry.tokens, 1, 2 ** 31 - 1);
      if (!(entry.sequence instanceof KvSequence)) {
        throw new InvalidArgumentError(`entries[${i}].sequence is not a KvSequence; make one with store.open().`);
      }
    }
    const tokens = entries.map((entry) => entry.tokens);
    const handle = translateErrors(() =>
      native.createStep(
        this.handle,
        entries.map((entry) => entry.sequence.handle),
        tokens,
      ),
    );
    return new KvStep(this, handle, tokens);
  }

  /**
   * Copies the keys of tokens [begin, end), as they are stored (after RoPE, not centred).
   * @param out receives them when given, at least (end - begin) * headDim long: a Float32Array as numbers, a Uint16Array as
   * the bits of stored `bf16` or `f16`
   * @returns [end - begin, headDim]: `out`, or a new Float32Array
   * @throws InvalidArgumentError for a range outside the sequence, or bits of elements that do not have two bytes
   */
  readKeys<T extends Float32Array | Uint16Array = Float32Array>(
    sequence: KvSequence,
    layer: number,
    kvHead: number,
    begin: number,
    end: number,
    out?: T,
  ): T {
    return this.#readRows(sequence, 0, layer, kvHead, begin, end, out);
  }

  /** As {@link readKeys}, for values. */
  readValues<T extends Float32Array | Uint16Array = Float32Array>(
    sequence: KvSequence,
    layer: number,
    kvHead: number,
    begin: number,
    end: number,
    out?: T,
  ): T {
    return this.#readRows(sequence, 1, layer, kvHead, begin, end, out);
  }

  /**
   * Writes a sequence to a file, so that a long prompt is paid for once across restarts. The file is checksummed and
   * replaces what was at `path` only when it is whole and on disk. It holds this machine's byte order. For a prefix of a
   * sequence, save a fork that was truncated. The calling thread waits for the disk: keep stores whose snapshots are large in a
   * worker thread.
   * @param attachments the caller's own bytes by name, kept with it: tables, means, the tokens. They are written from
   * where they lie, not copied first.
   * @throws FileError, DisposedError, InvalidArgumentError
   */
  save(sequence: KvSequence, path: string, attachments: Readonly<Record<string, Uint8Array>> = {}): void {
    if (!(sequence instanceof KvSequence) || sequence.store !== this) {
      throw new InvalidArgumentError('sequence is not one of this store; make one with store.open().');
    }
    checkPath(path);
    for (const [name, bytes] of Object.entries(attachments)) {
      if (!(bytes instanceof Uint8Array)) throw new InvalidArgumentError(`attachments.${name} is not a Uint8Array.`);
    }
    translateErrors(() => native.save(sequence.handle, path, Object.keys(attachments), Object.values(attachments)));
  }

  /**
   * Maps a file written by {@link save} back into a store of the same shape. Its pages are read from the file as they
   * are needed (once here, on all threads, for the checksum) and count as bytes in use; the sequence can be forked and
   * appended to, which leaves the file as it is. The file must not be overwritten in place (save replaces it, which is
   * safe) while the sequence or an attachment is in use.
   * @returns attachments as views of the mapped file, not copied, each at a multiple of 64 bytes; they stay valid when the
   * sequence is disposed of
   * @throws FileError, CorruptFileError
   * @throws InvalidArgumentError for a snapshot of another shape
   * @throws KvOutOfMemoryError when its pages exceed `maxBytes`
   */
  load(path: string): { sequence: KvSequence; attachments: Record<string, Uint8Array> } {
    checkPath(path);
    const { sequence, attachments } = translateErrors(() => native.load(this.handle, path));
    return { sequence: new KvSequence(this, sequence), attachments: Object.fromEntries(attachments) };
  }

  /** Frees all pages of all sequences at once. Sequences and steps of this store throw DisposedError afterwards. */
  [Symbol.dispose](): void {
    native.disposeStore(this.handle);
  }

  #readRows<T extends Float32Array | Uint16Array>(
    sequence: KvSequence,
    kind: 0 | 1,
    layer: number,
    kvHead: number,
    begin: number,
    end: number,
    out: T | undefined,
  ): T {
    checkInteger('layer', layer, 0, this.layers - 1);
    checkInteger('kvHead', kvHead, 0, this.kvHeads - 1);
    if (!(sequence instanceof KvSequence) || sequence.store !== this) {
      throw new InvalidArgumentError('sequence is not one of this store; make one with store.open().');
    }
    checkInteger('end', end, 0, sequence.length);
    checkInteger('begin', begin, 0, end);
    const length = (end - begin) * this.headDim;
    const result = (out ?? new Float32Array(length)) as T;
    const bits = this.dtype === 'bf16' || this.dtype === 'f16';
    if (!(result instanceof Float32Array || (bits && result instanceof Uint16Array)) || result.length < length) {
      const kinds = bits ? 'Float32Array or Uint16Array' : 'Float32Array';
      throw new InvalidArgumentError(`out must be a ${kinds} of at least ${length} elements; rows are ${this.dtype}.`);
    }
    translateErrors(() => native.readRows(sequence.handle, kind, layer, kvHead, begin, end, result));
    return result;
  }
}

function checkPath(path: unknown): void {
  // A zero byte would end the name early in the system's eyes.
  if (typeof path !== 'string' || path === '' || path.includes('\0')) {
    throw new InvalidArgumentError(`path is ${JSON.stringify(path)}; pass a file name.`);
  }
}
