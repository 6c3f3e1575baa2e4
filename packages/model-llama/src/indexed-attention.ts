import type { SimHashSegment } from '@magicpig/lsh';
import type { AttentionReport } from './api.js';
import { AttentionMeter } from './attention-meter.js';
import type { KeptAttention, Neighbour, SequenceAttention } from './attention-policy.js';
import type { LlamaConfig } from './checkpoint.js';
import { KeptIndexes } from './kept-indexes.js';
import type { KeyIndex } from './key-index.js';
import type { HashedKeys, KvCache, KvSequence, Sampling } from './kv-cache.js';
import { LayerIndex } from './layer-index.js';
import { meanKeys } from './mean-keys.js';

/** Settings of every policy that draws keys from indexes. */
export interface IndexedSettings {
  policy: string;
  sink: number;
  window: number;
  denseLayers: number[];
  minContext: number;
}

export interface IndexedAttentionOptions {
  settings: IndexedSettings;
  config: Pick<LlamaConfig, 'layers' | 'queryHeads' | 'kvHeads' | 'headDim'>;
  cache: Pick<KvCache, 'readKeys'>;
  /** Hashes keys elsewhere, where that is possible. */
  segments?(sequence: KvSequence, keys: HashedKeys): SimHashSegment[] | undefined;
  /** An empty index, with room for the heads of all layers: head = layer * kvHeads + KV head. */
  create(): KeyIndex;
}

/** A centre from fewer keys is noise; sampling waits for so many. */
const LEAST_KEYS = 16;

/** Keys that the indexes of a context come to have when it has so many tokens: none while it is too short to sample. */
export function indexedKeys(tokens: number, { sink, window, minContext }: IndexedSettings): number {
  const keys = tokens - sink - window;
  return tokens < minContext || keys < LEAST_KEYS ? 0 : keys;
}

/** Empty indexes of the sampled layers, in order. */
export function emptyLayers({ settings, config, create }: IndexedAttentionOptions): LayerIndex[] {
  const { layers, kvHeads, headDim } = config;
  const sampled = Array.from({ length: layers }, (_, i) => i).filter((i) => !settings.denseLayers.includes(i));
  return sampled.map((layer, i) => new LayerIndex({ kvHeads, headDim, create }, layer, i / sampled.length));
}

/** Keys being brought into the indexes. */
interface IndexingJob {
  /** End of the tokens that will be in them. */
  end: number;
  /** The first layer, and in it the first KV head, that lacks them, and from which token on. */
  layer: number;
  kvHead: number;
  from: number;
}

/**
 * One sequence of a policy that draws keys from an index for each sampled layer. Tokens enter the indexes when they leave
 * the window, a block at a time; decoded tokens attend exactly to all others.
 */
export class IndexedAttention implements SequenceAttention {
  readonly #options: IndexedAttentionOptions;
  readonly #sequence: KvSequence;
  readonly #neighbours: () => Iterable<Neighbour>;
  /** Of the sampled layers, in order. */
  #layers: LayerIndex[];
  /** The same by layer; undefined for dense ones. */
  readonly #byLayer: (LayerIndex | undefined)[];
  /** Tokens [sink, #indexed) are in the indexes; `sink` while nothing is. */
  #indexed: number;
  #job: IndexingJob | undefined;
  #scratch = new Float32Array(0);
  readonly #meter: AttentionMeter;
  #samplingError: number | undefined;

