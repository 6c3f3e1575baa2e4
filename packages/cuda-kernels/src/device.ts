import { availability, cudaAddon, emulatedAddon } from './availability.js';
import { DeviceArray } from './device-array.js';
import { type DeviceProperties, propertiesOf } from './device-properties.js';
import { type DType, ELEMENT_BYTES, type HostArray, holds, hostArray } from './dtype.js';
import {
  CudaError,
  DeviceLostError,
  DisposedError,
  InvalidArgumentError,
  OutOfMemoryError,
  UnavailableError,
} from './errors.js';
import { Event } from './event.js';
import { MEMORY_ALLOCATION, type Native, type Result, type Status, SUCCESS } from './native.js';
import { PinnedArray } from './pinned-array.js';
import { Stream, type StreamOptions } from './stream.js';
import { checkInteger } from './validate.js';

/** Options of {@link Device}. */
export interface DeviceOptions {
  /** Which of {@link listDevices}. Default 0. */
  index?: number;
  /** Bytes of device memory that may be allocated through this object. Default: what the device has. */
  memoryLimit?: number;
  /**
   * Run the kernels on the CPU instead, in an emulation of the device that checks them as it goes. Many thousand times slower:
   * for tests where there is no GPU. Default false.
   */
  emulate?: boolean;
}

/** Memory held through a {@link Device}, in bytes. */
export interface DeviceMemory {
  /** Allocated now, of device memory. */
  used: number;
  /** Most that was allocated at once. */
  peak: number;
  /** What may be allocated. */
  limit: number;
  /** Pinned host memory allocated now. */
  pinned: number;
}

/** Whether NVIDIA's matrix products are used, where they were found, and if not, why and what to install. */
export type CublasLtState = { available: true; path: string } | { available: false; reason: string };

/**
 * Statuses after which every call of the process to the device fails: the context is lost. 999, which is any other failure of the driver,
 * is what a device reports that the machine cannot reach any more.
 */
const LOST_STATUSES = new Set([
  46, 214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911, 999,
]);

/** Compute capability of the first devices with what the kernels are made of. */
const LEAST_CAPABILITY = 8;

/** The device that CUDA calls of this thread go to, one for each addon. */
const current = new WeakMap<Native, number>();

/**
 * One GPU: its memory, streams and events. Everything made by a Device is freed when it is disposed of, if not before.
 *
 * All calls are made from the thread that made the Device. Work is queued on streams and calls return at once, but for those
 * that say that they wait.
 *
 * @example
 * using device = new Device();
 * using stream = device.stream();
 * using x = device.array('f32', 1024);
 */
export class Device {
  readonly properties: DeviceProperties;
  readonly #native: Native;
  readonly #limit: number;
  readonly #resources = new Set<Disposable>();
  readonly #streams = new Set<Stream>();
  #used = 0;
  #peak = 0;
  #pinned = 0;
  #disposed = false;
  #lost: DeviceLostError | undefined;
  #cublaslt: { state: CublasLtState; workspaceBytes: number } | undefined;

