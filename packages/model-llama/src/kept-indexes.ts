import type { KeptAttention } from './attention-policy.js';
import type { KeyIndex } from './key-index.js';
import type { LayerIndex } from './layer-index.js';

/** Attachment that says how many keys each layer's index has, and over how many its mean is. */
const LAYERS = 'layers';

/** The indexes of the sampled layers of one sequence, without the sequence. */
export class KeptIndexes implements KeptAttention {
  readonly leastTokens: number;
  readonly #layers: LayerIndex[];
  readonly #sink: number;

  /** @param sink Tokens before the first one in the indexes. */
  constructor(layers: LayerIndex[], sink: number) {
    this.#layers = layers;
    this.#sink = sink;
    this.leastTokens = sink + Math.max(...layers.map(({ meanKeys }) => meanKeys));
  }

  /**
   * What {@link save} wrote.
   *
   * @param layers Empty ones, which get their keys.
   * @param open An index from its bytes.
   */
  static load(
    saved: Readonly<Record<string, Uint8Array>>,
    layers: LayerIndex[],
    sink: number,
    open: (bytes: Uint8Array) => KeyIndex,
  ): KeptIndexes {
    const known = JSON.parse(Buffer.from(saved[LAYERS]!).toString()) as { keys: number; meanKeys: number }[];
    for (const [i, layer] of layers.entries()) layer.fill(open(saved[`layer-${layer.layer}`]!), known[i]!);
    return new KeptIndexes(layers, sink);
  }

  get layers(): readonly LayerIndex[] {
    return this.#layers;
  }

  get bytes(): number {
    return this.#layers.reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /** The indexes, which are the caller's from now on. */
  take(): LayerIndex[] {
    return this.#layers.splice(0);
  }

  fork(): KeptIndexes | undefined {
    const layers = this.#layers.map((layer) => layer.fork());
    if (layers.every((layer) => layer !== undefined)) return new KeptIndexes(layers, this.#sink);
    for (const layer of layers) layer?.[Symbol.dispose]();
    return undefined;
  }

  save(): Record<string, Uint8Array> {
    const saved: Record<string, Uint8Array> = {};
    for (const { layer, current } of this.#layers) {
      current?.settle();
      const bytes = current?.index.toBuffer?.();
      if (!bytes) return {};
      saved[`layer-${layer}`] = bytes;
    }
    const known = this.#layers.map(({ keys, meanKeys }) => ({ keys, meanKeys }));
    return { ...saved, [LAYERS]: Buffer.from(JSON.stringify(known)) };
  }

  [Symbol.dispose](): void {
    for (const layer of this.take()) layer[Symbol.dispose]();
  }
}
