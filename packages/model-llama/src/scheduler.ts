import { EngineBusyError } from './errors.js';
import type { Sequence } from './sequence.js';

export interface SchedulerOptions {
  /** Sequences that run together. */
  maxSequences: number;
  /** Sequences that may wait. */
  maxQueue: number;
  /** Bytes that running sequences may come to need together. */
  maxBytes: number;
  /** Prompt tokens in a step while nobody decodes, at most; a multiple of `sharedPrefillTokens`. */
  prefillTokens: number;
  /** The same while others decode, so that their next tokens do not wait for long. */
  sharedPrefillTokens: number;
}

/** Rows of one sequence in a step: tokens [begin, end) of the prompt, or the one after it. */
export interface ScheduledEntry {
  sequence: Sequence;
  tokens: Int32Array;
}

/**
 * Who runs, and what of whom. Requests are admitted in the order they came, when all the memory they may need is free, so
 * that none has to be thrown out later. A step decodes one token of every running sequence that can, and prefills a
 * bounded number of prompt tokens, in turns, so that neither long prompts nor many of them hold up a stream.
 */
export class Scheduler {
  readonly #options: SchedulerOptions;
  readonly #waiting: Sequence[] = [];
  /** Admitted; those that prefill take turns in this order. */
  readonly #running: Sequence[] = [];
  #bytes = 0;

  constructor(options: SchedulerOptions) {
    this.#options = options;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  get running(): readonly Sequence[] {
    return this.#running;
  }

  get idle(): boolean {
    return this.#waiting.length === 0 && this.#running.length === 0;
  }

  /** @throws EngineBusyError when the queue is full. */
  add(sequence: Sequence): void {
    if (this.#waiting.length >= this.#options.maxQueue && !this.#admits(sequence)) {
      throw new EngineBusyError(
        `${this.#waiting.length} requests are waiting already, the most this engine keeps; try again later or raise maxQueue`,
      );
    }
    this.#waiting.push(sequence);
  }

  /** Moves waiting sequences to the running ones, in order, while there is room for them; returns those moved. */
  admit(): Sequence[] {
    const admitted: Sequence[] = [];
    while (this.#waiting.length > 0 && this.#fits(this.#waiting[0]!)) {
      const sequence = this.#waiting.shift()!;
      this.#bytes += sequence.bytes;
      this.#running.push(sequence);
      admitted.push(sequence);
    }
    return admitted;
  }

  /** The next step's rows. Sequences whose tables are behind sit it out. */
  schedule(): ScheduledEntry[] {
    const entries: ScheduledEntry[] = [];
    const decoding = this.#running.some((sequence) => !sequence.prefilling && !sequence.unprepared);
    let budget = decoding ? this.#options.sharedPrefillTokens : this.#options.prefillTokens;
    const served: Sequence[] = [];
    for (const sequence of this.#running) {
      if (sequence.unprepared) continue;
      if (!sequence.prefilling) {
        entries.push({ sequence, tokens: Int32Array.of(sequence.lastToken) });
        continue;
      }
      const begin = sequence.cached;
      const end = this.#chunkEnd(sequence, begin, budget);
      if (end <= begin) continue;
      budget -= end - begin;
      entries.push({ sequence, tokens: sequence.prompt.subarray(begin, end) });
      served.push(sequence);
    }
    // Whoever had a turn goes to the back.
    for (const sequence of served) {
      this.#running.splice(this.#running.indexOf(sequence), 1);
      this.#running.push(sequence);
    }
    return entries;
  }

  /** Forgets a sequence, waiting or running. */
  remove(sequence: Sequence): void {
    const waiting = this.#waiting.indexOf(sequence);
    if (waiting >= 0) this.#waiting.splice(waiting, 1);
    const running = this.#running.indexOf(sequence);
    if (running < 0) return;
    this.#running.splice(running, 1);
    this.#bytes -= sequence.bytes;
  }

  /** A sequence added now would run at once. */
  #admits(sequence: Sequence): boolean {
    return this.#waiting.length === 0 && this.#fits(sequence);
  }

  #fits(sequence: Sequence): boolean {
    const { maxSequences, maxBytes } = this.#options;
    return this.#running.length < maxSequences && this.#bytes + sequence.bytes <= maxBytes;
  }

  /**
   * End of the chunk of prompt that begins at `begin`; at or before it when the budget is too small for one.
   *
   * No result may depend on load. Exact attention gives a row the same bits however the prompt is cut, except that a chunk
   * of one row is computed like a decoded token: none is cut off, a chunk is rather one token longer than the budget. In
   * the sampled part of a prompt, keys are indexed between chunks, so that chunks end at fixed positions.
   */
  #chunkEnd(sequence: Sequence, begin: number, budget: number): number {
    const { sharedPrefillTokens: unit } = this.#options;
    if (begin >= sequence.exactPromptTokens) {
      const end = Math.min((Math.floor(begin / unit) + 1) * unit, sequence.prompt.length);
      return end - begin <= budget ? end : begin;
    }
    const end = sequence.exactPromptTokens;
    return end - begin <= budget + 1 ? end : Math.floor((begin + budget) / unit) * unit;
  }
}
