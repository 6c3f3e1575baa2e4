import type { Device } from '../device.js';
import type { DeviceArray } from '../device-array.js';
import type { Event } from '../event.js';
import { scatterRows } from '../kernels/scatter-rows.js';
import type { PinnedArray } from '../pinned-array.js';
import type { Stream } from '../stream.js';
import type { HostCache, KvSequence } from './host-cache.js';

/** Tokens that travel together. */
export const STRETCH_TOKENS = 512;

/** Where a stretch of tokens goes: keys and values [slot][kvHeads][headDim]; token i to slot i, or to slots[i]. */
export interface LoadTarget {
  keys: DeviceArray<'bf16'>;
  values: DeviceArray<'bf16'>;
  slots?: DeviceArray<'i32'>;
}

interface Buffer {
  pinned: PinnedArray<'bf16'>;
  array: DeviceArray<'bf16'>;
  /** The copy to the device has ended: the host may write again. */
  copied: Event;
  /** The device has read the copy: the next may begin. */
  read: Event;
  used: boolean;
}

/** Brings keys and values from host memory to the device, one stretch being copied while the next is read. */
export class KeyLoader implements Disposable {
  readonly #shape: { kvHeads: number; headDim: number };
  readonly #copies: Stream;
  readonly #buffers: Buffer[] = [];
  readonly #owned: Disposable[] = [];

  constructor(device: Device, copies: Stream, shape: { kvHeads: number; headDim: number }) {
    this.#shape = shape;
    this.#copies = copies;
    const own = <T extends Disposable>(thing: T): T => {
      this.#owned.push(thing);
      return thing;
    };
    const elements = 2 * STRETCH_TOKENS * shape.kvHeads * shape.headDim;
    try {
      for (let i = 0; i < 2; i += 1) {
        const pinned = own(device.pinned('bf16', elements));
        const array = own(device.array('bf16', elements));
        this.#buffers.push({ pinned, array, copied: own(device.event()), read: own(device.event()), used: false });
      }
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  /** Bytes of device memory of a loader. */
  static bytes(shape: { kvHeads: number; headDim: number }): number {
    return 2 * 2 * STRETCH_TOKENS * shape.kvHeads * shape.headDim * 2;
  }

  /** Queues on `stream` that tokens [begin, end), at most {@link STRETCH_TOKENS}, of a layer reach `target`. */
  load(
    stream: Stream,
    cache: HostCache,
    sequence: KvSequence,
    layer: number,
    begin: number,
    end: number,
    target: LoadTarget,
  ): void {
    const { kvHeads, headDim } = this.#shape;
    const rows = end - begin;
    const [head, half] = [rows * headDim, kvHeads * rows * headDim];
    const buffer = this.#buffers.shift()!;
    this.#buffers.push(buffer);
    if (buffer.used) buffer.copied.synchronize();
    const { host } = buffer.pinned;
    for (let i = 0; i < kvHeads; i += 1) {
      cache.readKeys(sequence, layer, i, begin, end, host.subarray(i * head, (i + 1) * head));
      cache.readValues(sequence, layer, i, begin, end, host.subarray(half + i * head, half + (i + 1) * head));
    }
    if (buffer.used) this.#copies.wait(buffer.read);
    const size = 2 * half;
    this.#copies.copyMatrix(buffer.array, buffer.pinned, { rows: 1, width: size, toStride: size, fromStride: size });
    this.#copies.record(buffer.copied);
    stream.wait(buffer.copied);
    const shape = { rows, heads: kvHeads, headDim, ...(target.slots && { slots: target.slots }) };
    scatterRows(stream, { out: target.keys, x: buffer.array, ...shape });
    scatterRows(stream, { out: target.values, x: buffer.array.view(half), ...shape });
    stream.record(buffer.read);
    buffer.used = true;
  }

  [Symbol.dispose](): void {
    for (const thing of this.#owned.splice(0).reverse()) thing[Symbol.dispose]();
  }
}
