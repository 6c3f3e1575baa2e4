import type { Device } from './device.js';
import { DisposedError } from './errors.js';
import type { Address } from './native.js';

/**
 * A stretch of work captured from a stream, replayed with one call: {@link Stream.capture} makes it, {@link Stream.launch}
 * runs it. The arrays it uses must live as long as it is launched.
 */
export class Graph implements Disposable {
  readonly device: Device;
  readonly #handle: Address;
  #free: (() => void) | undefined;

  /** @internal Use {@link Stream.capture}. */
  constructor(device: Device, handle: Address, free: () => void) {
    this.device = device;
    this.#handle = handle;
    this.#free = free;
  }

  /** @internal */
  get handle(): Address {
    if (this.#free === undefined) throw new DisposedError('This Graph was disposed of.');
    return this.#handle;
  }

  [Symbol.dispose](): void {
    const free = this.#free;
    this.#free = undefined;
    free?.();
  }
}
