import { SimHashProjection, SimHashTables } from '@magicpig/lsh';
import type { AttentionReport } from './api.js';
import type { AttentionSettings } from './attention-options.js';
import type { AttentionPolicy, SequenceAttention } from './attention-policy.js';
import type { LlamaConfig } from './checkpoint.js';
import type { KvCache, KvSequence, Sampling } from './kv-cache.js';

export type MagicPigSettings = Extract<AttentionSettings, { policy: 'magicpig' }>;

type Shape = Pick<LlamaConfig, 'layers' | 'queryHeads' | 'kvHeads' | 'headDim'>;

export interface MagicPigPolicyOptions {
  settings: MagicPigSettings;
  config: Shape;
  cache: Pick<KvCache, 'readKeys'>;
  /** Thread pool that hashes and builds. */
  pool: object;
  /** Projections of the settings' K, L and seed, to share; made when absent. */
  projection?: SimHashProjection;
}

/** A centre from fewer keys is noise; sampling waits for so many. */
const LEAST_KEYS = 16;

/** Tables in which a key must share the query's bucket (paper, Algorithm 1); a single table cannot have two. */
const MIN_COLLISIONS = 2;

/** How `@magicpig/lsh` keeps keys: in sorted segments of at most so many, the last keys in smaller ones and a list of codes. */
const SEGMENT_KEYS = 65535;
const SMALL_SEGMENTS = 4;
const LISTED_KEYS = { least: 1024, most: 8192 };

/**
 * Attention by LSH sampling (arXiv 2410.16179, Algorithm 1): decoded tokens attend exactly to the first `sink` and the last
 * `window` tokens, and for the rest to the keys that SimHash tables draw, each weighted by the inverse of its probability.
 */
export class MagicPigPolicy implements AttentionPolicy {
  readonly name = 'magicpig';
  readonly settings: MagicPigSettings;
  readonly projection: SimHashProjection;
  readonly #options: MagicPigPolicyOptions;

  constructor(options: MagicPigPolicyOptions) {
    const { K: bits, L: tables, seed } = options.settings;
    this.#options = options;
    this.settings = options.settings;
    this.projection = options.projection ?? new SimHashProjection({ dim: options.config.headDim, bits, tables, seed });
  }

  get sampledPromptTokens(): number {
    return this.settings.sampledPromptTokens;
  }

  bytesFor(tokens: number): number {
    const { K, L, sink, window, denseLayers } = this.settings;
    const { layers, kvHeads, headDim } = this.#options.config;
    const keys = tokens - sink - window;
    if (tokens < this.settings.minContext || keys < LEAST_KEYS) return 0;
    const heads = (layers - denseLayers.length) * kvHeads;
    return heads * tableBytes(K, L, keys, headDim);
  }

  open(sequence: KvSequence): SequenceAttention {
    return new MagicPigSequence(this.#options, this.projection, sequence);
  }
}

/** Bytes of the tables of one head, at most. */
function tableBytes(bits: number, tables: number, keys: number, dim: number): number {
  const segments = Math.ceil(keys / SEGMENT_KEYS) + SMALL_SEGMENTS;
  const starts = segments * tables * (2 ** bits + 1) * 2;
  const listed = Math.min(Math.max(2 ** bits / 4, LISTED_KEYS.least), LISTED_KEYS.most);
  const ids = (keys + Math.min(keys, listed)) * tables * 2;
  const norms = keys * 4 * 2; // grown ahead of need
  return starts + ids + norms + dim * 4 + 1024;
}

class MagicPigSequence implements SequenceAttention {
  readonly #settings: MagicPigSettings;
  readonly #shape: Shape;
  readonly #cache: Pick<KvCache, 'readKeys'>;
  readonly #sequence: KvSequence;
  readonly #tables: SimHashTables;
  /** Whether a layer samples, [layers]. */
  readonly #sampled: boolean[];
  /** (layer, KV head) of each index, in the order they are built. */
  readonly #heads: { layer: number; kvHead: number }[];
  /** Tokens [sink, #indexed) are in the tables; `sink` while nothing is. */
  #indexed: number;
  /** Tokens [#indexed, #target) are being added, with `#next` the first head that lacks them; nothing when equal. */
  #target: number;
  #next = 0;
  #scratch = new Float32Array(0);

