import type { SimHashSegment } from '@magicpig/lsh';
import type { AttentionReport } from './api.js';
import { AttentionMeter } from './attention-meter.js';
import type { KeptAttention, Neighbour, SequenceAttention } from './attention-policy.js';
import type { LlamaConfig } from './checkpoint.js';
import type { GrowingIndex } from './growing-index.js';
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

/**
 * An answer that begins shortly before its context is long enough to sample goes on exactly for this share of the context, so
 * that there is time to build the indexes.
 */
const FIRST_SHARE = 1 / 16;

/** Tokens of a context that is long enough to sample. */
function leastTokens({ sink, window, minContext }: IndexedSettings): number {
  return Math.max(minContext, sink + window + LEAST_KEYS);
}

/** Keys that the indexes of a context have, at most, when it has come to so many tokens. */
export function indexedKeys(tokens: number, settings: IndexedSettings): number {
  return tokens < leastTokens(settings) ? 0 : tokens - settings.sink;
}

/** Empty indexes of the sampled layers, in order. */
export function emptyLayers({ settings, config, create }: IndexedAttentionOptions): LayerIndex[] {
  const { layers, kvHeads } = config;
  const sampled = Array.from({ length: layers }, (_, i) => i).filter((i) => !settings.denseLayers.includes(i));
  return sampled.map((layer, i) => new LayerIndex({ kvHeads, create }, layer, i / sampled.length));
}

/**
 * One sequence of a policy that draws keys from an index for each sampled layer. Tokens come to be drawn from when they have left
 * the window, a block at a time; decoded tokens attend exactly to all others.
 *
 * From which position on a token is drawn from, and when an index gives way to one around another mean, depends on positions
 * alone. The work for it is done before, spread over steps, as the indexes may know of more keys than may be drawn.
 */
