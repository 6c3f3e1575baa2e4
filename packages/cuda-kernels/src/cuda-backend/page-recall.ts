import type { DeviceArray } from '../device-array.js';
import { PAGE_TOKENS } from '../kv-view.js';
import type { CudaKvSequence } from './cuda-kv-sequence.js';
import { STRETCH_TOKENS } from './key-loader.js';
import type { LayerPages } from './layer-pages.js';
import type { StepBuffers } from './step-buffers.js';
import type { StepContext } from './step-context.js';

/** Tokens of a layer that the device is to hold: all but [begin, end), to whole pages. */
export interface WantedPages {
  sequence: CudaKvSequence;
  layer: number;
  begin: number;
  end: number;
}

/** Brings a layer's keys and values back from host memory to pages on the device. */
export class PageRecall {
  readonly #context: StepContext;
  readonly #buffers: StepBuffers;

  constructor(context: StepContext, buffers: StepBuffers) {
    this.#context = context;
    this.#buffers = buffers;
  }

  /** The first tokens of a layer, to pages that are there. */
  load(sequence: CudaKvSequence, layer: number, tokens: number): void {
    this.#load(sequence, layer, 0, tokens);
  }

  /** A layer's tokens, if there are pages for them. */
  bringBack({ sequence, layer, begin, end }: WantedPages): void {
    const { pool } = this.#context;
    const { length } = sequence;
    const pages = Math.ceil(length / PAGE_TOKENS);
    const keep = Math.ceil(begin / PAGE_TOKENS);
    const gap = Math.max(Math.floor(end / PAGE_TOKENS) - keep, 0);
    if (pages - gap > pool.free) return;
    const take = (count: number) => Array.from({ length: count }, () => pool.take());
    if (gap > 0) sequence.take(layer, take(keep), gap, take(pages - gap - keep));
    else sequence.take(layer, take(pages));
    try {
      if (gap > 0) this.#load(sequence, layer, 0, keep * PAGE_TOKENS);
      this.#load(sequence, layer, gap > 0 ? (keep + gap) * PAGE_TOKENS : 0, length);
    } catch (error) {
      sequence.drop(layer);
      throw error;
    }
  }

  #load(sequence: CudaKvSequence, layer: number, from: number, to: number): void {
    const { backend, pool, loader, host } = this.#context;
    const slots = this.#slotsOf(sequence.pages[layer]!, from, to);
    eachStretch(from, to, (begin, end) =>
      loader!.load(backend.stream, host!, sequence.host!, layer, begin, end, {
        keys: pool.keys,
        values: pool.values,
        slots: slots.view(begin - from, end - begin),
      }),
    );
  }

  #slotsOf(pages: LayerPages, from: number, to: number): DeviceArray<'i32'> {
    const { backend, pool } = this.#context;
    const slot = (token: number) => pool.slot(pages.at(Math.floor(token / PAGE_TOKENS))!, token);
    const slots = Int32Array.from({ length: to - from }, (_, i) => slot(from + i));
    return this.#buffers.reloads.put(backend.stream, slots);
  }
}

/** Tokens [from, to) a stretch at a time. */
export function eachStretch(from: number, to: number, run: (begin: number, end: number) => void): void {
  for (let begin = from; begin < to; begin += STRETCH_TOKENS) run(begin, Math.min(begin + STRETCH_TOKENS, to));
}
