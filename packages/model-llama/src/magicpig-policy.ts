import { SimHashProjection, SimHashTables } from '@magicpig/lsh';
import type { AttentionSettings } from './attention-options.js';
import type { AttentionPolicy, KeptAttention, SequenceAttention } from './attention-policy.js';
import { emptyLayers, IndexedAttention, type IndexedAttentionOptions, indexedKeys } from './indexed-attention.js';
import { KeptIndexes } from './kept-indexes.js';
import type { KvCache } from './kv-cache.js';

export type MagicPigSettings = Extract<AttentionSettings, { policy: 'magicpig' }>;

export interface MagicPigPolicyOptions extends Pick<IndexedAttentionOptions, 'config'> {
  cache: Pick<KvCache, 'readKeys' | 'segments'>;
  settings: MagicPigSettings;
  /** Thread pool that hashes and builds. */
  pool: object;
  /** Projections of the settings' K, L and seed, to share; made when absent. */
  projection?: SimHashProjection;
}

/** Tables in which a key must share the query's bucket (paper, Algorithm 1); a single table cannot have two. */
const MIN_COLLISIONS = 2;

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
    const tables = SimHashTables.bytesFor(keys, { dim: headDim, bits: K, tables: L });
    // On the way, a head's keys are there as float32, and its tables twice.
    return heads * tables + tables + keys * headDim * 4;
  }

  open(...[sequence, kept, neighbours]: Parameters<AttentionPolicy['open']>): SequenceAttention {
    return new IndexedAttention(this.#indexed, sequence, kept, neighbours);
  }

  load(saved: Readonly<Record<string, Uint8Array>>): KeptAttention {
    const use = { projection: this.projection, pool: this.#options.pool };
    const open = (bytes: Uint8Array) => SimHashTables.fromBuffer(bytes, use);
    return KeptIndexes.load(saved, emptyLayers(this.#indexed), this.settings.sink, open);
  }

  get #indexed(): IndexedAttentionOptions {
    const { cache } = this.#options;
    const { dim, bits, tables, seed, kind } = this.projection;
    return {
      ...this.#options,
      create: () => this.#emptyTables(),
      segments: (sequence, keys) => cache.segments?.(sequence, keys, { dim, bits, tables, seed, projection: kind }),
    };
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