export class IndexedAttention implements SequenceAttention {
  readonly #options: IndexedAttentionOptions;
  readonly #sequence: KvSequence;
  readonly #neighbours: () => Iterable<Neighbour>;
  /** Of the sampled layers, in order. */
  #layers: LayerIndex[];
  /** The same by layer; undefined for dense ones. */
  readonly #byLayer: (LayerIndex | undefined)[];
  /** Tokens [sink, #indexed) are drawn from; `sink` while none are. */
  #indexed: number;
  /** Tokens before the first one that was decoded; undefined before that. */
  #promptTokens: number | undefined;
  /** Keys that the mean of the first indexes is over, while these are built and the sequence waits for them. */
  #building: number | undefined;
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
    return this.#due === this.#indexed && !this.#outgrown;
  }

  /** End of the tokens that are to be drawn from now. */
  get #due(): number {
    const { window } = this.#options.settings;
    const { length } = this.#sequence;
    if (this.#layers.length === 0) return this.#indexed;
    if (!this.#draws) return length < this.#firstTokens ? this.#indexed : length - window;
    // Afterwards a block of `window` tokens at a time, when all of it has left the window.
    const blocks = Math.floor((length - window - this.#indexed) / window);
    return this.#indexed + Math.max(blocks, 0) * window;
  }

  get #draws(): boolean {
    return this.#indexed > this.#options.settings.sink;
  }

  /** Tokens of the context when it comes to be drawn from. */
  get #firstTokens(): number {
    const least = leastTokens(this.#options.settings);
    return Math.max(least, (this.#promptTokens ?? 0) + Math.ceil(FIRST_SHARE * least));
  }

  /** The layer whose mean is the next to be outgrown. */
  get #oldest(): LayerIndex {
    return this.#layers.reduce((oldest, layer) => (layer.outgrownAt < oldest.outgrownAt ? layer : oldest));
  }

  /** It, when its index must give way now. */
  get #outgrown(): LayerIndex | undefined {
    if (!this.#draws) return undefined;
    const { sink, window } = this.#options.settings;
    const oldest = this.#oldest;
    return oldest.outgrownAt <= this.#sequence.length - sink - window ? oldest : undefined;
  }

  get waiting(): boolean {
    if (this.#draws || this.#building !== undefined || this.ready) return false;
    return this.#source(meanKeys(this.#due - this.#options.settings.sink))?.ready === false;
  }

  /** A neighbour whose indexes the first ones of this sequence can be made from, when it has them or is about to. */
  #source(mean: number): { layers: readonly LayerIndex[]; keys: number; ready: boolean } | undefined {
    const { sink } = this.#options.settings;
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
        if (state.#draws) {
          if (has(layers)) return { layers, keys, ready: true };
        } else if (state.#building === mean) {
          builder ??= { layers, keys, ready: false };
        }
      }
    }
    return builder;
  }

  /** Takes over what a neighbour has of indexes around a mean; false when it is better to wait for it. */
  #share(mean: number): boolean {
    const source = this.#source(mean);
    if (source?.ready === false) return false;
    for (const [i, layer] of (source?.layers ?? []).entries()) this.#layers[i]!.share(layer, source!.keys);
    return true;
  }

  prepare(keys: number, layers = this.#options.config.layers): void {
    if (this.ready) return;
    const count = this.#due - this.#options.settings.sink;
    if (!this.#draws && this.#building === undefined) {
      if (!this.#share(meanKeys(count))) return;
      this.#building = meanKeys(count);
    }
    let left = keys;
    const fill = (index: GrowingIndex) => {
      for (const kvHead of index.lacking(count)) {
        if (left <= 0) return false;
        left -= this.#bring(index, kvHead, count);
      }
      return true;
    };
    for (const layer of this.#layers) {
      if (layer.layer >= layers || !fill(this.#draws ? layer.current! : layer.begin(meanKeys(count), false))) return;
      if (!this.#draws) layer.finish();
    }
    this.#indexed = this.#options.settings.sink + count;
    this.#building = undefined;
    for (let layer = this.#outgrown; layer; layer = this.#outgrown) {
      if (!fill(layer.begin(meanKeys(layer.outgrownAt), true))) return;
      layer.finish();
    }
    this.#scratch = new Float32Array(0);
  }

  prepareAhead(keys: number, mostTokens: number): void {
    const { sink, window } = this.#options.settings;
    const { length } = this.#sequence;
    const there = length - sink;
    if (this.#layers.length === 0 || this.#promptTokens === undefined) return;
    if (!this.#draws) {
      const count = this.#firstTokens - sink - window;
      const mean = meanKeys(count);
      if (there < mean || this.#firstTokens >= mostTokens) return;
      if (this.#layers.every((layer) => !layer.has(mean))) this.#share(mean);
      const indexes = this.#layers.map((layer) => layer.begin(mean, false));
      if (there < count) this.#spread(indexes, mean, sink + count - length, keys);
      else this.#spread(indexes, count, this.#firstTokens - length, keys);
      return;
    }
    const drawn = this.#indexed - sink;
    const blockAt = this.#indexed + 2 * window;
    if (there >= drawn + window && blockAt < mostTokens) {
      const indexes = this.#layers.map((layer) => layer.current!);
      this.#spread(indexes, drawn + window, blockAt - length, keys);
    }
    // One layer's index after the other, so that at most one of them is there twice.
    const oldest = this.#oldest;
    const mean = meanKeys(oldest.outgrownAt);
    const outgrownAt = sink + window + oldest.outgrownAt;
    if (there < mean || outgrownAt >= mostTokens) return;
    this.#spread([oldest.begin(mean, true)], Math.max(drawn, mean), outgrownAt - length, keys);
  }

  /** Brings as many heads to `count` keys as one of so many steps must, within about `keys` keys. */
  #spread(indexes: readonly GrowingIndex[], count: number, steps: number, keys: number): void {
    const lacking = indexes.flatMap((index) => index.lacking(count).map((kvHead) => ({ index, kvHead })));
    const most = Math.ceil(lacking.length / Math.max(steps, 1));
    let left = keys;
    for (const { index, kvHead } of lacking.slice(0, most)) {
      if (left <= 0) return;
      left -= this.#bring(index, kvHead, count);
    }
  }

  /**
   * Brings one head to `count` keys, or to those that its mean is over.
   *
   * @returns Keys that it took, about.
   */
  #bring(index: GrowingIndex, kvHead: number, count: number): number {
    const { config, cache, settings, segments } = this.#options;
    const { layer, meanKeys } = index;
    const from = index.length(kvHead);
    const to = Math.max(count, meanKeys);
    const [begin, end] = [settings.sink + from, settings.sink + to];
    const built = from === 0 ? segments?.(this.#sequence, { layer, kvHead, begin, end, meanKeys }) : undefined;
    if (built) {
      index.addSegments(kvHead, built);
      return to;
    }
    const sorted = index.resorted(kvHead);
    const elements = (to - from) * config.headDim;
    if (this.#scratch.length < elements) this.#scratch = new Float32Array(elements);
    const keys = this.#scratch.subarray(0, elements);
    cache.readKeys(this.#sequence, layer, kvHead, begin, end, keys);
    // The first keys added make the mean.
    const first = from === 0 ? meanKeys : to - from;
    for (const [a, b] of [
      [0, first],
      [first, to - from],
    ] as const) {
      if (a < b) index.add(kvHead, keys.subarray(a * config.headDim, b * config.headDim), b - a);
    }
    return to - from + sorted;
  }

  abandon(): void {
    for (const layer of this.#layers) layer.restrict(0);
    this.#indexed = this.#options.settings.sink;
    this.#building = undefined;
  }

  sampling(layer: number): Sampling | null {
    const index = this.#byLayer[layer]?.current?.index;
    if (!this.#draws || !index) return null;
    const { selector, sketch } = index;
    return { selector, begin: this.#options.settings.sink, end: this.#indexed, ...(sketch && { sketch }) };
  }

  afterDecode(context: number, keysRead: number): void {
    this.#promptTokens ??= context - 1;
    this.#samplingError = this.#takeError();
    this.#meter.add(context, this.#indexed - this.#options.settings.sink, keysRead, this.#samplingError);
  }

  /** Of the step's draws, mean over the layers. */
  #takeError(): number | undefined {
    const errors = this.#layers.map(({ current }) => current?.index.takeError?.());
    const known = errors.filter((error) => error !== undefined);
    return known.length > 0 ? known.reduce((sum, error) => sum + error, 0) / known.length : undefined;
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
