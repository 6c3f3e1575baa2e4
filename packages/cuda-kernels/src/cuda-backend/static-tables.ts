import type { DeviceArray } from '../device-array.js';
import { PAGE_TOKENS } from '../kv-view.js';
import type { Stream } from '../stream.js';
import type { Sampling } from './host-cache.js';
import type { StepPart } from './step-context.js';
import { align } from './step-tables.js';
import type { Upload } from './upload.js';

interface Place {
  /** Page tables, [layers] of [sequences][stride], aligned. */
  pages: number;
  stride: number;
  lengths: number;
  gaps: number;
}

/** What the decode kernel takes to attend to a part's static tokens in one layer. */
export interface StaticView {
  /** [sequences][pagesStride] i32: pages of the first tokens, then of the last ones */
  pages: DeviceArray<'i32'>;
  pagesStride: number;
  /** [sequences] i32: tokens of these pages */
  lengths: DeviceArray<'i32'>;
  /** [sequences][2] i32: where among them the sampled ones are */
  gaps: DeviceArray<'i32'>;
}

/** Where the tokens outside [begin, end) are: those that are attended to exactly where the others are sampled. */
export class StaticTables {
  readonly #sampling: readonly (Sampling | null)[];
  readonly #places = new Map<StepPart, Place>();
  readonly #array: DeviceArray<'i32'>;

  /**
   * @param parts whose entries decode and are all sampled
   * @param sampling one for each entry of the step
   */
  constructor(
    stream: Stream,
    upload: Upload<'i32'>,
    layers: number,
    parts: readonly StepPart[],
    sampling: readonly (Sampling | null)[],
  ) {
    this.#sampling = sampling;
    let size = 0;
    for (const part of parts) {
      const spans = part.entries.map(({ sequence }, i) => span(sampling[part.index + i]!, sequence.length));
      const stride = align(Math.max(...spans.map(({ count }) => count)));
      const sequences = part.entries.length;
      const lengths = size + layers * sequences * stride;
      const gaps = align(lengths + sequences);
      this.#places.set(part, { pages: size, stride, lengths, gaps });
      size = align(gaps + 2 * sequences);
    }
    const data = new Int32Array(size);
    for (const [part, { pages, stride, lengths, gaps }] of this.#places) {
      for (const [i, { sequence }] of part.entries.entries()) {
        const { begin, end } = sampling[part.index + i]!;
        const { keep, from, count } = span({ begin, end }, sequence.length);
        const left = (from - keep) * PAGE_TOKENS;
        data[lengths + i] = sequence.length - left;
        data.set([begin, end - left], gaps + 2 * i);
        for (let layer = 0; layer < layers; layer += 1) {
          const table = pages + (layer * part.entries.length + i) * stride;
          const held = sequence.pages[layer];
          if (!held?.covers(begin, end)) continue;
          for (let page = 0; page < count; page += 1)
            data[table + page] = held.at(page < keep ? page : page - keep + from)!;
        }
      }
    }
    this.#array = upload.put(stream, data);
  }

  /** Whether these are the tables of such parts and ranges. */
  serve(parts: readonly StepPart[], sampling: readonly (Sampling | null)[]): boolean {
    const alike = (one: Sampling | null, i: number) =>
      one?.begin === sampling[i]?.begin && one?.end === sampling[i]?.end;
    return parts.every((part) => this.#places.has(part)) && this.#sampling.every(alike);
  }

  view(layer: number, part: StepPart): StaticView {
    const { pages, stride, lengths, gaps } = this.#places.get(part)!;
    const sequences = part.entries.length;
    return {
      pages: this.#array.view(pages + layer * sequences * stride, sequences * stride),
      pagesStride: stride,
      lengths: this.#array.view(lengths, sequences),
      gaps: this.#array.view(gaps, 2 * sequences),
    };
  }
}

/** The first pages that are kept, the first of the last ones, and how many that makes. */
function span({ begin, end }: { begin: number; end: number }, length: number) {
  const keep = Math.ceil(begin / PAGE_TOKENS);
  const from = Math.max(Math.floor(end / PAGE_TOKENS), keep);
  return { keep, from, count: keep + Math.ceil(length / PAGE_TOKENS) - from };
}