  /** @param kept, neighbours See {@link AttentionPolicy.open}. */
  constructor(
    options: IndexedAttentionOptions,
    sequence: KvSequence,
    kept?: { state: KeptAttention; tokens: number },
    neighbours: () => Iterable<Neighbour> = () => [],
  ) {
    const { settings, config } = options;
    this.#options = options;
    this.#sequence = sequence;
    this.#neighbours = neighbours;
    this.#layers = kept?.state instanceof KeptIndexes ? kept.state.take() : emptyLayers(options);
    for (const layer of this.#layers) layer.restrict(Math.max((kept?.tokens ?? 0) - settings.sink, 0));
    this.#byLayer = Array.from({ length: config.layers }, (_, i) => this.#layers.find(({ layer }) => layer === i));
    this.#indexed = settings.sink;
    this.#meter = new AttentionMeter(settings.policy, { ...config, sampledLayers: this.#layers.length });
  }

  get bytes(): number {
    return this.#layers.reduce((sum, { bytes }) => sum + bytes, 0);
  }

  get samplingError(): number | undefined {
    return this.#samplingError;
  }

  get ready(): boolean {
    return !this.#job && this.#due() === this.#indexed;
  }

  /** End of the tokens that should be in the indexes now. */
  #due(): number {
    const { settings } = this.#options;
    const { sink, window } = settings;
    const { length } = this.#sequence;
    if (this.#layers.length === 0) return this.#indexed;
    if (this.#indexed === sink) return sink + indexedKeys(length, settings);
    // Afterwards a block of `window` tokens at a time, when all of it has left the window.
    const blocks = Math.floor((length - window - this.#indexed) / window);
    return this.#indexed + Math.max(blocks, 0) * window;
  }

  get waiting(): boolean {
    return this.#source?.ready === false;
  }

  /** A neighbour whose indexes the first ones of this sequence can be made from, when it has them or is about to. */
  get #source(): { layers: readonly LayerIndex[]; keys: number; ready: boolean } | undefined {
    const { sink } = this.#options.settings;
    if (this.#job || this.#indexed > sink || this.ready) return undefined;
    const mean = meanKeys(this.#due() - sink);
    const has = (layers: readonly LayerIndex[]) => layers.some((layer) => layer.meanKeys === mean);
    if (has(this.#layers)) return undefined;
    let builder: { layers: readonly LayerIndex[]; keys: number; ready: boolean } | undefined;
    for (const { state, tokens } of this.#neighbours()) {
      const keys = tokens - sink;
      if (keys < mean) break;
      if (state instanceof KeptIndexes) {
        if (has(state.layers)) return { layers: state.layers, keys, ready: true };
      } else if (state instanceof IndexedAttention) {
        const layers = state.#layers;
        if (state.#indexed > sink) {
          if (has(layers)) return { layers, keys, ready: true };
        } else if (state.#job && meanKeys(state.#job.end - sink) === mean) {
          builder ??= { layers, keys, ready: false };
        }
      }
    }
    return builder;
  }

  /** Begins to bring what is due into the indexes; false when it is better to wait. */
  #begin(): boolean {
    const source = this.#source;
    if (source?.ready === false) return false;
    for (const [i, layer] of (source?.layers ?? []).entries()) this.#layers[i]!.share(layer, source!.keys);
    this.#job = { end: this.#due(), layer: 0, kvHead: 0, from: 0 };
    return true;
  }

  prepare(keys: number, layers = this.#options.config.layers): void {
    if (this.ready || (!this.#job && !this.#begin())) return;
    const job = this.#job!;
    const { sink } = this.#options.settings;
    const { kvHeads } = this.#options.config;
    const count = job.end - sink;
    for (let worked = 0; worked < keys && job.layer < this.#layers.length; ) {
      const index = this.#layers[job.layer]!;
      if (index.layer >= layers) return;
      if (job.kvHead === 0) job.from = sink + index.begin(count, this.#indexed > sink);
      this.#add(index, job.kvHead, job.from, job.end);
      worked += Math.max(job.end - job.from, 1);
      job.kvHead += 1;
      if (job.kvHead === kvHeads) {
        index.finish();
        job.layer += 1;
        job.kvHead = 0;
      }
    }
    if (job.layer < this.#layers.length) return;
    this.#indexed = job.end;
    this.#job = undefined;
    this.#scratch = new Float32Array(0);
  }

  abandon(): void {
    for (const layer of this.#layers) layer.restrict(0);
    this.#indexed = this.#options.settings.sink;
    this.#job = undefined;
  }

  /** Brings tokens [begin, end) of one head into a layer's index. */
  #add(index: LayerIndex, kvHead: number, begin: number, end: number): void {
    const { config, cache, segments } = this.#options;
    const { layer, newMeanKeys: meanKeys } = index;
    const built = meanKeys ? segments?.(this.#sequence, { layer, kvHead, begin, end, meanKeys }) : undefined;
    if (built) {
      index.addSegments(kvHead, built);
      return;
    }
    const elements = (end - begin) * config.headDim;
    if (this.#scratch.length < elements) this.#scratch = new Float32Array(elements);
    const keys = this.#scratch.subarray(0, elements);
    cache.readKeys(this.#sequence, layer, kvHead, begin, end, keys);
    index.add(kvHead, keys);
  }

  sampling(layer: number): Sampling | null {
    const { sink } = this.#options.settings;
    const index = this.#byLayer[layer]?.index;
    if (this.#indexed === sink || !index) return null;
    const { selector, sketch } = index;
    return { selector, begin: sink, end: this.#indexed, ...(sketch && { sketch }) };
  }

  afterDecode(context: number, keysRead: number): void {
    this.#samplingError = this.#takeError();
    this.#meter.add(context, this.#indexed - this.#options.settings.sink, keysRead, this.#samplingError);
  }

  /** Of the step's draws, mean over the layers. */
  #takeError(): number | undefined {
    const errors = this.#layers.map(({ index }) => index?.takeError?.()).filter((error) => error !== undefined);
    return errors.length > 0 ? errors.reduce((sum, error) => sum + error, 0) / errors.length : undefined;
  }

  report(): AttentionReport {
    return this.#meter.report();
  }

  keep(): KeptAttention | undefined {
    for (const layer of this.#layers) layer.restrict(layer.keys);
    if (this.bytes === 0) return undefined;
    return new KeptIndexes(this.#layers.splice(0), this.#options.settings.sink);
  }

  [Symbol.dispose](): void {
    for (const layer of this.#layers) layer[Symbol.dispose]();
    this.#layers = [];
  }
}
