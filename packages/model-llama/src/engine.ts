import type { AttentionOptions, ForwardOptions, GenerateOptions, ModelStats } from './api.js';
import { resolveAttention } from './attention-options.js';
import type { Tokenizer } from './checkpoint.js';
import { GenerationFailedError } from './engine-errors.js';
import { CacheTooSmallError, ContextTooLongError, InvalidRequestError, MagicPigError } from './errors.js';
import { TraceRecorder } from './forward-trace.js';
import { IndexingBeside } from './indexing-beside.js';
import type { KvCache } from './kv-cache.js';
import type { ForwardResult, Llama } from './llama.js';
import { Memory, type PrefixReuse } from './memory.js';
import type { PolicyFactory } from './policy-factory.js';
import { Sampler } from './sampler.js';
import { type ScheduledEntry, Scheduler, workOf } from './scheduler.js';
import { Sequence, type SequenceListener } from './sequence.js';
import type { Snapshots } from './snapshots.js';
import { StepClock } from './step-clock.js';
import { MOST_PREFILL_TOKENS, operationsOf, StepPace } from './step-pace.js';
import { StopStrings } from './stop-strings.js';

/** A step's time while nobody waits for a next token: how late an abort or a new request is seen, at most. */
const LONE_STEP_MS = 1000;

/**
 * A request that does not say how many tokens it wants gets memory for so many, and for more as long as that is not more than
 * this share of all.
 */
const UNASKED_TOKENS = 1024;
const UNASKED_SHARE = 0.25;

/** Of a step's time, for tables that are not due yet. */
const AHEAD_SHARE = 1 / 4;

export interface EngineOptions {
  llama: Llama;
  cache: KvCache;
  policies: Pick<PolicyFactory, 'policy'>;
  tokenizer: Pick<Tokenizer, 'stream' | 'eosTokens' | 'vocabSize'>;
  /** Longest context, prompt and answer. */
  contextTokens: number;
  /** Bytes for cache and tables together. */
  cacheBytes: number;
  maxSequences: number;
  maxQueue: number;
  /** Milliseconds that a step may take while streams wait for their next tokens, unless decoding alone takes longer. */
  maxStallMs: number;
  prefixCache: PrefixReuse;
  /** Keeps the prefix cache across restarts. */
  snapshots?: Snapshots | undefined;
  /** Policy of requests that name none. */
  attention: AttentionOptions;
}

/** Options of one request; `signal` stays with whoever calls {@link Engine.abort}. */
export type EngineRequest = Omit<GenerateOptions, 'signal'> & {
  prompt: Int32Array;
  /** Only run the prompt through the model, and record that. */
  trace?: Omit<ForwardOptions, 'attention' | 'signal'>;
};

/**
 * Continuous batching: requests join and leave between steps, and every step is one forward pass over rows of all that run.
 * Synchronous, one step a call; whoever drives it decides when to look for new requests.
 */
export class Engine implements Disposable {
  readonly #options: EngineOptions;
  readonly #memory: Memory;
  readonly #scheduler: Scheduler;
  readonly #pace: StepPace;
  readonly #clock: StepClock;
  readonly #sequences = new Map<number, Sequence>();

  constructor(options: EngineOptions) {
    this.#options = options;
    const { cache, cacheBytes: maxBytes, prefixCache: reuse, snapshots, maxSequences, maxQueue } = options;
    this.#memory = new Memory({ cache, maxBytes, reuse, snapshots });
    const fits = this.#memory.fits.bind(this.#memory);
    this.#scheduler = new Scheduler({ maxSequences, maxQueue, fits });
    const { config, maxRows } = options.llama;
    this.#pace = new StepPace(operationsOf(config), maxRows - Engine.maxRows(maxSequences, 0));
    this.#clock = new StepClock(options.llama, cache.times);
  }

  /** Rows of a step with so many prompt tokens at most, for the size of a {@link Llama}'s activations. */
  static maxRows(maxSequences: number, prefillTokens = MOST_PREFILL_TOKENS): number {
    return prefillTokens + 1 + maxSequences;
  }

  get idle(): boolean {
    return this.#scheduler.idle;
  }

  get stats(): ModelStats {
    const { running, waiting } = this.#scheduler;
    return {
      running: running.length,
      waiting,
      cacheBytesUsed: this.#memory.bytes(running),
      prefixBytes: this.#memory.prefixes?.bytes ?? 0,
      cacheBytes: this.#options.cacheBytes,
      times: this.#clock.total,
    };
  }

