import type { DeviceArray } from '../device-array.js';
import type { Event } from '../event.js';
import { attentionDecodeWorkspace, type DecodeSizes } from '../kernels/attention-decode.js';
import type { PinnedArray } from '../pinned-array.js';
import type { Stream } from '../stream.js';
import type { CudaBackend } from './cuda-backend.js';
import { DeviceClock } from './device-clock.js';
import { STRETCH_TOKENS } from './key-loader.js';
import { SketchDraws } from './sketch-draws.js';
import type { StepContext } from './step-context.js';
import { Upload } from './upload.js';

interface Shape {
  queryHeads: number;
  kvHeads: number;
  headDim: number;
  maxRows: number;
  host?: unknown;
}

/** Device memory with a copy in host memory. */
export interface PinnedPair {
  array: DeviceArray<'f32'>;
  pinned: PinnedArray<'f32'>;
}

/** Two buffers take turns: one layer's rows travel while the next layer's are computed. */
export const RING = 2;

/** Memory of one step, kept for the next ones. R rows at most; Hq query heads, Hkv KV heads of d elements. */
export class StepBuffers implements Disposable {
  /** [R, Hq, d] rotated queries */
  readonly q: DeviceArray<'bf16'>;
  /** Slots, page tables and lengths of the step. */
  readonly tables: Upload<'i32'>;
  /** Page tables, lengths and gaps of tokens that are attended to exactly beside sampled ones. */
  readonly statics: Upload<'i32'> | undefined;
  /** [R, Hq] log-sum-exps of what the host attends to. */
  readonly sampled: PinnedArray<'f32'> | undefined;
  /** Slots of tokens that are brought back to the device. */
  readonly reloads: Upload<'i32'>;
  /** Transfers to and from host memory, beside what is computed. */
  readonly copies: Stream;
  /** Measures those of rows to host memory. */
  readonly transfers: DeviceClock | undefined;
  /** What has to be on its way is computed. */
  readonly computed: Event;
  /** Each [R, (Hq + 2 Hkv) d], rows on their way to host memory; `arrived` follows the copies. */
  readonly rows: { pinned: PinnedArray<'f32'>; arrived: Event }[] = [];
  /** Contexts that the device does not hold: keys and values of a stretch, [tokens, Hkv, d] each. */
  readonly stretch: { keys: DeviceArray<'bf16'>; values: DeviceArray<'bf16'> } | undefined;
  /**
   * Attention over it, or over static tokens, [R, Hq, d] and [R, Hq]; `whole`: log-sum-exps of all stretches so far, or of what
   * the host attended to.
   */
  readonly partial: { output: DeviceArray<'f32'>; lse: DeviceArray<'f32'>; whole: DeviceArray<'f32'> } | undefined;
  readonly #backend: CudaBackend;
  readonly #heads: number;
  #lse: PinnedPair | undefined;
  #draws: SketchDraws | undefined;
  readonly #owned: Disposable[] = [];
  #workspace: DeviceArray<'u8'> | undefined;

  constructor(backend: CudaBackend, shape: Shape) {
    const { device } = backend;
    const { queryHeads, kvHeads, headDim, maxRows } = shape;
    this.#backend = backend;
    this.#heads = maxRows * (queryHeads + 3);
    const own = <T extends Disposable>(thing: T): T => {
      this.#owned.push(thing);
      return thing;
    };
    try {
      this.q = own(device.array('bf16', maxRows * queryHeads * headDim));
      this.tables = own(new Upload(device, 'i32'));
      this.reloads = own(new Upload(device, 'i32'));
      this.copies = own(device.stream());
      this.computed = own(device.event());
      if (shape.host === undefined) return;
      this.transfers = own(new DeviceClock(device, this.copies));
      this.statics = own(new Upload(device, 'i32'));
      this.sampled = own(device.pinned('f32', maxRows * queryHeads));
      const width = (queryHeads + 2 * kvHeads) * headDim;
      for (let i = 0; i < RING; i += 1) {
        this.rows.push({ pinned: own(device.pinned('f32', maxRows * width)), arrived: own(device.event()) });
      }
      const elements = STRETCH_TOKENS * kvHeads * headDim;
      this.stretch = { keys: own(device.array('bf16', elements)), values: own(device.array('bf16', elements)) };
      this.partial = {
        output: own(device.array('f32', maxRows * queryHeads * headDim)),
        lse: own(device.array('f32', maxRows * queryHeads)),
        whole: own(device.array('f32', maxRows * queryHeads)),
      };
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  /** Bytes of device memory, but for tables and workspaces. */
  static bytes({ queryHeads, kvHeads, headDim, maxRows, host }: Shape): number {
    const q = maxRows * queryHeads * headDim * 2;
    if (host === undefined) return q;
    return q + 2 * STRETCH_TOKENS * kvHeads * headDim * 2 + maxRows * queryHeads * (headDim + 2) * 4;
  }

  /** Scratch memory of attention in decoding; undefined where it needs none. */
  workspace(sizes: DecodeSizes): DeviceArray<'u8'> | undefined {
    const bytes = attentionDecodeWorkspace(this.#backend.stream, sizes);
    if (bytes === 0) return undefined;
    if (this.#workspace === undefined || this.#workspace.length < bytes) {
      this.#workspace?.[Symbol.dispose]();
      this.#workspace = undefined;
      // Room to grow: contexts do.
      this.#workspace = this.#backend.device.array('u8', Math.ceil(bytes * 1.25));
    }
    return this.#workspace;
  }

  /** Draws of keys, for a cache that has room for their sketches. */
  draws(context: StepContext): SketchDraws {
    return (this.#draws ??= new SketchDraws(context, this));
  }

  /** [R, Hq] of each part of a step, aligned, for whoever looks into attention; and a copy in host memory. */
  lse(): PinnedPair {
    if (this.#lse !== undefined) return this.#lse;
    const { device } = this.#backend;
    const array = device.array('f32', this.#heads);
    try {
      this.#lse = { array, pinned: device.pinned('f32', this.#heads) };
      return this.#lse;
    } catch (error) {
      array[Symbol.dispose]();
      throw error;
    }
  }

  [Symbol.dispose](): void {
    for (const thing of [this.#lse?.array, this.#lse?.pinned, this.#draws]) thing?.[Symbol.dispose]();
    this.#lse = undefined;
    this.#draws = undefined;
    for (const thing of this.#owned.splice(0).reverse()) thing[Symbol.dispose]();
    this.#workspace?.[Symbol.dispose]();
    this.#workspace = undefined;
  }
}
