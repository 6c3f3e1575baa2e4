import { setImmediate } from 'node:timers/promises';
import type { Device } from './device.js';
import { DisposedError, InvalidArgumentError } from './errors.js';
import { type Address, NOT_READY } from './native.js';

/** A point in a stream: {@link Stream.record} puts it there, {@link Stream.wait} makes another stream wait for it. */
export class Event implements Disposable {
  readonly device: Device;
  readonly #handle: Address;
  readonly #timed: boolean;
  #free: (() => void) | undefined;

  /** @internal Use {@link Device.event}. */
  constructor(device: Device, handle: Address, timed: boolean, free: () => void) {
    this.device = device;
    this.#handle = handle;
    this.#timed = timed;
    this.#free = free;
  }

  /** @internal */
  get handle(): Address {
    if (this.#free === undefined) throw new DisposedError('This Event was disposed of.');
    return this.#handle;
  }

  /** Whether the stream has passed it (or it was never recorded). */
  get passed(): boolean {
    const status = this.device.native.queryEvent(this.handle);
    if (status === NOT_READY) return false;
    this.device.check('asking for an event', status);
    return true;
  }

  /** Blocks the thread until the stream has passed it. */
  synchronize(): void {
    this.device.check('waiting for an event', this.device.native.synchronizeEvent(this.handle));
  }

  /** Resolves when the stream has passed it; the event loop runs on meanwhile. */
  async done(): Promise<void> {
    while (!this.passed) await setImmediate();
  }

  /** Milliseconds between two passed events made with `timed`. */
  millisecondsSince(start: Event): number {
    if (!this.#timed || !start.#timed) {
      throw new InvalidArgumentError('Only events made with { timed: true } have a time.');
    }
    return this.device.value('reading a time', this.device.native.elapsed(start.handle, this.handle));
  }

  [Symbol.dispose](): void {
    const free = this.#free;
    this.#free = undefined;
    free?.();
  }
}