  /**
   * Queues a request. Its listener is called from {@link step}.
   *
   * @param id Names the request to {@link abort}.
   * @throws InvalidRequestError, ContextTooLongError, CacheTooSmallError, EngineBusyError; nothing is queued then.
   */
  submit(id: number, request: EngineRequest, listener: SequenceListener): void {
    const { llama, tokenizer, contextTokens, policies } = this.#options;
    const { prompt } = request;
    if (prompt.length === 0) throw new InvalidRequestError('the prompt has no tokens', 'prompt');
    for (const token of prompt) {
      if (token < 0 || token >= llama.config.vocabSize) {
        throw new InvalidRequestError(
          `token ${token} of the prompt is not in 0..${llama.config.vocabSize - 1}`,
          'prompt',
        );
      }
    }
    if (prompt.length >= contextTokens) {
      throw new ContextTooLongError(
        `the prompt has ${prompt.length} tokens and the context is ${contextTokens}, which must hold the answer too; ` +
          'shorten the prompt or load the model with a larger contextTokens',
        prompt.length,
        contextTokens,
      );
    }
    const settings = resolveAttention(request.attention ?? this.#options.attention, llama.config.layers);
    const policy = policies.policy(settings);
    const bytesFor = (tokens: number) => this.#options.cache.bytesFor(tokens) + policy.bytesFor(tokens);
    const maxTokens = this.#maxTokens(request, bytesFor);
    const recorder = request.trace && new TraceRecorder(prompt, request.trace, llama.config);
    const sequence = new Sequence({
      id,
      prompt,
      maxTokens,
      eosTokens: request.ignoreEos ? new Set() : tokenizer.eosTokens,
      policy,
      policyKey: JSON.stringify(settings),
      sampler: new Sampler(prompt, request),
      stops: new StopStrings(checkStops(request.stop)),
      text: tokenizer.stream(),
      listener,
      recorder,
    });
    this.#scheduler.add(sequence);
    this.#sequences.set(id, sequence);
    this.#admit(); // so that only those wait that must
  }

  /** Ends a request at once and frees its memory; its listener hears nothing more. Unknown ids are ignored. */
  abort(id: number): void {
    const sequence = this.#sequences.get(id);
    if (sequence) this.#release(sequence, { keep: true });
  }

  /**
   * One forward pass, or a piece of indexing.
   *
   * @returns Whether there is more to do.
   */
  step(): boolean {
    return this.#clock.step(() => this.#step());
  }

  #step(): boolean {
    const begin = performance.now();
    this.#admit();
    const { decoding, running } = this.#scheduler;
    const stepMs = decoding > 0 ? this.#options.maxStallMs : LONE_STEP_MS;
    this.#prepare(stepMs);
    this.#prepareAhead(stepMs);
    // Those that begin alike go on from what one of them has computed.
    const prefilling = running.filter((sequence) => sequence.prefilling);
    if (prefilling.length > 1) for (const one of prefilling) this.#guard(one, () => this.#memory.catchUp(one));
    const left = begin + stepMs - performance.now();
    const entries = this.#scheduler.schedule(this.#pace.prefill(left, decoding));
    if (entries.length > 0) this.#run(entries, stepMs / 2);
    return !this.#scheduler.idle;
  }

  /**
   * Writes one snapshot of what is kept, if there is any that has none. Takes about a second for a gigabyte.
   *
   * @returns Whether there was.
   */
  saveSnapshot(): boolean {
    return this.#memory.saveSnapshot();
  }

  /** Drops what still runs and frees its memory. */
  [Symbol.dispose](): void {
    for (const sequence of [...this.#sequences.values()]) this.#release(sequence, { keep: false });
    this.#memory[Symbol.dispose]();
  }

  /** Tokens to generate at most: what was asked for, the context leaves, and, when nothing was asked for, memory allows. */
  #maxTokens({ prompt, maxTokens }: EngineRequest, bytesFor: (tokens: number) => number): number {
    const { contextTokens, cacheBytes } = this.#options;
    if (maxTokens !== undefined && (!Number.isInteger(maxTokens) || maxTokens < 1)) {
      throw new InvalidRequestError(
        `maxTokens must be a positive integer, not ${JSON.stringify(maxTokens)}`,
        'maxTokens',
      );
    }
    let most = Math.min(maxTokens ?? Infinity, contextTokens - prompt.length);
    if (maxTokens === undefined) {
      // Others are to run beside it.
      const answerBytes = (tokens: number) => bytesFor(prompt.length + tokens) - bytesFor(prompt.length);
      while (most > UNASKED_TOKENS && answerBytes(most) > UNASKED_SHARE * cacheBytes) {
        most = Math.max(Math.floor(most / 2), UNASKED_TOKENS);
      }
      while (most > 1 && bytesFor(prompt.length + most) > cacheBytes) most = Math.floor(most / 2);
    }
    const bytes = bytesFor(prompt.length + most);
    if (bytes > cacheBytes) {
      throw new CacheTooSmallError(
        `${prompt.length} prompt tokens and ${most} generated ones need ${bytes} bytes of cache and tables, and there are ` +
          `${cacheBytes} in all; ask for fewer tokens or load the model with a larger cacheBytes`,
        bytes,
        cacheBytes,
      );
    }
    return most;
  }

  #admit(): void {
    for (let next = this.#scheduler.admit(); next; next = this.#scheduler.admit()) {
      const sequence = next;
      sequence.admitted = performance.now();
      this.#guard(sequence, () => this.#memory.open(sequence));
    }
  }

