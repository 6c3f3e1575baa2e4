import type { Device } from '../device.js';
import type { Event } from '../event.js';
import type { Stream } from '../stream.js';

/** Measures by events how long a stream worked, stretch by stretch. Nobody waits for it: stretches count when they have passed. */
export class DeviceClock implements Disposable {
  readonly #device: Device;
  readonly #stream: Stream;
  readonly #spare: Event[] = [];
  readonly #pending: { start: Event; end: Event }[] = [];
  #started: Event | undefined;
  #milliseconds = 0;

  constructor(device: Device, stream: Stream) {
    this.#device = device;
    this.#stream = stream;
  }

  /** A stretch begins with what is queued next. Nothing happens while one is going on. */
  start(): void {
    this.#started ??= this.#mark();
  }

  /** The stretch ends with what is queued now. */
  stop(): void {
    if (this.#started === undefined) return;
    const start = this.#started;
    this.#started = undefined;
    this.#pending.push({ start, end: this.#mark() });
    this.#collect();
  }

  /** Milliseconds of the stretches that have passed since the last call. */
  take(): number {
    this.#collect();
    const milliseconds = this.#milliseconds;
    this.#milliseconds = 0;
    return milliseconds;
  }

  #collect(): void {
    while (this.#pending[0]?.end.passed) {
      const { start, end } = this.#pending.shift()!;
      this.#milliseconds += end.millisecondsSince(start);
      this.#spare.push(start, end);
    }
  }

  /** The stretch does not count. */
  abandon(): void {
    if (this.#started) this.#spare.push(this.#started);
    this.#started = undefined;
  }

  [Symbol.dispose](): void {
    this.abandon();
    const events = [...this.#spare.splice(0), ...this.#pending.splice(0).flatMap(({ start, end }) => [start, end])];
    for (const event of events) event[Symbol.dispose]();
  }

  #mark(): Event {
    const event = this.#spare.pop() ?? this.#device.event({ timed: true });
    try {
      this.#stream.record(event);
      return event;
    } catch (error) {
      this.#spare.push(event);
      throw error;
    }
  }
}
