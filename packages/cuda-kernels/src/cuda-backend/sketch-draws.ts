import type { DeviceArray } from '../device-array.js';
import { OutOfMemoryError } from '../errors.js';
import type { Event } from '../event.js';
import type { SketchBudget } from '../kernels/sketch-budget.js';
import { sketchDraw, sketchDrawWorkspace, sketchSampleWords } from '../kernels/sketch-draw.js';
import { SKETCH_PAGE } from '../kernels/sketch-sizes.js';
import type { PinnedArray } from '../pinned-array.js';
import type { Sampling } from './host-cache.js';
import type { LayerSketches } from './layer-sketches.js';
import type { SketchPool } from './sketch-pool.js';
import type { StepBuffers } from './step-buffers.js';
import type { StepContext, StepPart } from './step-context.js';
import { align } from './step-tables.js';
import { Upload } from './upload.js';

/** A draw that is under way: enough to repeat it with more room. */
interface Draw {
  pool: SketchPool;
  layer: number;
  part: StepPart;
  sketches: LayerSketches[];
  qkv: DeviceArray<'f32'>;
}

/** Room for samples grows in steps of so many keys. */
const ROOM_STEP = 256;

/** Draws of keys on the device, and their way to host memory: for one part of a step at a time. */
export class SketchDraws implements Disposable {
  readonly #context: StepContext;
  readonly #buffers: StepBuffers;
  readonly #arrived: Event;
  readonly #drawn: Event;
  readonly #tables: Upload<'i32'>;
  readonly #selectors: object[] = [];
  #samples: { array: DeviceArray<'i32'>; pinned: PinnedArray<'i32'> } | undefined;
  #workspace: DeviceArray<'u8'> | undefined;
  /** Keys that a row of samples has room for. */
  #room = 0;
  #draw: Draw | undefined;

  constructor(context: StepContext, buffers: StepBuffers) {
    const { device } = context.backend;
    this.#context = context;
    this.#buffers = buffers;
    this.#arrived = device.event();
    try {
      this.#drawn = device.event();
    } catch (error) {
      this.#arrived[Symbol.dispose]();
      throw error;
    }
    this.#tables = new Upload(device, 'i32');
  }

