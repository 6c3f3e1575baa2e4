import { SimHashProjection, SimHashTables } from '@magicpig/lsh';
import type { AttentionSettings } from './attention-options.js';
import type { AttentionPolicy, KeptAttention, SequenceAttention } from './attention-policy.js';
import { IndexedAttention, type IndexedAttentionOptions, indexedKeys } from './indexed-attention.js';
import type { KvSequence } from './kv-cache.js';

export type MagicPigSettings = Extract<AttentionSettings, { policy: 'magicpig' }>;

export interface MagicPigPolicyOptions extends Pick<IndexedAttentionOptions, 'config' | 'cache'> {
  settings: MagicPigSettings;
  /** Thread pool that hashes and builds. */
  pool: object;
  /** Projections of the settings' K, L and seed, to share; made when absent. */
  projection?: SimHashProjection;
}

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
    const { K, L, denseLayers } = this.settings;
    const { layers, kvHeads, headDim } = this.#options.config;
    const keys = indexedKeys(tokens, this.settings);
    if (keys === 0) return 0;
    // One layer's tables exist twice while they are built anew.
    const heads = (layers - denseLayers.length + 1) * kvHeads;
    return heads * tableBytes(K, L, keys, headDim) + scratchBytes(L, keys, headDim);
  }

  open(sequence: KvSequence, kept?: { state: KeptAttention; tokens: number }): SequenceAttention {
    return new IndexedAttention({ ...this.#options, create: () => this.#emptyTables() }, sequence, kept);
  }

  #emptyTables(): SimHashTables {
    const { settings, config, pool } = this.#options;
    const { layers, kvHeads, headDim } = config;
    const minCollisions = Math.min(MIN_COLLISIONS, settings.L);
    return new SimHashTables({
      heads: layers * kvHeads,
      dim: headDim,
      projection: this.projection,
      minCollisions,
      pool,
    });
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
