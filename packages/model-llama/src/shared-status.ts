import type { ModelStats, ModelStatus, TimeSplit } from './api.js';
import { TIME_PARTS } from './step-clock.js';

const FIELDS = ['running', 'waiting', 'cacheBytesUsed', 'prefixBytes', 'cacheBytes'] as const;

/** Place of the time at which the present step began, in milliseconds since 1970; 0 between steps. */
const STEP_BEGAN = FIELDS.length;

/** Place of the times of steps; not a number for parts that there are not. */
const TIMES = STEP_BEGAN + 1;

const LENGTH = TIMES + TIME_PARTS.length;

/** The worker's latest figures in memory that both threads see, so that looking at them does not wait for its step to end. */
export class SharedStatus {
  readonly buffer: SharedArrayBuffer;
  readonly #values: Float64Array;

  constructor(buffer = new SharedArrayBuffer(LENGTH * Float64Array.BYTES_PER_ELEMENT)) {
    this.buffer = buffer;
    this.#values = new Float64Array(buffer);
  }

  write(stats: ModelStats): void {
    for (const [i, field] of FIELDS.entries()) this.#values[i] = stats[field];
    for (const [i, part] of TIME_PARTS.entries()) this.#values[TIMES + i] = stats.times[part] ?? Number.NaN;
  }

  stepBegins(): void {
    this.#values[STEP_BEGAN] = Date.now();
  }

  stepEnded(): void {
    this.#values[STEP_BEGAN] = 0;
  }

  read(): ModelStatus {
    const stats = Object.fromEntries(FIELDS.map((field, i) => [field, this.#values[i]!]));
    const times = TIME_PARTS.map((part, i) => [part, this.#values[TIMES + i]!] as const);
    const began = this.#values[STEP_BEGAN]!;
    return {
      ...(stats as Omit<ModelStats, 'times'>),
      times: Object.fromEntries(times.filter(([, ms]) => !Number.isNaN(ms))) as unknown as TimeSplit,
      stepMs: began === 0 ? 0 : Math.max(Date.now() - began, 0),
    };
  }
}
