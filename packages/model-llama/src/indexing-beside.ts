import type { BesideStep } from './llama.js';
import type { ScheduledEntry } from './scheduler.js';

/** Makes the tables of prompts while a device computes their last tokens: of each layer when the next one is under way. */
export class IndexingBeside {
  /** Milliseconds that the host took. */
  ms = 0;
  readonly #mostMs: number;

  /** @param mostMs Once it has taken so long, the rest waits until after the step. */
  constructor(mostMs: number) {
    this.#mostMs = mostMs;
  }

  /** Before the step: what to do beside an entry that ends the exact part of a prompt. */
  of({ sequence, tokens }: ScheduledEntry): BesideStep | undefined {
    const { prompt, exactPromptTokens, maxTokens } = sequence;
    const { attention } = sequence.memory!;
    const ends = sequence.cached + tokens.length === exactPromptTokens;
    const samples = maxTokens > 1 || exactPromptTokens < prompt.length;
    if (!ends || !samples || !attention.abandon) return undefined;
    return {
      run: (layers) => {
        if (this.ms > this.#mostMs) return;
        const begin = performance.now();
        attention.prepare(Number.POSITIVE_INFINITY, layers);
        this.ms += performance.now() - begin;
      },
      abandon: () => attention.abandon!(),
    };
  }
}
