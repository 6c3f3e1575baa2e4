import type { ModelStats, ModelStatus } from './api.js';

const FIELDS = ['running', 'waiting', 'cacheBytesUsed', 'prefixBytes', 'cacheBytes'] as const;

/** Place of the time at which the present step began, in milliseconds since 1970; 0 between steps. */
const STEP_BEGAN = FIELDS.length;

/** The worker's latest figures in memory that both threads see, so that looking at them does not wait for its step to end. */
export class SharedStatus {
  readonly buffer: SharedArrayBuffer;
  readonly #values: Float64Array;

  constructor(buffer = new SharedArrayBuffer((FIELDS.length + 1) * Float64Array.BYTES_PER_ELEMENT)) {
    this.buffer = buffer;
    this.#values = new Float64Array(buffer);
  }

  write(stats: ModelStats): void {
    for (const [i, field] of FIELDS.entries()) this.#values[i] = stats[field];
  }

  stepBegins(): void {
    this.#values[STEP_BEGAN] = Date.now();
  }

  stepEnded(): void {
    this.#values[STEP_BEGAN] = 0;
  }

  read(): ModelStatus {
    const stats = Object.fromEntries(FIELDS.map((field, i) => [field, this.#values[i]!])) as unknown as ModelStats;
    const began = this.#values[STEP_BEGAN]!;
    return { ...stats, stepMs: began === 0 ? 0 : Math.max(Date.now() - began, 0) };
  }
}
