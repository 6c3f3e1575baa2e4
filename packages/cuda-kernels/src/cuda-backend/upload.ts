import type { Device } from '../device.js';
import type { DeviceArray } from '../device-array.js';
import type { DType, HostArray } from '../dtype.js';
import type { Event } from '../event.js';
import type { PinnedArray } from '../pinned-array.js';
import type { Stream } from '../stream.js';

/** Elements of the first allocation; each further one doubles. */
const LEAST = 256;

/**
 * Small arrays on their way to the device, in order with the stream's other work. Two pinned buffers take turns, so that the host
 * may go on while the last copy is under way.
 */
export class Upload<T extends DType> implements Disposable {
  readonly #device: Device;
  readonly #dtype: T;
  #array: DeviceArray<T> | undefined;
  #buffers: { pinned: PinnedArray<T>; copied: Event | undefined; used: boolean }[] = [];

  constructor(device: Device, dtype: T) {
    this.#device = device;
    this.#dtype = dtype;
  }

  /** Queues the copy; the result holds the elements for what is queued on the stream until the next call. */
  put(stream: Stream, data: HostArray<T>): DeviceArray<T> {
    if (this.#array === undefined || this.#array.length < data.length) this.#grow(data.length);
    const buffer = this.#buffers.shift()!;
    this.#buffers.push(buffer);
    if (buffer.used) buffer.copied!.synchronize();
    buffer.pinned.host.set(data as never);
    const array = this.#array!;
    const { length } = data;
    stream.copyMatrix(array, buffer.pinned, { rows: 1, width: length, toStride: length, fromStride: length });
    stream.record(buffer.copied!);
    buffer.used = true;
    return array;
  }

  [Symbol.dispose](): void {
    this.#array?.[Symbol.dispose]();
    this.#array = undefined;
    for (const { pinned, copied } of this.#buffers.splice(0)) {
      pinned[Symbol.dispose]();
      copied?.[Symbol.dispose]();
    }
  }

  #grow(length: number): void {
    const room = Math.max(LEAST, 2 ** Math.ceil(Math.log2(length)));
    this[Symbol.dispose]();
    try {
      for (let i = 0; i < 2; i += 1) {
        const pinned = this.#device.pinned(this.#dtype, room);
        const buffer = { pinned, copied: undefined as Event | undefined, used: false };
        this.#buffers.push(buffer);
        buffer.copied = this.#device.event();
      }
      this.#array = this.#device.array(this.#dtype, room);
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }
}
