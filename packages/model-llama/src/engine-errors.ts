import { MagicPigError } from './errors.js';

/** One request failed while it ran (its logits were not numbers, memory ran out); others go on. */
export class GenerationFailedError extends MagicPigError {
  constructor(message: string, options?: ErrorOptions) {
    super('GENERATION_FAILED', `Generation failed: ${message}`, options);
  }
}

/** The thread that owns the model ended unexpectedly, and every request with it. Load the model again. */
export class WorkerCrashedError extends MagicPigError {
  constructor(message: string, options?: ErrorOptions) {
    super('WORKER_CRASHED', message, options);
  }
}
