import type { DeviceArray } from '../device-array.js';
import { copyRows } from '../kernels/copy-rows.js';
import type { SketchBudget } from '../kernels/sketch-budget.js';
import { sketchEncode } from '../kernels/sketch-encode.js';
import { sketchFlips } from '../kernels/sketch-flips.js';
import { SKETCH_PAGE, type SketchSizes, type SketchStore, sketchLengths } from '../kernels/sketch-sizes.js';
import { PAGE_TOKENS } from '../kv-view.js';
import type { CudaKvSequence } from './cuda-kv-sequence.js';
import { LayerSketches } from './layer-sketches.js';
import { PageCounts } from './page-counts.js';
import { eachStretch } from './page-recall.js';
import type { StepBuffers } from './step-buffers.js';
import type { StepContext } from './step-context.js';
import { Upload } from './upload.js';

/** Key sketches of one layer, as host memory has them: what the device draws from must be the same. */
export interface KeySketches {
  /** Of `KeySketch` of `@magicpig/lsh`. */
  readonly bits: number;
  readonly seed: number;
  readonly budget: SketchBudget;
  readonly floor: number;
  /** [headDim], what the keys of a head (layer * kvHeads + KV head) are relative to. */
  centre(head: number): Float32Array;
  /** Takes note of the estimated relative error of a draw, mean over the query heads. */
  drawn(error: number): void;
}

/** Of a query head and key: scores and levels, and the samples of a quarter of the keys. */
const DRAW_BYTES = 4;

/** Key sketches in device memory, in pages of 1,024 keys of all KV heads of a layer. */
export class SketchPool implements Disposable {
  readonly bits: number;
  readonly seed: number;
  readonly sizes: SketchSizes;
  readonly arrays: Omit<SketchStore, 'pageTable' | 'pageTableStride'>;
  readonly #context: StepContext;
  readonly #counts: PageCounts;
  readonly #owned: Disposable[] = [];
  readonly #pageTable: Upload<'i32'>;
  readonly #slots: Upload<'i32'>;
  readonly #centres: Upload<'f32'>;