  /**
   * @throws UnavailableError when there is no such device; the message says why
   * @throws InvalidArgumentError
   */
  constructor(options?: DeviceOptions);
  /** @internal With another implementation of the addon, for tests. */
  constructor(options: DeviceOptions, native: Native);
  constructor(options: DeviceOptions = {}, native?: Native) {
    const index = checkInteger('index', options.index ?? 0, 0, 1023);
    if (!options.emulate && native === undefined) {
      const found = availability();
      if (!found.available) throw new UnavailableError(found.reason);
      if (index >= found.devices) {
        throw new UnavailableError(
          `There is no CUDA device ${index}; this machine has ${found.devices}, counted from 0.`,
        );
      }
    }
    const loaded = native !== undefined ? { native } : options.emulate ? emulatedAddon() : cudaAddon();
    if (!('native' in loaded)) throw new UnavailableError(loaded.reason);
    this.#native = loaded.native;
    this.properties = propertiesOf(this.#native, index);
    const { name, computeCapability, totalMemory } = this.properties;
    if (Number.parseFloat(computeCapability) < LEAST_CAPABILITY) {
      throw new UnavailableError(
        `${name} has compute capability ${computeCapability}; the kernels need ${LEAST_CAPABILITY}.0 or later.`,
      );
    }
    this.#limit = checkInteger('memoryLimit', options.memoryLimit ?? totalMemory, 0, Number.MAX_SAFE_INTEGER);
  }

  /** What is allocated through this object. */
  get memory(): DeviceMemory {
    return { used: this.#used, peak: this.#peak, limit: this.#limit, pinned: this.#pinned };
  }

  /** Bytes of device memory that no process uses. */
  get freeMemory(): number {
    return this.value('reading the free memory', this.native.memoryInfo()).free;
  }

  /** Whether the device failed; then every call throws {@link DeviceLostError}. */
  get lost(): boolean {
    return this.#lost !== undefined;
  }

  /** What {@link DeviceLostError} says, when the device failed. */
  get failure(): string | undefined {
    return this.#lost?.message;
  }

  /**
   * Uninitialised device memory for `length` elements, 256-byte aligned.
   *
   * @throws OutOfMemoryError when the limit or the device's memory does not allow it; nothing else is affected
   */
  array<T extends DType>(dtype: T, length: number): DeviceArray<T> {
    const { native } = this;
    checkInteger('length', length, 0, Number.MAX_SAFE_INTEGER / 4);
    const bytes = length * ELEMENT_BYTES[dtype];
    if (this.#used + bytes > this.#limit) {
      throw new OutOfMemoryError(
        `${bytes} bytes of device memory were asked for, but ${this.#used} of the limit of ${this.#limit} bytes are in use on ${this.properties.name}.`,
        bytes,
      );
    }
    const { status, value: address } = bytes === 0 ? { status: SUCCESS, value: 0 } : native.allocate(bytes);
    if (status === MEMORY_ALLOCATION) {
      throw new OutOfMemoryError(
        `${this.properties.name} has no ${bytes} bytes of device memory left (${this.#used} bytes are in use by this program).`,
        bytes,
      );
    }
    this.check(`allocating ${bytes} bytes`, status);
    this.#used += bytes;
    this.#peak = Math.max(this.#peak, this.#used);
    const array = new DeviceArray(this, dtype, length, address, () => {
      this.#resources.delete(array);
      this.#used -= bytes;
      if (bytes > 0) this.#giveBack(() => native.free(address));
    });
    this.#resources.add(array);
    return array;
  }

  /** A new array with the elements of `data`, which may be used again when the call returns. */
  upload<T extends DType>(dtype: T, data: HostArray<T>): DeviceArray<T> {
    const array = this.array(dtype, data.length);
    try {
      array.write(data);
      return array;
    } catch (error) {
      array[Symbol.dispose]();
      throw error;
    }
  }

  /**
   * Page-locked host memory, which copies to and from the device in the background and at full speed.
   *
   * @throws OutOfMemoryError
   */
  pinned<T extends DType>(dtype: T, length: number): PinnedArray<T> {
    const { native } = this;
    checkInteger('length', length, 1, Number.MAX_SAFE_INTEGER / 4);
    const bytes = length * ELEMENT_BYTES[dtype];
    const { status, value } = native.allocatePinned(bytes);
    if (status === MEMORY_ALLOCATION) {
      throw new OutOfMemoryError(`${bytes} bytes of pinned host memory could not be had.`, bytes);
    }
    this.check(`allocating ${bytes} bytes of pinned memory`, status);
    const { pointer, buffer } = value!;
    this.#pinned += bytes;
    const array = new PinnedArray(this, dtype, hostArray(dtype, length, buffer), pointer, () => {
      this.#resources.delete(array);
      this.#pinned -= bytes;
      this.#giveBack(() => {
        native.detach(buffer);
        return native.freePinned(pointer);
      });
    });
    this.#resources.add(array);
    return array;
  }

  /**
   * Page-locks memory that is there already, for example of a memory-mapped file or of another addon, so that it copies in the
   * background. The array must not be detached before the result is disposed of.
   *
   * @throws OutOfMemoryError when the system allows no more locked memory
   * @throws CudaError when a part of it is locked already
   */
  pin<T extends DType>(dtype: T, data: HostArray<T>): PinnedArray<T> {
    const { native } = this;
    if (!holds(dtype, data) || data.length === 0) {
      throw new InvalidArgumentError(
        `data must be a ${hostArray(dtype, 0).constructor.name} with elements, to be pinned as ${dtype}.`,
      );
    }
    const bytes = data.byteLength;
    const { status, value: address } = native.pinArray(data);
    if (status === MEMORY_ALLOCATION) {
      throw new OutOfMemoryError(`${bytes} bytes of host memory could not be locked.`, bytes);
    }
    this.check(`locking ${bytes} bytes of host memory`, status);
    this.#pinned += bytes;
    const array = new PinnedArray(this, dtype, data, address, () => {
      this.#resources.delete(array);
      this.#pinned -= bytes;
      this.#giveBack(() => native.unpin(address));
    });
    this.#resources.add(array);
    return array;
  }