  /** Brings tables up to date, a piece a step and in equal shares, so that a long prompt's do not hold up other streams. */
  #prepare(stepMs: number): void {
    const behind = this.#scheduler.running.filter(({ unprepared }) => unprepared);
    const waiting = behind.filter((sequence) => sequence.waiting);
    // The other half of the time is for the forward pass.
    const keys = this.#pace.indexKeys(stepMs / 2 / (behind.length - waiting.length));
    // What some wait for may be done by now, and others may find that they need only wait.
    for (const sequence of [...behind.filter((one) => !waiting.includes(one)), ...waiting]) {
      if (sequence.waiting) continue;
      const begin = performance.now();
      this.#guard(sequence, () => sequence.memory!.attention.prepare(keys));
      const ms = performance.now() - begin;
      this.#clock.index(ms);
      // What was left to do may have been less than allowed.
      if (sequence.unprepared) this.#pace.took({ indexKeys: keys }, ms);
    }
    if (behind.length > 0) this.#memory.trim(this.#scheduler.running);
  }

  /** What will be due later, for sequences that decode: a little a step, so that their streams need not wait for it. */
  #prepareAhead(stepMs: number): void {
    const decoding = this.#scheduler.running.filter(({ prefilling, unprepared }) => !prefilling && !unprepared);
    const keys = this.#pace.indexKeys((AHEAD_SHARE * stepMs) / decoding.length);
    const begin = performance.now();
    for (const one of decoding) {
      // The last token of an answer does not come into the cache.
      this.#guard(one, () => one.memory!.attention.prepareAhead?.(keys, one.mostTokens - 1));
    }
    if (decoding.length > 0) this.#clock.index(performance.now() - begin);
  }

  /** @param besideMs Of the host's time, for what it does while the device computes. */
  #run(entries: ScheduledEntry[], besideMs: number): void {
    const begin = performance.now();
    const { llama } = this.#options;
    for (const { sequence } of entries)
      if (!sequence.prefilling && sequence.decoding === 0) this.#decodes(sequence, begin);
    const work = workOf(entries);
    const wanted = entries.map(({ sequence, tokens }) => logitsOf(sequence, tokens.length));
    const indexing = new IndexingBeside(besideMs);
    let result: ForwardResult;
    try {
      result = llama.forward(
        entries.map(({ sequence, tokens }, i) => ({
          sequence: sequence.memory!.cache,
          tokens,
          promptTokens: sequence.prompt.length,
          attention: sequence.sampling ? sequence.memory!.attention : undefined,
          logits: wanted[i]!,
          tap: sequence.recorder?.beginAt(sequence.cached),
          beside: llama.overlaps ? indexing.of(entries[i]!) : undefined,
        })),
      );
    } catch (error) {
      // One of them is to blame: alone, the others get the results they would have got together.
      if (entries.length > 1) for (const entry of entries) this.#run([entry], besideMs);
      else this.#fail(entries[0]!.sequence, error);
      return;
    }
    const ms = performance.now() - begin;
    this.#clock.forward(ms - indexing.ms);
    this.#clock.index(indexing.ms);
    // Which of the two took how long is not known.
    if (indexing.ms === 0) this.#pace.took(work, ms);
    else this.#memory.trim(this.#scheduler.running);
    let next = 0;
    for (const [i, { sequence, tokens }] of entries.entries()) {
      const count = { none: 0, last: 1, all: tokens.length }[wanted[i]!];
      const logits = result.logits.slice(next, next + count);
      next += count;
      this.#guard(sequence, () => this.#advance(sequence, tokens.length, logits, result.keysRead[i] ?? 0));
    }
  }

  /** Takes in one sequence's part of a step's results: the only place where a sequence moves on. */
  #advance(sequence: Sequence, rows: number, logits: readonly Float32Array[], keysRead: number): void {
    const { prompt, answer, listener, eosTokens, memory, cached } = sequence;
    const prefilled = cached - rows < prompt.length;
    if (prefilled) {
      this.#memory.remember(sequence);
      listener.onEvent({ type: 'prefill', done: cached, total: prompt.length });
    } else {
      memory!.attention.afterDecode(cached, keysRead);
    }
    if (sequence.recorder) {
      sequence.recorder.takeLogits(cached, logits);
      if (!sequence.prefilling) this.#finishTrace(sequence, sequence.recorder);
      return;
    }
    if (!logits[0]) return;

    const { token, logprob } = sequence.sampler.sample(logits[0]);
    if (eosTokens.has(token)) {
      this.#finish(sequence, 'stop');
      return;
    }
    answer.push(token);
    const { text, stopped } = sequence.stops.push(sequence.text.push(token));
    const { samplingError } = memory!.attention;
    listener.onEvent({ type: 'token', token, text, logprob, ...(samplingError !== undefined && { samplingError }) });
    if (stopped) this.#finish(sequence, 'stop', '');
    else if (answer.length === sequence.maxTokens) this.#finish(sequence, 'length');
  }

  /** @param heldText Text not shown yet; what tokenizer and stop strings held back when absent. */
  #finish(sequence: Sequence, finishReason: 'stop' | 'length', heldText?: string): void {
    const { prompt, answer, reusedTokens, submitted, admitted, memory, listener } = sequence;
    const now = performance.now();
    const decoding = sequence.decoding || now;
    const attention = memory!.attention.report();
    this.#release(sequence, { keep: true });
    let text = heldText;
    if (text === undefined) {
      const rest = sequence.stops.push(sequence.text.flush());
      text = rest.text + sequence.stops.flush();
    }
    listener.onEvent({
      type: 'end',
      finishReason,
      text,
      usage: { promptTokens: prompt.length, cachedTokens: reusedTokens, completionTokens: answer.length },
      attention,
      timing: {
        queueMs: admitted - submitted,
        prefillMs: decoding - admitted,
        decodeMs: now - decoding,
        prefillTokensPerSecond: rate(prompt.length - reusedTokens, decoding - admitted),
        // The first token comes out of the prefill.
        decodeTokensPerSecond: rate(attention.decodeSteps, now - decoding),
        split: this.#clock.since(sequence.decodingSince ?? this.#clock.total),
      },
    });
  }

  /** The first decode step begins. */
  #decodes(sequence: Sequence, now: number): void {
    sequence.decoding = now;
    sequence.decodingSince = this.#clock.total;
  }

  #finishTrace(sequence: Sequence, { trace }: TraceRecorder): void {
    this.#release(sequence, { keep: true });
    sequence.listener.onTrace?.(trace);
  }

  /** Runs one sequence's part of a step; what it throws ends that sequence alone. */
  #guard(sequence: Sequence, work: () => void): void {
    try {
      work();
    } catch (error) {
      this.#fail(sequence, error);
    }
  }

  #fail(sequence: Sequence, error: unknown): void {
    this.#release(sequence, { keep: false });
    const known = error instanceof MagicPigError;
    const message = error instanceof Error ? error.message : String(error);
    sequence.listener.onError(known ? error : new GenerationFailedError(message, { cause: error }));
  }

  #release(sequence: Sequence, options: { keep: boolean }): void {
    this.#sequences.delete(sequence.id);
    this.#scheduler.remove(sequence);
    this.#memory.close(sequence, options);
  }
}

/** Logits that a step over the next `rows` tokens of a sequence must give. */
function logitsOf({ recorder, prompt, cached }: Sequence, rows: number): 'none' | 'last' | 'all' {
  const end = cached + rows;
  if (recorder) return recorder.logitsOf(end);
  return end < prompt.length ? 'none' : 'last';
}

/** Per second; 0 when nothing was done. */
function rate(count: number, milliseconds: number): number {
  return milliseconds > 0 ? (count * 1000) / milliseconds : 0;
}

function checkStops(stop: unknown): string[] {
  if (stop === undefined) return [];
  if (!Array.isArray(stop) || stop.some((text) => typeof text !== 'string' || text === '')) {
    throw new InvalidRequestError(`stop must be an array of non-empty strings, not ${JSON.stringify(stop)}`, 'stop');
  }
  return stop;
}
