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
import { StepBuffers } from './step-buffers.js';
import type { StepContext, StepPart, StepTimes } from './step-context.js';

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
}

/** Steps that may be under way together: two groups of sequences take turns. */
const STEPS = 2;

/**
 * Keys and values of many sequences for a model on a GPU, and attention over them: on the device where it is exact, in host memory
 * where keys are sampled. Satisfies the runner's cache; its steps take the activations where they are.
 */
export class CudaKvCache implements Disposable {
  readonly pageTokens: number;
  /** Of all steps so far. */
  readonly times: StepTimes = { gpu: 0, transfer: 0, select: 0, attend: 0, idle: 0, wait: 0, append: 0 };
  readonly #options: CudaKvCacheOptions;
  readonly #pool: PagePool;
  readonly #live = new Set<CudaKvSequence>();
  readonly #buffers: StepBuffers[] = [];
  readonly #owned: Disposable[] = [];
  readonly #loader: KeyLoader | undefined;
  #steps = 0;

  /**
   * @throws OutOfMemoryError when the buffers of a step and the pages of one do not fit
   * @throws InvalidArgumentError
   */
  constructor(options: CudaKvCacheOptions) {
    const { backend, layers, maxRows, host } = options;
    checkHeads(options);
    checkInteger('layers', layers, 1);
    checkInteger('maxRows', maxRows, 1);
    this.#options = options;
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
  step(entries: readonly { sequence: CudaKvSequence; tokens: number }[]): CudaKvStep {
    this.#check(entries);
    const { host } = this.#options;
    const plan = host === undefined ? this.#planOnDevice(entries) : this.#planBesideHost(entries);
    const parts = partsOf(entries);
    const before = entries.map(({ sequence }) => sequence.length);
    this.#steps += 1;
    try {
      for (const part of parts) {
        part.host = host?.step(part.entries.map(({ sequence, tokens }) => ({ sequence: sequence.host!, tokens })));
        for (const entry of part.entries) this.#grow(entry, plan);
        if (!part.decodes) this.#prepare(part, plan);
      }
    } catch (error) {
      for (const part of parts) {
        part.host?.rollback();
        for (const page of part.scratch) this.#pool.release(page);
      }
      for (const [i, { sequence }] of entries.entries()) {
        sequence.cut(before[i]!);
        for (const layer of plan.missing.get(sequence) ?? []) sequence.drop(layer);
      }
      throw error;
    }
    return new CudaKvStep(this.#context(), this.#buffers[this.#steps % STEPS]!, parts);
  }

  /** Keys of tokens [begin, end) of one head, after RoPE, as float32. Waits for the device where they live there. */
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
  #grow({ sequence, tokens }: StepPart['entries'][number], plan: Plan): void {
    const { stream } = this.#options.backend;
    sequence.lastStep = this.#steps;
    for (const layer of plan.missing.get(sequence) ?? []) sequence.take(layer, []);
    for (const [layer, held] of sequence.pages.entries()) {
      if (held === undefined) continue;
      sequence.grow(layer, tokens, (from, to) => stream.copy(this.#pool.page(to), this.#pool.page(from)));
    }
    sequence.lengthen(tokens);
  }

  /** A stretch of a prompt: layers that are brought back for it, and pages for its own rows in those that are not. */
  #prepare(part: StepPart, plan: Plan): void {
    const { sequence, tokens } = part.entries[0]!;
    part.reloads = new Set(plan.missing.get(sequence));
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
      layers,
      queryHeads,
      kvHeads,
      headDim,
    };
  }

  #check(entries: readonly { sequence: CudaKvSequence; tokens: number }[]): void {
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

  #planOnDevice(entries: readonly { sequence: CudaKvSequence; tokens: number }[]): Plan {
    const needed = entries.reduce((sum, entry) => sum + this.#needs(entry), 0);
    if (needed > this.#pool.free) throw this.#full(needed);
    return { missing: new Map() };
  }

  /**
   * What the device holds of the step's sequences. It gives up, in this order until the rest fits: what sequences outside the step
   * have there, longest unused first; bringing back what was given up before; what the step's own sequences have, longest first.
   */
  #planBesideHost(entries: readonly { sequence: CudaKvSequence; tokens: number }[]): Plan {
    const { layers } = this.#options;
    const stepping = new Set(entries.map(({ sequence }) => sequence));
    const reload = new Set<CudaKvSequence>();
    // Sequences that read a prompt again want all layers; those that decode have given up what they sample.
    for (const { sequence, tokens } of entries) {
      if (tokens === 1) continue;
      for (let layer = 0; layer < layers; layer += 1) if (!sequence.whole(layer)) sequence.drop(layer);
      if (sequence.pages.some((held) => held === undefined)) reload.add(sequence);
    }
    const needed = () =>
      entries.reduce((sum, { sequence, tokens }) => {
        const pages = Math.ceil((sequence.length + tokens) / PAGE_TOKENS);
        const missing = sequence.pages.filter((held) => held === undefined).length;
        const scratch = tokens > 1 && missing > 0 ? Math.ceil(tokens / PAGE_TOKENS) : 0;
        return sum + this.#needs({ sequence, tokens }) + (reload.has(sequence) ? missing * pages : scratch);
      }, 0);
    const others = [...this.#live].filter((sequence) => !stepping.has(sequence));
    others.sort((a, b) => b.lastStep - a.lastStep);
    const dropAll = (sequence: CudaKvSequence) => {
      for (let layer = 0; layer < layers; layer += 1) sequence.drop(layer);
    };
    while (needed() > this.#pool.free && others.length > 0) dropAll(others.pop()!);
    while (needed() > this.#pool.free && reload.size > 0) reload.delete([...reload].pop()!);
    const own = [...stepping].sort((a, b) => a.length - b.length);
    while (needed() > this.#pool.free && own.length > 0) dropAll(own.pop()!);
    if (needed() > this.#pool.free) throw this.#full(needed());
    const missing = new Map<CudaKvSequence, Set<number>>();
    for (const sequence of reload) {
      missing.set(sequence, new Set(sequence.pages.flatMap((held, layer) => (held === undefined ? [layer] : []))));
    }
    return { missing };
  }

  #full(pages: number): OutOfMemoryError {
    const { free, pageBytes } = this.#pool;
    return new OutOfMemoryError(
      `${pages * pageBytes} bytes of device memory for keys and values were asked for, and ${free * pageBytes} are free.`,
      pages * pageBytes,
    );
  }

  /** Pages that an entry takes in the layers that the device holds. */
  #needs({ sequence, tokens }: { sequence: CudaKvSequence; tokens: number }): number {
    let pages = 0;
    for (const [layer, held] of sequence.pages.entries())
      if (held !== undefined) pages += sequence.needs(layer, tokens);
    return pages;
  }
}

interface Plan {
  /** Layers that the device takes up again, by sequence. */
  missing: Map<CudaKvSequence, Set<number>>;
}

/** Entries that are computed alike: neighbours that decode together, every stretch of a prompt by itself. */
function partsOf(entries: readonly { sequence: CudaKvSequence; tokens: number }[]): StepPart[] {
  const parts: StepPart[] = [];
  let row = 0;
  for (const [index, entry] of entries.entries()) {
    const last = parts.at(-1);
    if (entry.tokens === 1 && last?.decodes) {
      last.entries.push(entry);
      last.rows += 1;
    } else {
      const { tokens } = entry;
      parts.push({
        entries: [entry],
        index,
        row,
        rows: tokens,
        decodes: tokens === 1,
        reloads: new Set(),
        scratch: [],
        host: undefined,
      });
    }
    row += entry.tokens;
  }
  return parts;
}