  /** A queue of work. Streams run beside one another; events order them. */
  stream(options: StreamOptions = {}): Stream {
    const { native } = this;
    const handle = this.value('creating a stream', native.createStream());
    const stream = new Stream(
      this,
      handle,
      () => {
        this.#resources.delete(stream);
        this.#streams.delete(stream);
        this.release(native.destroyStream(handle));
      },
      options,
    );
    this.#resources.add(stream);
    this.#streams.add(stream);
    return stream;
  }

  /** A point in a stream that others can wait for; with `timed`, one whose time can be read. */
  event(options: { timed?: boolean } = {}): Event {
    const { native } = this;
    const timed = options.timed ?? false;
    const handle = this.value('creating an event', native.createEvent(timed));
    const event = new Event(this, handle, timed, () => {
      this.#resources.delete(event);
      this.release(native.destroyEvent(handle));
    });
    this.#resources.add(event);
    return event;
  }

  /** Waits for everything queued on all streams. */
  synchronize(): void {
    this.flush();
    this.check('synchronising the device', this.native.synchronizeDevice());
  }

  /** Whether products of many rows go through cuBLASLt; looked for at the first use. */
  get cublasLt(): CublasLtState {
    const { native } = this;
    if (this.#cublaslt === undefined) {
      const { open, path, whyNot, workspaceBytes } = native.openCublasLt();
      this.#cublaslt = {
        state: open ? { available: true, path } : { available: false, reason: whyNot },
        workspaceBytes,
      };
    }
    return this.#cublaslt.state;
  }

  /** Frees everything that was made by this object. */
  [Symbol.dispose](): void {
    if (this.#disposed) return;
    for (const resource of [...this.#resources]) resource[Symbol.dispose]();
    this.#disposed = true;
  }

  /** @internal The addon, with this device made current. */
  get native(): Native {
    if (this.#disposed) throw new DisposedError('This Device was disposed of.');
    if (this.#lost !== undefined) throw this.#lost;
    const native = this.#native;
    if (current.get(native) !== this.properties.index) {
      const status = native.setDevice(this.properties.index);
      if (status === SUCCESS) current.set(native, this.properties.index);
      this.check(`choosing device ${this.properties.index}`, status);
    }
    return native;
  }

  /** @internal Queues what streams hold back. */
  flush(): void {
    for (const stream of this.#streams) stream.flush();
  }

  /** @internal Bytes of scratch memory that cuBLASLt wants, one piece for each stream. */
  get cublasLtWorkspaceBytes(): number {
    return this.cublasLt.available ? this.#cublaslt!.workspaceBytes : 0;
  }

  /** @internal Registers something made on this device, to be disposed of with it. */
  adopt(resource: Disposable): void {
    this.#resources.add(resource);
  }

  /** @internal */
  disown(resource: Disposable): void {
    this.#resources.delete(resource);
  }

  /** @internal Throws unless `status` is success. */
  check(what: string, status: Status): void {
    if (status === SUCCESS) return;
    const name = this.#native.errorName(status);
    const message = `${what} failed on ${this.properties.name}: ${this.#native.errorText(status)} (${name}).`;
    if (LOST_STATUSES.has(status)) {
      this.#lost = new DeviceLostError(
        `${message} Everything on the device is lost; start a new process to use it again.`,
        status,
        name,
      );
      throw this.#lost;
    }
    if (status === MEMORY_ALLOCATION) throw new OutOfMemoryError(message, 0);
    throw new CudaError(message, status, name);
  }

  /** @internal The value of a call that has one. */
  value<T>(what: string, result: Result<T>): T {
    this.check(what, result.status);
    return result.value;
  }

  /** Frees memory, after queueing what is held back and may use it. */
  #giveBack(free: () => Status): void {
    if (this.#lost === undefined) for (const stream of this.#streams) stream.settle();
    this.release(free());
  }

  /** @internal After freeing something: a lost device is remembered, but freeing never throws. */
  release(status: Status): void {
    try {
      this.check('freeing', status);
    } catch (error) {
      if (!(error instanceof CudaError)) throw error;
    }
  }
}