  /** @throws OutOfMemoryError */
  constructor(context: StepContext, { bits, seed }: Pick<KeySketches, 'bits' | 'seed'>, bytes: number) {
    const { kvHeads, headDim: dim, backend } = context;
    const { device, stream } = backend;
    const pages = Math.max(Math.floor(bytes / SketchPool.pageBytes({ kvHeads, headDim: dim }, bits)), 1);
    this.bits = bits;
    this.seed = seed;
    this.sizes = { dim, bits, kvHeads, pages };
    this.#context = context;
    this.#counts = new PageCounts(pages);
    const own = <T extends Disposable>(thing: T): T => {
      this.#owned.push(thing);
      return thing;
    };
    try {
      const lengths = sketchLengths(this.sizes);
      this.arrays = {
        codes: own(device.array('i32', lengths.codes)),
        factors: own(device.array('u16', lengths.factors)),
        flips: own(device.array('i32', lengths.flips)),
      };
      this.#pageTable = own(new Upload(device, 'i32'));
      this.#slots = own(new Upload(device, 'i32'));
      this.#centres = own(new Upload(device, 'f32'));
      sketchFlips(stream, { dim, flips: this.arrays.flips, seed });
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  /** Bytes of device memory of a page. */
  static pageBytes({ kvHeads, headDim: dim }: { kvHeads: number; headDim: number }, bits: number): number {
    const { codes, factors } = sketchLengths({ dim, bits, kvHeads, pages: 1 });
    return 4 * codes + 2 * factors;
  }

  /** Bytes of device memory that draws for one sequence of so many keys take, about. */
  static drawBytes(queryHeads: number, keys: number): number {
    return DRAW_BYTES * queryHeads * keys;
  }

  /**
   * Brings a layer's sketches to the keys of tokens [begin, end), from where they are: pages that are full are shared with sequences
   * that have the same keys there, relative to the same.
   *
   * @returns undefined when there is no room for them
   */
  follow(
    buffers: StepBuffers,
    sequence: CudaKvSequence,
    layer: number,
    { begin, end, sketch }: { begin: number; end: number; sketch: KeySketches },
  ): LayerSketches | undefined {
    let held = sequence.sketches[layer];
    if (held?.of !== sketch || held.begin !== begin) {
      held = this.#adopt(sequence, layer, begin, sketch);
      sequence.dropSketches(layer);
      sequence.sketches[layer] = held;
    }
    const keys = end - begin;
    if (!this.#makeRoom(held.needs(keys), sequence)) return undefined;
    held.grow(keys);
    if (held.keys < keys) this.#encode(buffers, sequence, layer, held, end);
    held.written(keys);
    return held;
  }

  [Symbol.dispose](): void {
    for (const thing of this.#owned.splice(0).reverse()) thing[Symbol.dispose]();
  }

  /** What the device has already of a layer's sketches: this sequence, or another one with the most of the same keys. */
  #adopt(sequence: CudaKvSequence, layer: number, begin: number, sketch: KeySketches): LayerSketches {
    const { kvHeads, headDim, live } = this.#context;
    const centres = new Float32Array(kvHeads * headDim);
    for (let head = 0; head < kvHeads; head += 1) centres.set(sketch.centre(layer * kvHeads + head), head * headDim);
    let most = new LayerSketches(this.#counts, sketch, begin, centres);
    let keys = 0;
    for (const other of live) {
      const held = other.sketches[layer];
      if (held?.begin !== begin || !held.centres.every((value, i) => value === centres[i])) continue;
      const common = Math.min(held.keys, sequence.runs.common(other.runs) - begin);
      const whole = other === sequence ? common : common - (common % SKETCH_PAGE);
      if (whole > keys) [most, keys] = [held, whole];
    }
    if (keys === 0) return most;
    const shared = most.share(keys);
    shared.of = sketch;
    return shared;
  }

  /** Whether so many pages are free, once sequences that only wait to be forked have given up theirs, oldest first. */
  #makeRoom(pages: number, sequence: CudaKvSequence): boolean {
    for (const other of this.#context.live) {
      if (pages <= this.#counts.free) break;
      if (other === sequence || other.lastStep > 0) continue;
      for (const layer of other.sketches.keys()) other.dropSketches(layer);
    }
    return pages <= this.#counts.free;
  }

  #encode(buffers: StepBuffers, sequence: CudaKvSequence, layer: number, held: LayerSketches, end: number): void {
    const { backend, kvHeads, headDim, pool, loader, host } = this.#context;
    const { stream } = backend;
    const from = held.begin + held.keys;
    const pageTable = this.#pageTable.put(stream, Int32Array.from(held.pages));
    const onDevice = {
      pageTable,
      pageTableStride: held.pages.length,
      centres: this.#centres.put(stream, held.centres),
    };
    const slots = this.#slotsOf(sequence, layer, from, end);
    const { keys: x, values } = buffers.stretch!;
    const row = (kvHeads * headDim) / 2; // pairs of bf16, copied as one float32
    eachStretch(from, end, (first, last) => {
      const rows = last - first;
      if (slots === undefined) {
        loader!.load(stream, host!, sequence.host!, layer, first, last, { keys: x, values });
      } else {
        const indices = slots.view(first - from, rows);
        copyRows(stream, { out: x.as('f32'), x: pool.keys.as('f32'), indices, rows, width: row });
      }
      sketchEncode(stream, { ...this.sizes, ...this.arrays, ...onDevice, x, rows, firstKey: first - held.begin });
    });
  }

  /** Where the device has tokens [from, to); undefined when it lacks some. */
  #slotsOf(sequence: CudaKvSequence, layer: number, from: number, to: number): DeviceArray<'i32'> | undefined {
    const { backend, pool } = this.#context;
    const slots = new Int32Array(to - from);
    for (let token = from; token < to; token += 1) {
      const page = sequence.pages[layer]?.at(Math.floor(token / PAGE_TOKENS));
      if (page === undefined) return undefined;
      slots[token - from] = pool.slot(page, token);
    }
    return this.#slots.put(backend.stream, slots);
  }
}
