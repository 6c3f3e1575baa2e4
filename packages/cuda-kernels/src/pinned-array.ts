import type { Device } from './device.js';
import { type DType, type HostArray, hostArray } from './dtype.js';
import { DisposedError } from './errors.js';
import type { Address } from './native.js';

/**
 * Elements in page-locked host memory, for copies in the background. The host must not touch what a queued copy reads or
 * writes before an event after the copy has passed.
 */
export class PinnedArray<T extends DType = DType> implements Disposable {
  readonly device: Device;
  readonly dtype: T;
  readonly length: number;
  readonly #address: Address;
  readonly #host: HostArray<T>;
  #free: (() => void) | undefined;

  /** @internal Use {@link Device.pinned}. */
  constructor(device: Device, dtype: T, length: number, address: Address, buffer: ArrayBuffer, free: () => void) {
    this.device = device;
    this.dtype = dtype;
    this.length = length;
    this.#address = address;
    this.#host = hostArray(dtype, length, buffer);
    this.#free = free;
  }

  /** The elements, in place. Empty after disposal. */
  get host(): HostArray<T> {
    return this.#host;
  }

  /** @internal */
  get address(): Address {
    if (this.#free === undefined)
      throw new DisposedError(`This array of ${this.length} pinned ${this.dtype} was disposed of.`);
    return this.#address;
  }

  /** Waits for the device, frees the memory and leaves {@link host} empty. */
  [Symbol.dispose](): void {
    const free = this.#free;
    this.#free = undefined;
    free?.();
  }
}
