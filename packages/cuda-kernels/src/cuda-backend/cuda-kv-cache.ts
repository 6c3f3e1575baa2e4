import { InvalidArgumentError, OutOfMemoryError } from '../errors.js';
import { checkHeads } from '../kernels/heads.js';
import { PAGE_TOKENS } from '../kv-view.js';
import { checkInteger } from '../validate.js';
import type { CudaBackend } from './cuda-backend.js';
import { CudaKvSequence } from './cuda-kv-sequence.js';
import { CudaKvStep } from './cuda-kv-step.js';
import type { HostCache } from './host-cache.js';
import { KeyLoader } from './key-loader.js';
import { LayerPages } from './layer-pages.js';
import { PagePool } from './page-pool.js';
import { type Segment, SegmentBuilder, type SegmentKeys, type SegmentTables } from './segment-builder.js';
import { type KeySketches, SketchPool } from './sketch-pool.js';
import { StepBuffers } from './step-buffers.js';
import type { StepContext, StepPart, StepTimes } from './step-context.js';
import { partsOf, planBesideHost, planOnDevice, type Reloads, type StepEntry } from './step-plan.js';

/** Options of {@link CudaKvCache}. */
export interface CudaKvCacheOptions {
  backend: CudaBackend;
  layers: number;
  /** A multiple of kvHeads. */
  queryHeads: number;
  kvHeads: number;
  /** At most 128, a multiple of 8. */
  headDim: number;
  /** Rows of a step, at most. */
  maxRows: number;
  /** Bytes of device memory for keys and values. */
  deviceBytes: number;
  /**
   * Where all keys and values live, the device holding those that it attends to while there is room: contexts may be longer than
   * its memory. Without it keys and values live on the device alone. The cache disposes of it.
   */
  host?: HostCache;
  /** Bytes of device memory for key sketches, from which the device draws then what the host attends to. Default 0: the host draws. */
  sketchBytes?: number;
}

/** Fewer keys are hashed on the host as fast. */
const LEAST_SEGMENT_KEYS = 1024;

/** Steps that may be under way together: two groups of sequences take turns. */
const STEPS = 2;

/**
 * Keys and values of many sequences for a model on a GPU, and attention over them: on the device where it is exact, in host memory
 * where keys are sampled. Satisfies the runner's cache; its steps take the activations where they are.
 */
export class CudaKvCache implements Disposable {
  readonly pageTokens: number;
  /** Of all steps so far. */
  readonly times: StepTimes = { gpu: 0, transfer: 0, select: 0, attend: 0, idle: 0 };
  readonly #options: CudaKvCacheOptions;
  readonly #pool: PagePool;
  readonly #live = new Set<CudaKvSequence>();
  readonly #buffers: StepBuffers[] = [];
  readonly #owned: Disposable[] = [];
  readonly #loader: KeyLoader | undefined;
  #steps = 0;
  #builder: SegmentBuilder | undefined;
  #sketches: SketchPool | undefined;
  #sketchBytes: number;
  /** So many keys found no memory for their tables. */
  #tooMany = Number.POSITIVE_INFINITY;

  /**
   * @throws OutOfMemoryError when the buffers of a step and the pages of one do not fit
   * @throws InvalidArgumentError
   */
  constructor(options: CudaKvCacheOptions) {
    const { backend, layers, maxRows, host } = options;
    checkHeads(options);
    checkInteger('layers', layers, 1);
    checkInteger('maxRows', maxRows, 1);
    if (host !== undefined && host.dtype !== 'bf16') {
      throw new InvalidArgumentError(`The cache in host memory must hold bf16, as the device does, not ${host.dtype}.`);
    }
    this.#options = options;
    this.#sketchBytes = checkInteger('sketchBytes', options.sketchBytes ?? 0, 0, Number.MAX_SAFE_INTEGER);
    this.pageTokens = host?.pageTokens ?? PAGE_TOKENS;
    const pages = Math.floor(options.deviceBytes / PagePool.pageBytes(options));
    const needed = CudaKvCache.leastBytes(options);
    if (options.deviceBytes < needed) {
      throw new OutOfMemoryError(
        `Keys and values of one step take ${needed} bytes of device memory, and there are ${options.deviceBytes}.`,
        needed,
      );
    }
    const { device } = backend;
    try {
      const elements = (pages * PagePool.pageBytes(options)) / 2;
      this.#pool = this.#own(new PagePool(device.array('bf16', elements), pages, options));
      for (let i = 0; i < STEPS; i += 1) this.#buffers.push(this.#own(new StepBuffers(backend, options)));
      this.#loader = host && this.#own(new KeyLoader(device, this.#buffers[0]!.copies, options));
    } catch (error) {
      this.#free();
      throw error;
    }
  }