  #decodeSteps = 0;
  #sampledSteps = 0;
  #exactTokens = 0; // sum over sampled steps
  #share = 0; // sum over sampled steps of the share of sampled keys drawn
  #keysRead = 0; // per layer and query head, sum over steps
  #keys = 0; // the same, had all keys been read

  constructor(options: MagicPigPolicyOptions, projection: SimHashProjection, sequence: KvSequence) {
    const { settings, config } = options;
    this.#settings = settings;
    this.#shape = config;
    this.#cache = options.cache;
    this.#sequence = sequence;
    this.#sampled = Array.from({ length: config.layers }, (_, layer) => !settings.denseLayers.includes(layer));
    this.#heads = this.#sampled.flatMap((sampled, layer) =>
      sampled ? Array.from({ length: config.kvHeads }, (_, kvHead) => ({ layer, kvHead })) : [],
    );
    this.#indexed = settings.sink;
    this.#target = settings.sink;
    this.#tables = new SimHashTables({
      heads: config.layers * config.kvHeads,
      dim: config.headDim,
      projection,
      minCollisions: Math.min(MIN_COLLISIONS, settings.L),
      pool: options.pool,
    });
  }

  get bytes(): number {
    return this.#tables.bytes;
  }

  get ready(): boolean {
    return this.#target === this.#indexed && this.#due() === this.#indexed;
  }

  /** End of the tokens that should be in the tables now. */
  #due(): number {
    const { sink, window, minContext } = this.#settings;
    const { length } = this.#sequence;
    if (this.#heads.length === 0) return this.#indexed;
    if (this.#indexed === sink) {
      // Nothing indexed yet: all at once, so that the centre is the mean of all keys there are.
      const start = length >= minContext && length - window - sink >= LEAST_KEYS;
      return start ? length - window : this.#indexed;
    }
    // Afterwards a block of `window` tokens at a time, when all of it has left the window.
    const blocks = Math.floor((length - window - this.#indexed) / window);
    return this.#indexed + Math.max(blocks, 0) * window;
  }

  prepare(keys: number): void {
    if (this.#target === this.#indexed) {
      this.#target = this.#due();
      this.#next = 0;
    }
    const count = this.#target - this.#indexed;
    let worked = 0;
    while (count > 0 && worked < keys && this.#next < this.#heads.length) {
      const { layer, kvHead } = this.#heads[this.#next]!;
      const elements = count * this.#shape.headDim;
      if (this.#scratch.length < elements) this.#scratch = new Float32Array(elements);
      const out = this.#scratch.subarray(0, elements);
      this.#cache.readKeys(this.#sequence, layer, kvHead, this.#indexed, this.#target, out);
      this.#tables.add(layer * this.#shape.kvHeads + kvHead, out);
      this.#next += 1;
      worked += count;
    }
    if (this.#next === this.#heads.length) {
      this.#indexed = this.#target;
      this.#scratch = new Float32Array(0);
    }
  }

  sampling(layer: number): Sampling | null {
    const { sink } = this.#settings;
    if (this.#indexed === sink || !this.#sampled[layer]) return null;
    return { selector: this.#tables.selector, begin: sink, end: this.#indexed };
  }

  afterDecode(context: number, keysRead: number): void {
    const { queryHeads, layers } = this.#shape;
    this.#decodeSteps += 1;
    this.#keys += context * layers * queryHeads;
    const indexed = this.#indexed - this.#settings.sink;
    if (indexed === 0) {
      this.#keysRead += context * layers * queryHeads;
      return;
    }
    const sampledHeads = this.#sampled.filter(Boolean).length * queryHeads;
    const denseHeads = layers * queryHeads - sampledHeads;
    const drawn = keysRead - denseHeads * context - sampledHeads * (context - indexed);
    this.#sampledSteps += 1;
    this.#exactTokens += context - indexed;
    this.#share += drawn / (sampledHeads * indexed);
    this.#keysRead += keysRead;
  }

  report(): AttentionReport {
    const steps = Math.max(this.#sampledSteps, 1);
    return {
      policy: 'magicpig',
      decodeSteps: this.#decodeSteps,
      sampledSteps: this.#sampledSteps,
      exactTokens: this.#exactTokens / steps,
      sampledShare: this.#share / steps,
      keysReadShare: this.#keys === 0 ? 1 : this.#keysRead / this.#keys,
    };
  }

  [Symbol.dispose](): void {
    this.#tables[Symbol.dispose]();
  }
}
