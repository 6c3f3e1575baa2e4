import { DisposedError, InvalidArgumentError } from '../errors.js';
import type { Event } from '../event.js';
import { checkInteger } from '../validate.js';
import type { KvSequence } from './host-cache.js';
import { LayerPages } from './layer-pages.js';
import type { LayerSketches } from './layer-sketches.js';
import type { PagePool } from './page-pool.js';
import { TokenRuns } from './token-runs.js';

/** A step that is under way, for whoever wants what it has computed so far. */
export interface StepUnderWay {
  /** Host memory has the keys and values of a layer that was begun when this returns. */
  receive(layer: number): void;
  /** Passes when the device has a layer's keys; undefined when they come with what is queued. */
  written(layer: number): Event | undefined;
}

/**
 * Keys and values of one context: pages on the device, layer by layer, and where the cache has one a sequence in host memory,
 * which then holds all of them.
 */
export class CudaKvSequence implements KvSequence {
  /** @internal */
  readonly host: KvSequence | undefined;
  /** @internal Each layer's pages; undefined where the device holds nothing of the layer. */
  readonly pages: (LayerPages | undefined)[];
  /** @internal Each layer's key sketches on the device, where it draws. */
  readonly sketches: (LayerSketches | undefined)[];
  /** @internal */
  readonly runs: TokenRuns;
  /** @internal Number of the last step it was part of. */
  lastStep = 0;
  /** @internal That one until it ends. */
  step: StepUnderWay | undefined;
  readonly #pool: PagePool;
  readonly #live: Set<CudaKvSequence>;
  #length = 0;

  /** @internal Use {@link CudaKvCache.open}. */
  constructor(
    pool: PagePool,
    live: Set<CudaKvSequence>,
    state: {
      pages: (LayerPages | undefined)[];
      sketches?: (LayerSketches | undefined)[];
      length: number;
      runs?: TokenRuns;
      host: KvSequence | undefined;
    },
  ) {
    this.#pool = pool;
    this.#live = live;
    this.pages = state.pages;
    this.sketches = state.sketches ?? [];
    this.#length = state.length;
    this.runs = state.runs ?? new TokenRuns();
    if (state.runs === undefined) this.runs.grow(state.length);
    this.host = state.host;
    live.add(this);
  }

  /** Tokens in the cache. */
  get length(): number {
    this.check();
    return this.#length;
  }

  /** A sequence with the same tokens, which shares their memory until either side changes it. */
  fork(): CudaKvSequence {
    this.check();
    const host = this.host?.fork();
    const pages = this.pages.map((held) => held?.share());
    const sketches = this.sketches.map((held) => held?.share());
    const [length, runs] = [this.#length, this.runs.fork()];
    return new CudaKvSequence(this.#pool, this.#live, { pages, sketches, length, runs, host });
  }

  /** Forgets the tokens from `length` on. */
  truncate(length: number): void {
    checkInteger('length', length, 0, Number.MAX_SAFE_INTEGER);
    if (length > this.length) {
      throw new InvalidArgumentError(`length is ${length}; the sequence has only ${this.length} tokens.`);
    }
    this.host?.truncate(length);
    this.cut(length);
  }

  /** Frees what no other sequence shares. */
  [Symbol.dispose](): void {
    if (!this.#live.delete(this)) return;
    for (let layer = 0; layer < this.pages.length; layer += 1) {
      this.drop(layer);
      this.dropSketches(layer);
    }
    this.host?.[Symbol.dispose]();
  }

  /** @internal Whether the device has all of a layer. */
  whole(layer: number): boolean {
    return this.pages[layer]?.whole ?? false;
  }

  /** @internal The device forgets a layer. */
  drop(layer: number): void {
    this.pages[layer]?.release();
    this.pages[layer] = undefined;
  }

  /** @internal The device takes over pages of a layer. */
  take(layer: number, ...pages: [first: number[], gap?: number, last?: number[]]): LayerPages {
    this.drop(layer);
    const held = new LayerPages(this.#pool, ...pages);
    this.pages[layer] = held;
    return held;
  }

  /** @internal The device forgets a layer's sketches. */
  dropSketches(layer: number): void {
    this.sketches[layer]?.release();
    this.sketches[layer] = undefined;
  }

  /** @internal {@link truncate}, on the device alone. */
  cut(length: number): void {
    for (const held of this.sketches) held?.cut(Math.max(length - held.begin, 0));
    for (const [layer, held] of this.pages.entries()) if (held && !held.cut(length)) this.drop(layer);
    this.runs.cut(length);
    this.#length = length;
  }

  /** @internal Pages that `tokens` more tokens take in a layer of which the device holds something. */
  needs(layer: number, tokens: number): number {
    return this.pages[layer]!.needs(this.#length, this.#length + tokens);
  }

  /** @internal Takes them; see {@link LayerPages.grow}. */
  grow(layer: number, tokens: number, copy: (from: number, to: number) => void): void {
    this.pages[layer]!.grow(this.#length, this.#length + tokens, copy);
  }

  /** @internal */
  lengthen(tokens: number): void {
    this.#length += tokens;
    this.runs.grow(this.#length);
  }

  /** @internal */
  check(): void {
    if (!this.#live.has(this)) throw new DisposedError('This sequence was disposed of.');
  }
}
