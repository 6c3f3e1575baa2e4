import type { Device } from './device.js';
import type { DType, HostArray } from './dtype.js';
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

  /** @internal Use {@link Device.pinned} or {@link Device.pin}. */
  constructor(device: Device, dtype: T, host: HostArray<T>, address: Address, free: () => void) {
    this.device = device;
    this.dtype = dtype;
    this.length = host.length;
    this.#address = address;
    this.#host = host;
    this.#free = free;
  }

  /** The elements, in place. After disposal empty, unless they were there before ({@link Device.pin}). */
  get host(): HostArray<T> {
    return this.#host;
  }

  /** @internal */
  get address(): Address {
    if (this.#free === undefined)
      throw new DisposedError(`This array of ${this.length} pinned ${this.dtype} was disposed of.`);
    return this.#address;
  }

  /** Waits for the device and frees the memory, or unlocks it where it was there before. */
  [Symbol.dispose](): void {
    const free = this.#free;
    this.#free = undefined;
    free?.();
  }
}