  /**
   * Queues the draws of a layer for entries that decode.
   *
   * @param qkv [R, (Hq + 2 Hkv) d], rotated
   * @returns false when there is no room for the sketches or the samples: the host is to draw
   */
  queue(
    pool: SketchPool,
    layer: number,
    part: StepPart,
    sampling: readonly Sampling[],
    qkv: DeviceArray<'f32'>,
  ): boolean {
    this.#draw = undefined;
    const sketches: LayerSketches[] = [];
    try {
      for (const [i, { sequence }] of part.entries.entries()) {
        const { begin, end, sketch } = sampling[i]!;
        const held = pool.follow(this.#buffers, sequence, layer, { begin, end, sketch: sketch! });
        if (held === undefined) return false;
        sketches.push(held);
      }
      const expected = Math.max(...sketches.map(({ of, keys }) => expectedKeys(of.budget, keys)));
      this.#grow(Math.ceil(expected + 8 * Math.sqrt(expected)), part.entries.length);
      this.#queue({ pool, layer, part, sketches, qkv });
      return true;
    } catch (error) {
      if (error instanceof OutOfMemoryError) return false;
      throw error;
    }
  }

  /** Waits for the samples, and returns a selector of each entry that selects them. */
  receive(): object[] {
    const { queryHeads, times } = this.#context;
    const draw = this.#draw!;
    const rows = draw.sketches.length * queryHeads;
    for (;;) {
      const start = performance.now();
      this.#arrived.synchronize();
      times.idle += performance.now() - start;
      const { host } = this.#samples!.pinned;
      const words = sketchSampleWords(this.#room);
      let most = 0;
      for (let row = 0; row < rows; row += 1) most = Math.max(most, host[row * words]!);
      if (most <= this.#room) break;
      this.#grow(most, draw.sketches.length);
      this.#queue(draw);
    }
    return draw.sketches.map(({ of }, i) => {
      of.drawn(this.#meanError(i));
      return this.#selector(i);
    });
  }

  [Symbol.dispose](): void {
    this.#draw = undefined;
    for (const thing of [this.#arrived, this.#drawn, this.#tables, this.#workspace]) thing?.[Symbol.dispose]();
    this.#workspace = undefined;
    this.#forgetSamples();
  }

  #queue(draw: Draw): void {
    const { backend, queryHeads, kvHeads, headDim: dim } = this.#context;
    const { stream } = backend;
    const { pool, layer, part, sketches, qkv } = draw;
    const { budget, floor, seed } = sketches[0]!.of;
    const sequences = sketches.length;
    const pageTableStride = align(Math.max(...sketches.map(({ pages }) => pages.length)));
    const maxKeys = pageTableStride * SKETCH_PAGE;
    const steps = align(sequences);
    const tables = new Int32Array(2 * steps + sequences * pageTableStride);
    for (const [i, { keys, pages }] of sketches.entries()) {
      tables[i] = keys;
      tables[steps + i] = part.entries[i]!.sequence.length - 1;
      tables.set(pages, 2 * steps + i * pageTableStride);
    }
    const onDevice = this.#tables.put(stream, tables);
    const sizes = { ...pool.sizes, queryHeads, sequences, maxKeys };
    const workspace = this.#workspaceOf(sketchDrawWorkspace(stream, sizes));
    const qStride = (queryHeads + 2 * kvHeads) * dim;
    const { array, pinned } = this.#samples!;
    sketchDraw(stream, {
      ...sizes,
      ...pool.arrays,
      samples: array,
      room: this.#room,
      q: qkv.view(part.row * qStride),
      qStride,
      keys: onDevice.view(0, sequences),
      steps: onDevice.view(steps, sequences),
      pageTable: onDevice.view(2 * steps),
      pageTableStride,
      budget,
      floor,
      layer,
      seed,
      workspace,
    });
    const { copies } = this.#buffers;
    stream.record(this.#drawn);
    copies.wait(this.#drawn);
    const width = sequences * queryHeads * sketchSampleWords(this.#room);
    copies.copyMatrix(pinned, array, { rows: 1, width, toStride: width, fromStride: width });
    copies.record(this.#arrived);
    this.#draw = draw;
  }

  #selector(entry: number): object {
    const { backend, queryHeads, kvHeads, headDim, layers } = this.#context;
    const { native } = backend.device;
    const selector = (this.#selectors[entry] ??= native.createSampleSelector(headDim, layers * kvHeads)!);
    const words = queryHeads * sketchSampleWords(this.#room);
    native.setSamples(selector, this.#samples!.pinned.address + 4 * entry * words, queryHeads, this.#room);
    return selector;
  }

  #meanError(entry: number): number {
    const { queryHeads } = this.#context;
    const { host } = this.#samples!.pinned;
    const words = sketchSampleWords(this.#room);
    const errors = new Float32Array(host.buffer, host.byteOffset, host.length);
    let sum = 0;
    for (let head = 0; head < queryHeads; head += 1) sum += errors[(entry * queryHeads + head) * words + 1]!;
    return sum / queryHeads;
  }

  /** Makes room for samples of so many keys of each query head of so many entries. */
  #grow(keys: number, entries: number): void {
    const { backend, queryHeads } = this.#context;
    const { device } = backend;
    this.#room = Math.max(this.#room, Math.ceil(keys / ROOM_STEP) * ROOM_STEP);
    const length = entries * queryHeads * sketchSampleWords(this.#room);
    if (this.#samples && this.#samples.array.length >= length) return;
    this.#forgetSamples();
    const array = device.array('i32', length);
    try {
      this.#samples = { array, pinned: device.pinned('i32', length) };
    } catch (error) {
      array[Symbol.dispose]();
      throw error;
    }
  }

  #forgetSamples(): void {
    this.#samples?.array[Symbol.dispose]();
    this.#samples?.pinned[Symbol.dispose]();
    this.#samples = undefined;
  }

  #workspaceOf(bytes: number): DeviceArray<'u8'> {
    if (this.#workspace && this.#workspace.length >= bytes) return this.#workspace;
    this.#workspace?.[Symbol.dispose]();
    this.#workspace = undefined;
    this.#workspace = this.#context.backend.device.array('u8', bytes);
    return this.#workspace;
  }
}

/** Keys that a budget reads of so many, in expectation; for an error bound those of an easy case. */
function expectedKeys(budget: SketchBudget, keys: number): number {
  if ('count' in budget) return Math.min(budget.count, keys);
  if ('share' in budget) return budget.share * keys;
  return (2 * (budget.min ?? 0.005) + 0.01) * keys;
}