  /** Pages without which no step could run. */
  static leastPages(options: Pick<CudaKvCacheOptions, 'layers' | 'maxRows' | 'host'>): number {
    const rows = Math.ceil(options.maxRows / PAGE_TOKENS);
    return options.host === undefined ? options.layers : 2 * rows + 2;
  }

  /** {@link CudaKvCacheOptions.deviceBytes} must be so many at least. */
  static leastBytes(options: Omit<CudaKvCacheOptions, 'backend' | 'deviceBytes'>): number {
    return CudaKvCache.leastPages(options) * PagePool.pageBytes(options);
  }

  /** Bytes of device memory that a context of so many tokens takes there. */
  static bytesFor(shape: Pick<CudaKvCacheOptions, 'layers' | 'kvHeads' | 'headDim'>, tokens: number): number {
    return Math.ceil(tokens / PAGE_TOKENS) * shape.layers * PagePool.pageBytes(shape);
  }

  /** Bytes of device memory that a cache takes besides its pages. */
  static bufferBytes(options: Omit<CudaKvCacheOptions, 'backend' | 'deviceBytes'>): number {
    return STEPS * StepBuffers.bytes(options) + (options.host === undefined ? 0 : KeyLoader.bytes(options));
  }

  /** Bytes in use where the keys and values live; what several sequences share counts once. */
  get bytes(): number {
    const { host } = this.#options;
    return host?.bytes ?? (this.#pool.pages - this.#pool.free) * this.#pool.pageBytes;
  }

  /** Nothing can be sampled: keys are on the device alone. */
  get exactOnly(): boolean {
    return this.#options.host === undefined;
  }

  /** Device memory of pages: all, and those in use. */
  get devicePages(): { bytes: number; bytesUsed: number } {
    const { pages, free, pageBytes } = this.#pool;
    return { bytes: pages * pageBytes, bytesUsed: (pages - free) * pageBytes };
  }

  /** Bytes that a sequence of so many tokens takes, where it lives. */
  bytesFor(tokens: number): number {
    const { host } = this.#options;
    return host?.bytesFor(tokens) ?? CudaKvCache.bytesFor(this.#options, tokens);
  }

  /** An empty sequence. It takes no memory until a step appends to it. */
  open(): CudaKvSequence {
    const pages = Array.from({ length: this.#options.layers }, () => new LayerPages(this.#pool));
    return new CudaKvSequence(this.#pool, this.#live, { pages, length: 0, host: this.#options.host?.open() });
  }

  /**
   * Makes room for `tokens` more tokens of each sequence and lengthens the sequences by them, or throws with nothing changed. Steps
   * are to be finished or rolled back before the second next one.
   *
   * @throws OutOfMemoryError, and what the host's cache throws
   */
  step(entries: readonly StepEntry[]): CudaKvStep {
    this.#check(entries);
    const { host } = this.#options;
    const reloads =
      host === undefined ? planOnDevice(this.#pool, entries) : planBesideHost(this.#pool, this.#live, entries);
    const parts = partsOf(entries);
    const before = entries.map(({ sequence }) => sequence.length);
    this.#steps += 1;
    try {
      for (const part of parts) {
        part.host = host?.step(part.entries.map(({ sequence, tokens }) => ({ sequence: sequence.host!, tokens })));
        for (const entry of part.entries) this.#grow(entry, reloads);
        if (!part.decodes) this.#prepare(part, reloads);
      }
    } catch (error) {
      for (const part of parts) {
        part.host?.rollback();
        for (const page of part.scratch) this.#pool.release(page);
      }
      for (const [i, { sequence }] of entries.entries()) {
        sequence.cut(before[i]!);
        for (const layer of reloads.get(sequence) ?? []) sequence.drop(layer);
      }
      throw error;
    }
    return new CudaKvStep(this.#context(), this.#buffers[this.#steps % STEPS]!, parts);
  }

  /**
   * Keys of tokens [begin, end) of one head, after RoPE, as float32; those of a step that is under way too, of layers begun before.
   * Waits for the device where they live there.
   */
  readKeys(
    sequence: CudaKvSequence,
    layer: number,
    kvHead: number,
    begin: number,
    end: number,
    out = new Float32Array((end - begin) * this.#options.headDim),
  ): Float32Array {
    const { host, kvHeads, headDim, layers } = this.#options;
    sequence.check();
    sequence.step?.receive(layer);
    if (host !== undefined) return host.readKeys(sequence.host!, layer, kvHead, begin, end, out);
    checkInteger('layer', layer, 0, layers - 1);
    checkInteger('kvHead', kvHead, 0, kvHeads - 1);
    checkInteger('end', end, 0, sequence.length);
    checkInteger('begin', begin, 0, end);
    const row = kvHeads * headDim;
    const bits = new Uint32Array(out.buffer, out.byteOffset, (end - begin) * headDim);
    for (let token = begin; token < end; ) {
      const page = this.#pool
        .page(sequence.pages[layer]!.at(Math.floor(token / PAGE_TOKENS))!)
        .view(0, PAGE_TOKENS * row);
      const held = page.read();
      const last = Math.min(end, token - (token % PAGE_TOKENS) + PAGE_TOKENS);
      for (; token < last; token += 1) {
        const from = (token % PAGE_TOKENS) * row + kvHead * headDim;
        for (let i = 0; i < headDim; i += 1) bits[(token - begin) * headDim + i] = held[from + i]! << 16;
      }
    }
    return out;
  }

  /**
   * Keys of one head, hashed and sorted on the device for the tables of `@magicpig/lsh`: beside what else it computes, while the host
   * takes in the head before. A step may be under way: the keys are there as soon as its layer was begun.
   *
   * @returns Views of pinned memory, valid until the next call; undefined where the device does not hold the keys, has no
   *   memory for that, or would gain nothing: hash them on the host then
   */
  segments(sequence: CudaKvSequence, keys: SegmentKeys, tables: SegmentTables): Segment[] | undefined {
    const { backend, kvHeads } = this.#options;
    sequence.check();
    const count = keys.end - keys.begin;
    if (!sequence.whole(keys.layer) || count < LEAST_SEGMENT_KEYS || count >= this.#tooMany) return undefined;
    if (this.#builder && !sameTables(this.#builder.tables, tables)) {
      this.#builder[Symbol.dispose]();
      this.#builder = undefined;
    }
    try {
      this.#builder ??= new SegmentBuilder(backend, this.#pool, kvHeads, tables);
      return this.#builder.build(sequence, keys, sequence.step?.written(keys.layer));
    } catch (error) {
      this.#builder?.[Symbol.dispose]();
      this.#builder = undefined;
      if (!(error instanceof OutOfMemoryError)) throw error;
      this.#tooMany = count;
      return undefined;
    } finally {
      this.times.gpu += this.#builder?.clock.take() ?? 0;
    }
  }

  /**
   * Writes a sequence to a file, as the host's cache does.
   * @throws InvalidArgumentError without a cache on the host
   */
  save(sequence: CudaKvSequence, path: string, attachments: Readonly<Record<string, Uint8Array>> = {}): void {
    sequence.check();
    this.#onHost('save').save(sequence.host!, path, attachments);
  }

  /**
   * What {@link save} wrote; the device takes it up when it is first attended to.
   * @throws InvalidArgumentError without a cache on the host, and what the host's cache throws
   */
  load(path: string): { sequence: CudaKvSequence; attachments: Record<string, Uint8Array> } {
    const { sequence: host, attachments } = this.#onHost('load').load(path);
    const pages = Array.from({ length: this.#options.layers }, () => undefined);
    const state = { pages, length: host.length, host };
    return { sequence: new CudaKvSequence(this.#pool, this.#live, state), attachments };
  }

  [Symbol.dispose](): void {
    for (const sequence of [...this.#live]) sequence[Symbol.dispose]();
    this.#free();
    this.#options.host?.[Symbol.dispose]();
  }

  #own<T extends Disposable>(thing: T): T {
    this.#owned.push(thing);
    return thing;
  }

  #free(): void {
    this.#builder?.[Symbol.dispose]();
    this.#sketches?.[Symbol.dispose]();
    for (const thing of this.#owned.splice(0).reverse()) thing[Symbol.dispose]();
  }

  #onHost(what: string): HostCache {
    const { host } = this.#options;
    if (host !== undefined) return host;
    throw new InvalidArgumentError(
      `${what}: keys and values are on the device alone; make the cache with one on the host.`,
    );
  }

  /** Takes the pages of one entry's new tokens. */
  #grow({ sequence, tokens }: StepEntry, reloads: Reloads): void {
    const { stream } = this.#options.backend;
    sequence.lastStep = this.#steps;
    for (const layer of reloads.get(sequence) ?? []) sequence.take(layer, []);
    for (const [layer, held] of sequence.pages.entries()) {
      if (held === undefined) continue;
      sequence.grow(layer, tokens, (from, to) => stream.copy(this.#pool.page(to), this.#pool.page(from)));
    }
    sequence.lengthen(tokens);
  }

  /** A stretch of a prompt: layers that are brought back for it, and pages for its own rows in those that are not. */
  #prepare(part: StepPart, reloads: Reloads): void {
    const { sequence, tokens } = part.entries[0]!;
    part.reloads = new Set(reloads.get(sequence));
    if (sequence.pages.every((held) => held !== undefined)) return;
    for (let i = 0; i < Math.ceil(tokens / PAGE_TOKENS); i += 1) part.scratch.push(this.#pool.take());
  }

  #context(): StepContext {
    const { backend, layers, queryHeads, kvHeads, headDim, host } = this.#options;
    return {
      times: this.times,
      backend,
      pool: this.#pool,
      loader: this.#loader,
      host,
      sketches: (of) => this.#sketchesOf(of),
      live: this.#live,
      layers,
      queryHeads,
      kvHeads,
      headDim,
    };
  }

  /** The store of sketches like these; all that are on the device are alike. */
  #sketchesOf({ bits, seed }: KeySketches): SketchPool | undefined {
    if (this.#sketchBytes === 0) return undefined;
    try {
      this.#sketches ??= new SketchPool(this.#context(), { bits, seed }, this.#sketchBytes);
    } catch (error) {
      if (!(error instanceof OutOfMemoryError)) throw error;
      this.#sketchBytes = 0;
    }
    return this.#sketches?.bits === bits && this.#sketches.seed === seed ? this.#sketches : undefined;
  }

  #check(entries: readonly StepEntry[]): void {
    const rows = entries.reduce((sum, { tokens }) => sum + checkInteger('tokens', tokens, 1), 0);
    if (entries.length === 0 || rows > this.#options.maxRows) {
      throw new InvalidArgumentError(`A step has 1 to ${this.#options.maxRows} rows, not ${rows}.`);
    }
    if (new Set(entries.map(({ sequence }) => sequence)).size < entries.length) {
      throw new InvalidArgumentError('A sequence may appear once in a step.');
    }
    for (const { sequence } of entries) {
      sequence.check();
      if (!this.#live.has(sequence)) throw new InvalidArgumentError('The sequence is one of another cache.');
    }
  }
}

function sameTables(a: SegmentTables, b: SegmentTables): boolean {
  return (['dim', 'bits', 'tables', 'projection', 'seed'] as const).every((name) => a[name] === b[name]);
}
