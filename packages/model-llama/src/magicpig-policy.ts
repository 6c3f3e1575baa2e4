import { SimHashProjection } from '@magicpig/lsh';
import type { AttentionReport } from './api.js';
import { AttentionMeter } from './attention-meter.js';
import type { AttentionSettings } from './attention-options.js';
import type { AttentionPolicy, KeptAttention, SequenceAttention } from './attention-policy.js';
import type { LlamaConfig } from './checkpoint.js';
import type { KvCache, KvSequence, Sampling } from './kv-cache.js';
import { LayerTables, type LayerTablesOptions } from './layer-tables.js';

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
    // One layer's tables exist twice while they are built anew.
    const heads = (layers - denseLayers.length + 1) * kvHeads;
    return heads * tableBytes(K, L, keys, headDim) + scratchBytes(L, keys, headDim);
  }

  open(sequence: KvSequence, kept?: { state: KeptAttention; tokens: number }): SequenceAttention {
    const layers = kept?.state instanceof KeptTables ? kept.state.take() : this.#emptyTables();
    for (const layer of layers) layer.restrict(Math.max((kept?.tokens ?? 0) - this.settings.sink, 0));
    return new MagicPigSequence(this.#options, layers, sequence);
  }

  /** Tables of the sampled layers, in order. */
  #emptyTables(): LayerTables[] {
    const { settings, config, pool } = this.#options;
    const { layers, kvHeads, headDim } = config;
    const minCollisions = Math.min(MIN_COLLISIONS, settings.L);
    const shape: LayerTablesOptions = { layers, kvHeads, headDim, projection: this.projection, minCollisions, pool };
    const sampled = Array.from({ length: layers }, (_, i) => i).filter((i) => !settings.denseLayers.includes(i));
    return sampled.map((layer, i) => new LayerTables(shape, layer, i / sampled.length));
  }
}

/** Tables without their sequence. */
class KeptTables implements KeptAttention {
  readonly leastTokens: number;
  #layers: LayerTables[];

  constructor(layers: LayerTables[], sink: number) {
    this.#layers = layers;
    this.leastTokens = sink + Math.max(...layers.map(({ meanKeys }) => meanKeys));
  }

  get bytes(): number {
    return this.#layers.reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /** The tables, which are the caller's from now on. */
  take(): LayerTables[] {
    return this.#layers.splice(0);
  }

  [Symbol.dispose](): void {
    for (const layer of this.take()) layer[Symbol.dispose]();
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

/** Bytes that indexing one head takes on the way: its keys as float32, and their codes in a segment. */
function scratchBytes(tables: number, keys: number, dim: number): number {
  return keys * dim * 4 + Math.min(keys, SEGMENT_KEYS) * tables * 2;
}

/** Keys being brought into the tables. */
interface IndexingJob {
  /** End of the tokens that will be in the tables. */
  end: number;
  /** The first layer, and in it the first KV head, that lacks them. */
  layer: number;
  kvHead: number;
}

class MagicPigSequence implements SequenceAttention {
  readonly #settings: MagicPigSettings;
  readonly #shape: Shape;
  readonly #cache: Pick<KvCache, 'readKeys'>;
  readonly #sequence: KvSequence;
  /** Of the sampled layers, in order. */
  #tables: LayerTables[];
  /** The same by layer; undefined for dense ones. */
  readonly #byLayer: (LayerTables | undefined)[];
  /** Tokens [sink, #indexed) are in the tables; `sink` while nothing is. */
  #indexed: number;
  #job: IndexingJob | undefined;
  #scratch = new Float32Array(0);

  readonly #meter: AttentionMeter;

  constructor(options: MagicPigPolicyOptions, tables: LayerTables[], sequence: KvSequence) {
    const { settings, config } = options;
    this.#settings = settings;
    this.#shape = config;
    this.#cache = options.cache;
    this.#sequence = sequence;
    this.#tables = tables;
    this.#byLayer = Array.from({ length: config.layers }, (_, i) => tables.find(({ layer }) => layer === i));
    this.#indexed = settings.sink;
    this.#meter = new AttentionMeter('magicpig', { ...config, sampledLayers: tables.length });
  }

  get bytes(): number {
    return this.#tables.reduce((sum, { bytes }) => sum + bytes, 0);
  }

  get ready(): boolean {
    return !this.#job && this.#due() === this.#indexed;
  }

  /** End of the tokens that should be in the tables now. */
  #due(): number {
    const { sink, window, minContext } = this.#settings;
    const { length } = this.#sequence;
    if (this.#tables.length === 0) return this.#indexed;
    if (this.#indexed === sink) {
      const start = length >= minContext && length - window - sink >= LEAST_KEYS;
      return start ? length - window : this.#indexed;
    }
    // Afterwards a block of `window` tokens at a time, when all of it has left the window.
    const blocks = Math.floor((length - window - this.#indexed) / window);
    return this.#indexed + Math.max(blocks, 0) * window;
  }

  prepare(keys: number): void {
    if (this.ready) return;
    this.#job ??= { end: this.#due(), layer: 0, kvHead: 0 };
    const job = this.#job;
    const { sink } = this.#settings;
    const { kvHeads, headDim } = this.#shape;
    const count = job.end - sink;
    for (let worked = 0; worked < keys && job.layer < this.#tables.length; ) {
      const tables = this.#tables[job.layer]!;
      if (job.kvHead === 0) tables.begin(count);
      const from = sink + tables.lacks(count);
      const elements = (job.end - from) * headDim;
      if (this.#scratch.length < elements) this.#scratch = new Float32Array(elements);
      const out = this.#scratch.subarray(0, elements);
      this.#cache.readKeys(this.#sequence, tables.layer, job.kvHead, from, job.end, out);
      tables.add(job.kvHead, count, out);
      worked += Math.max(job.end - from, 1);
      job.kvHead += 1;
      if (job.kvHead === kvHeads) {
        tables.finish(count);
        job.layer += 1;
        job.kvHead = 0;
      }
    }
    if (job.layer < this.#tables.length) return;
    this.#indexed = job.end;
    this.#job = undefined;
    this.#scratch = new Float32Array(0);
  }

  sampling(layer: number): Sampling | null {
    const { sink } = this.#settings;
    const tables = this.#byLayer[layer];
    if (this.#indexed === sink || !tables) return null;
    return { selector: tables.selector, begin: sink, end: this.#indexed };
  }

  afterDecode(context: number, keysRead: number): void {
    this.#meter.add(context, this.#indexed - this.#settings.sink, keysRead);
  }

  report(): AttentionReport {
    return this.#meter.report();
  }

  keep(): KeptAttention | undefined {
    for (const layer of this.#tables) layer.restrict(layer.keys);
    return this.bytes > 0 ? new KeptTables(this.#tables.splice(0), this.#settings.sink) : undefined;
  }

  [Symbol.dispose](): void {
    for (const layer of this.#tables) layer[Symbol.dispose]();
    this.#tables = [];
  }
}
