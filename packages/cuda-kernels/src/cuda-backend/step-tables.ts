import type { DeviceArray } from '../device-array.js';
import { PAGE_TOKENS } from '../kv-view.js';
import type { Stream } from '../stream.js';
import type { StepPart } from './cuda-kv-step.js';
import type { PagePool } from './page-pool.js';
import type { Upload } from './upload.js';

/** @internal The next index at which kernels take an array of 32-bit elements. */
export const align = (index: number): number => Math.ceil(index / 4) * 4;

interface Place {
  /** Page tables, [layers] of [sequences][stride], aligned. */
  pages: number;
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
    this.#places = parts.map(({ entries, decodes, scratch }) => {
      const most = Math.max(...entries.map(({ sequence }) => Math.ceil(sequence.length / PAGE_TOKENS)), scratch.length);
      const stride = decodes ? most : align(most);
      const pages = size;
      const lengths = pages + layers * align(entries.length * stride);
      size = align(lengths + entries.length);
      return { pages, sequences: entries.length, stride, lengths };
    });
    const data = new Int32Array(size);
    for (const [i, part] of parts.entries()) {
      const { pages, stride, lengths, sequences } = this.#places[i]!;
      for (const [j, { sequence, tokens }] of part.entries.entries()) {
        data[lengths + j] = sequence.length;
        for (let layer = 0; layer < layers; layer += 1) {
          const held = sequence.pages[layer];
          const table = held ?? part.scratch;
          data.set(table, pages + layer * align(sequences * stride) + j * stride);
          // Rows of a layer that the device does not hold start pages of their own.
          const first = held === undefined ? 0 : sequence.length - tokens;
          const slots = layer * this.#slotStride + part.row + j;
          for (let t = 0; t < tokens; t += 1) {
            const page = table[Math.floor((first + t) / PAGE_TOKENS)];
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

  /** Page tables of a part's sequences in a layer, [sequences][stride] i32. */
  pages(layer: number, part: number): DeviceArray<'i32'> {
    const { pages, sequences, stride } = this.#places[part]!;
    return this.#array.view(pages + layer * align(sequences * stride), sequences * stride);
  }

  /** Tokens of a part's sequences, i32. */
  lengths(part: number): DeviceArray<'i32'> {
    const { lengths, sequences } = this.#places[part]!;
    return this.#array.view(lengths, sequences);
  }
}
