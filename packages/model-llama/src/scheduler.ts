import { EngineBusyError } from './errors.js';
import type { Sequence } from './sequence.js';
import { type PrefillBudget, pairsOf, type Work } from './step-pace.js';

export interface SchedulerOptions {
  /** Sequences that run together. */
  maxSequences: number;
  /** Sequences that may wait. */
  maxQueue: number;
  /** Whether there is memory for a sequence beside those that run. */
  fits(sequence: Sequence, running: readonly Sequence[]): boolean;
}

/** The sampled part of a prompt is cut at multiples of this. */
export const SAMPLED_CHUNK_TOKENS = 128;

/** Rows of one sequence in a step: tokens [begin, end) of the prompt, or the one after it. */
export interface ScheduledEntry {
  sequence: Sequence;
  tokens: Int32Array;
}

/**
 * Who runs, and what of whom. Requests are admitted in the order they came, when there is memory for all they may need.
 * A step decodes one token of every running sequence that can, and prefills a bounded number of prompt tokens, in turns, so
 * that neither long prompts nor many of them hold up a stream.
 */
export class Scheduler {
  readonly #options: SchedulerOptions;
  readonly #waiting: Sequence[] = [];
  /** Admitted; those that prefill take turns in this order. */
  readonly #running: Sequence[] = [];

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

  /** Sequences that wait for their next token, be it that their tables are behind. */
  get decoding(): number {
    return this.#running.filter((sequence) => !sequence.prefilling).length;
  }

  /** @throws EngineBusyError when the queue is full and the sequence could not run at once. */
  add(sequence: Sequence): void {
    const { maxQueue } = this.#options;
    if (this.#waiting.length >= maxQueue && (this.#waiting.length > 0 || !this.#admits(sequence))) {
      throw new EngineBusyError(
        `${this.#waiting.length} requests are waiting already, the most this engine keeps; try again later or raise maxQueue`,
      );
    }
    this.#waiting.push(sequence);
  }

  /** Moves the sequence that waits longest to the running ones, if there is room for it. */
  admit(): Sequence | undefined {
    if (this.#waiting.length === 0 || !this.#admits(this.#waiting[0]!)) return undefined;
    const sequence = this.#waiting.shift()!;
    this.#running.push(sequence);
    return sequence;
  }

  /**
   * The next step's rows. Sequences whose tables are behind sit it out.
   *
   * @param budget Of prompts it is kept to, but for one token or a chunk of a sampled part.
   */
  schedule(budget: PrefillBudget): ScheduledEntry[] {
    const entries: ScheduledEntry[] = [];
    const served: Sequence[] = [];
    for (const sequence of this.#running) {
      if (sequence.unprepared) continue;
      if (!sequence.prefilling) {
        entries.push({ sequence, tokens: Int32Array.of(sequence.answer.at(-1)!) });
        continue;
      }
      const begin = sequence.cached;
      const end = chunkEnd(sequence, begin, budget.tokens(begin), served.length === 0);
      if (end <= begin) continue;
      budget.take(begin, end);
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
    if (running >= 0) this.#running.splice(running, 1);
  }

  #admits(sequence: Sequence): boolean {
    return this.#running.length < this.#options.maxSequences && this.#options.fits(sequence, this.#running);
  }
}

/**
 * End of the chunk of prompt that begins at `begin`; at or before it when `left` tokens are too few for one.
 *
 * No result may depend on load. Exact attention gives a row the same bits however the prompt is cut, except that a chunk of
 * one row is computed like a decoded token: none is cut off, a chunk is rather one token longer than the budget. In the
 * sampled part of a prompt, keys are indexed between chunks, so that chunks end at fixed positions.
 */
function chunkEnd(sequence: Sequence, begin: number, left: number, isFirst: boolean): number {
  const { exactPromptTokens: exact, prompt } = sequence;
  if (begin >= exact) {
    const next = (Math.floor(begin / SAMPLED_CHUNK_TOKENS) + 1) * SAMPLED_CHUNK_TOKENS;
    const end = Math.min(next, prompt.length);
    return end - begin <= left || isFirst ? end : begin;
  }
  if (exact - begin <= left + 1) return exact;
  return left < 2 ? begin : begin + left;
}

/** What there is to do in a step that has not run yet. */
export function workOf(entries: readonly ScheduledEntry[]): Work {
  const work = { promptTokens: 0, pairs: 0, decoded: 0 };
  for (const { sequence, tokens } of entries) {
    if (sequence.prefilling) {
      work.promptTokens += tokens.length;
      work.pairs += pairsOf(sequence.cached, sequence.cached + tokens.length);
    } else {
      work.decoded += 1;
    }
  }
  return work;
}
