import type { DeviceArray } from '../device-array.js';
import { PAGE_TOKENS } from '../kv-view.js';
import type { Stream } from '../stream.js';
import type { PagePool } from './page-pool.js';
import type { StepPart } from './step-context.js';
import type { Upload } from './upload.js';

/** @internal The next index at which kernels take an array of 32-bit elements. */
export const align = (index: number): number => Math.ceil(index / 4) * 4;

interface Place {
  /** Page tables of each layer, [sequences][stride], where one is needed. */
  pages: (number | undefined)[];
  sequences: number;
  stride: number;
  lengths: number;
}

/** Where the rows of a step go and where its sequences' pages are, for all layers in one upload. */
export class StepTables {
  readonly #array: DeviceArray<'i32'>;
  readonly #slotStride: number;
  readonly #places: Place[];

  constructor(
    stream: Stream,
    upload: Upload<'i32'>,
    { layers, pool }: { layers: number; pool: PagePool },
    parts: readonly StepPart[],
  ) {
    this.#slotStride = align(parts.reduce((sum, { rows }) => sum + rows, 0));
    let size = layers * this.#slotStride;
    this.#places = parts.map(({ entries, scratch }) => {
      const most = Math.max(...entries.map(({ sequence }) => Math.ceil(sequence.length / PAGE_TOKENS)), scratch.length);
      const stride = align(most);
      const pages = Array.from({ length: layers }, (_, layer) => {
        if (scratch.length === 0 && !entries.every(({ sequence }) => sequence.whole(layer))) return undefined;
        const at = size;
        size += entries.length * stride;
        return at;
      });
      const lengths = size;
      size = align(lengths + entries.length);
      return { pages, sequences: entries.length, stride, lengths };
    });
    const data = new Int32Array(size);
    for (const [i, part] of parts.entries()) {
      const { pages, stride, lengths } = this.#places[i]!;
      for (const [j, { sequence, tokens }] of part.entries.entries()) {
        data[lengths + j] = sequence.length;
        for (let layer = 0; layer < layers; layer += 1) {
          const held = sequence.pages[layer];
          const at = pages[layer];
          if (at !== undefined) {
            const count = held?.length ?? part.scratch.length;
            for (let page = 0; page < count; page += 1)
              data[at + j * stride + page] = held?.at(page) ?? part.scratch[page]!;
          }
          // Rows of a layer that the device does not hold start pages of their own.
          const first = held === undefined ? 0 : sequence.length - tokens;
          const slots = layer * this.#slotStride + part.row + j;
          for (let t = 0; t < tokens; t += 1) {
            const index = Math.floor((first + t) / PAGE_TOKENS);
            const page = held === undefined ? part.scratch[index] : held.at(index);
            data[slots + t] = page === undefined ? -1 : pool.slot(page, first + t);
          }
        }
      }
    }
    this.#array = upload.put(stream, data);
  }

  /** Slots of the step's rows in a layer, i32. */
  slots(layer: number): DeviceArray<'i32'> {
    return this.#array.view(layer * this.#slotStride, this.#slotStride);
  }

  /** Page tables of a part's sequences in a layer that the device has all of, or the step's own tokens; [sequences][stride] i32. */
  pages(layer: number, part: number): DeviceArray<'i32'> {
    const { pages, sequences, stride } = this.#places[part]!;
    return this.#array.view(pages[layer]!, sequences * stride);
  }

  /** Tokens of a part's sequences, i32. */
  lengths(part: number): DeviceArray<'i32'> {
    const { lengths, sequences } = this.#places[part]!;
    return this.#array.view(lengths, sequences);
  }
}
