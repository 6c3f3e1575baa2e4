import { KeySketch, type KeySketchUse } from '@magicpig/lsh';
import type { AttentionSettings } from './attention-options.js';
import type { AttentionPolicy, KeptAttention, SequenceAttention } from './attention-policy.js';
import { emptyLayers, IndexedAttention, type IndexedAttentionOptions, indexedKeys } from './indexed-attention.js';
import { KeptIndexes } from './kept-indexes.js';
import type { KeyIndex } from './key-index.js';
import type { KeySketches } from './kv-cache.js';

export type SketchSettings = Extract<AttentionSettings, { policy: 'sketch' }>;

export interface SketchPolicyOptions extends Pick<IndexedAttentionOptions, 'config' | 'cache'> {
  settings: SketchSettings;
  /** Thread pool that encodes. */
  pool: object;
}

/**
 * Attention by sketch sampling: decoded tokens attend exactly to the first `sink` and the last `window` tokens, and for the
 * rest to keys drawn with probabilities that follow the softmax of scores estimated from a few bits a dimension, each
 * weighted by the inverse of its probability.
 */
export class SketchPolicy implements AttentionPolicy {
  readonly name = 'sketch';
  readonly sampledPromptTokens = 0;
  readonly settings: SketchSettings;
  readonly #options: IndexedAttentionOptions;
  readonly #use: KeySketchUse;
  /** Bytes of a layer's sketches without keys. */
  readonly #emptyBytes: number;

  constructor({ settings, config, cache, pool }: SketchPolicyOptions) {
    const { bits, budget, floor, seed } = settings;
    const heads = config.layers * config.kvHeads;
    this.settings = settings;
    this.#use = { budget, floor, pool };
    const create = () =>
      new SketchIndex(new KeySketch({ ...this.#use, heads, dim: config.headDim, bits, seed }), settings);
    this.#options = { settings, config, cache, create };
    const empty = create();
    this.#emptyBytes = empty.bytes;
    empty[Symbol.dispose]();
  }

  bytesFor(tokens: number): number {
    const { bits, denseLayers } = this.settings;
    const { layers, kvHeads, headDim } = this.#options.config;
    const keys = indexedKeys(tokens, this.settings);
    if (keys === 0) return 0;
    // One layer's sketches exist twice while they are made anew.
    const sampled = layers - denseLayers.length + 1;
    const scratch = keys * headDim * 4; // a head's keys as float32
    return sampled * (this.#emptyBytes + kvHeads * KeySketch.bytesFor({ dim: headDim, bits, keys })) + scratch;
  }

  open(...[sequence, kept, neighbours]: Parameters<AttentionPolicy['open']>): SequenceAttention {
    return new IndexedAttention(this.#options, sequence, kept, neighbours);
  }

  load(saved: Readonly<Record<string, Uint8Array>>): KeptAttention {
    const open = (bytes: Uint8Array) => new SketchIndex(KeySketch.fromBuffer(bytes, this.#use), this.settings);
    return KeptIndexes.load(saved, emptyLayers(this.#options), this.settings.sink, open);
  }
}

/** A {@link KeySketch} as the policies know indexes. */
class SketchIndex implements KeyIndex {
  readonly sketch: KeySketches;
  readonly #sketch: KeySketch;
  /** Of draws made elsewhere. */
  #errors: number[] = [];

  constructor(sketch: KeySketch, { budget, floor }: Pick<SketchSettings, 'budget' | 'floor'>) {
    this.#sketch = sketch;
    const { bits, seed } = sketch;
    const centre = (head: number) => sketch.centre(head);
    this.sketch = { bits, seed, budget, floor, centre, drawn: (error) => this.#errors.push(error) };
  }

  get bytes(): number {
    return this.#sketch.bytes;
  }

  get selector(): object {
    return this.#sketch.selector;
  }

  add(head: number, keys: Float32Array): void {
    this.#sketch.add(keys, head);
  }

  truncate(head: number, length: number): void {
    this.#sketch.truncate(length, head);
  }

  fork(): KeyIndex {
    return new SketchIndex(this.#sketch.fork(), this.sketch);
  }

  toBuffer(): Uint8Array {
    return this.#sketch.toBuffer();
  }

  takeError(): number | undefined {
    const errors = this.#errors.splice(0);
    if (errors.length > 0) return errors.reduce((sum, error) => sum + error, 0) / errors.length;
    const { draws, meanError } = this.#sketch.stats;
    this.#sketch.resetStats();
    return draws > 0 ? meanError : undefined;
  }

  [Symbol.dispose](): void {
    this.#sketch[Symbol.dispose]();
  }
}
