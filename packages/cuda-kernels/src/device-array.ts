import type { Device } from './device.js';
import { type DType, ELEMENT_BYTES, type HostArray, holds, hostArray } from './dtype.js';
import { DisposedError, InvalidArgumentError } from './errors.js';
import type { Address } from './native.js';
import { checkInteger } from './validate.js';

/** Elements of one type in device memory: an allocation of a {@link Device}, or a part of one. */
export class DeviceArray<T extends DType = DType> implements Disposable {
  readonly device: Device;
  readonly dtype: T;
  /** Number of elements. */
  readonly length: number;
  readonly #address: Address;
  readonly #whole: DeviceArray | undefined;
  #free: (() => void) | undefined;

  /** @internal Use {@link Device.array}. `free` is left out for a part of another array. */
  constructor(device: Device, dtype: T, length: number, address: Address, free?: () => void, whole?: DeviceArray) {
    this.device = device;
    this.dtype = dtype;
    this.length = length;
    this.#address = address;
    this.#free = free;
    this.#whole = whole;
  }

  /** Size in bytes. */
  get bytes(): number {
    return this.length * ELEMENT_BYTES[this.dtype];
  }

  /** Whether the memory was freed. */
  get disposed(): boolean {
    return this.#whole !== undefined ? this.#whole.disposed : this.#free === undefined;
  }

  /** Where it begins in device memory. */
  get address(): Address {
    if (this.disposed)
      throw new DisposedError(`This array of ${this.length} ${this.dtype} on the device was disposed of.`);
    return this.#address;
  }

  /** Elements [offset, offset + length) of this array, in place; valid as long as this array is. */
  view(offset: number, length: number = this.length - offset): DeviceArray<T> {
    checkInteger('offset', offset, 0, this.length);
    checkInteger('length', length, 0, this.length - offset);
    const start = this.address + offset * ELEMENT_BYTES[this.dtype];
    return new DeviceArray(this.device, this.dtype, length, start, undefined, this.#whole ?? this);
  }

  /** The same memory as elements of another type, as many as fit: for carving one allocation into arrays. */
  as<U extends DType>(dtype: U): DeviceArray<U> {
    const length = Math.floor(this.bytes / ELEMENT_BYTES[dtype]);
    return new DeviceArray(this.device, dtype, length, this.address, undefined, this.#whole ?? this);
  }

  /** Copies `data` to the beginning of this array and waits; work of other streams is not waited for. */
  write(data: HostArray<T>): void {
    this.device.flush();
    this.#copy(data, true);
  }

  /** Copies the elements to `out`, or to a new array, and waits for the device first. */
  read(out: HostArray<T> = hostArray(this.dtype, this.length)): HostArray<T> {
    this.device.synchronize();
    this.#copy(out, false);
    return out;
  }

  /** Frees the memory, after the work that is queued. A part of another array has nothing to free. */
  [Symbol.dispose](): void {
    const free = this.#free;
    this.#free = undefined;
    free?.();
  }

  #copy(array: HostArray<T>, upload: boolean): void {
    if (!holds(this.dtype, array)) {
      throw new InvalidArgumentError(
        `The host array of ${this.dtype} elements must be a ${hostArray(this.dtype, 0).constructor.name}.`,
      );
    }
    if (array.length > this.length) {
      throw new InvalidArgumentError(
        `The host array holds ${array.length} elements, but the one on the device ${this.length}.`,
      );
    }
    const { address } = this;
    if (array.length === 0) return;
    const what = `copying ${array.byteLength} bytes ${upload ? 'to' : 'from'} the device`;
    this.device.check(what, this.device.native.copyArray(0, address, array, upload));
  }
}
