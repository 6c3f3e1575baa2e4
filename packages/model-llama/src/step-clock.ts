import type { TimeSplit } from './api.js';
import type { DeviceTimes } from './kv-cache.js';
import type { Llama } from './llama.js';

/** The parts of a {@link TimeSplit}; which of them there are depends on the backend. */
export const TIME_PARTS = [
  'denseMs',
  'gpuMs',
  'transferMs',
  'idleMs',
  'selectMs',
  'attendMs',
  'indexMs',
  'otherMs',
] as const satisfies readonly (keyof TimeSplit)[];

/** Adds up where the time of an engine's steps goes. */
export class StepClock {
  readonly #llama: Pick<Llama, 'attendMs'>;
  readonly #device: DeviceTimes | undefined;
  #forwardMs = 0;
  #indexMs = 0;
  #otherMs = 0;

  /** @param device Of the cache, when it is on one. */
  constructor(llama: Pick<Llama, 'attendMs'>, device: DeviceTimes | undefined) {
    this.#llama = llama;
    this.#device = device;
  }

  /** Runs a step; what is not measured inside it is the rest. */
  step<T>(run: () => T): T {
    const [begin, inside] = [performance.now(), this.#forwardMs + this.#indexMs];
    const result = run();
    this.#otherMs += performance.now() - begin - (this.#forwardMs + this.#indexMs - inside);
    return result;
  }

  /** A forward pass took so long. */
  forward(ms: number): void {
    this.#forwardMs += ms;
  }

  /** Building indexes took so long. */
  index(ms: number): void {
    this.#indexMs += ms;
  }

  /** Of all steps so far. */
  get total(): TimeSplit {
    const rest = { indexMs: this.#indexMs, otherMs: this.#otherMs };
    if (this.#device) {
      const { gpu, transfer, idle, select, attend } = this.#device;
      return { gpuMs: gpu, transferMs: transfer, idleMs: idle, selectMs: select, attendMs: attend, ...rest };
    }
    const { attendMs } = this.#llama;
    return { denseMs: this.#forwardMs - attendMs, attendMs, ...rest };
  }

  /** Of the steps since `before`, a {@link total}. */
  since(before: TimeSplit): TimeSplit {
    const parts = Object.entries(this.total).map(([part, ms]) => [part, ms - before[part as keyof TimeSplit]!]);
    return Object.fromEntries(parts) as TimeSplit;
  }
}
