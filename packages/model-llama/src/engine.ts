import type { AttentionOptions, GenerateOptions, ModelStats } from './api.js';
import { resolveAttention } from './attention-options.js';
import type { Tokenizer } from './checkpoint.js';
import { GenerationFailedError } from './engine-errors.js';
import { CacheTooSmallError, ContextTooLongError, InvalidRequestError, MagicPigError } from './errors.js';
import type { KvCache } from './kv-cache.js';
import type { ForwardResult, Llama } from './llama.js';
import type { PolicyFactory } from './policy-factory.js';
import { Sampler } from './sampler.js';
import { type ScheduledEntry, Scheduler } from './scheduler.js';
import { Sequence, type SequenceListener } from './sequence.js';
import { StopStrings } from './stop-strings.js';

/** Prompt tokens in a step while nobody decodes: more would not make the matrix products any faster. */
const PREFILL_TOKENS = 512;

/** The same while others decode: their streams wait for a fraction of a second, and the prefill is some 10% slower. */
const SHARED_PREFILL_TOKENS = 128;

/**
 * Keys (for each layer and KV head) indexed between two steps, at most: about a tenth of a second of hashing, so that
 * building the tables of a long prompt does not stall the other streams.
 */
const INDEX_KEYS = 32_768;

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
  /** Policy of requests that name none. */
  attention: AttentionOptions;
}

/** Options of one request; `signal` stays with whoever calls {@link Engine.abort}. */
export type EngineRequest = Omit<GenerateOptions, 'signal'> & { prompt: Int32Array };

/**
 * Continuous batching: requests join and leave between steps, and every step is one forward pass over rows of all that run.
 * Synchronous, one step a call; whoever drives it decides when to look for new requests.
 */
export class Engine implements Disposable {
  readonly #options: EngineOptions;
  readonly #scheduler: Scheduler;
  readonly #sequences = new Map<number, Sequence>();

  constructor(options: EngineOptions) {
    this.#options = options;
    const { maxSequences, maxQueue, cacheBytes: maxBytes } = options;
    this.#scheduler = new Scheduler({
      maxSequences,
      maxQueue,
      maxBytes,
      prefillTokens: PREFILL_TOKENS,
      sharedPrefillTokens: SHARED_PREFILL_TOKENS,
    });
  }

  /** Rows of a step at most, for the size of a {@link Llama}'s activations. */
  static maxRows(maxSequences: number): number {
    return PREFILL_TOKENS + 1 + maxSequences;
  }

  get idle(): boolean {
    return this.#scheduler.idle;
  }

  get stats(): ModelStats {
    let cacheBytesUsed = this.#options.cache.bytes;
    for (const { memory } of this.#scheduler.running) cacheBytesUsed += memory?.attention.bytes ?? 0;
    return {
      running: this.#scheduler.running.length,
      waiting: this.#scheduler.waiting,
      cacheBytesUsed,
      cacheBytes: this.#options.cacheBytes,
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
    const policy = policies.policy(resolveAttention(request.attention ?? this.#options.attention, llama.config.layers));
    const bytesFor = (tokens: number) => this.#options.cache.bytesFor(tokens) + policy.bytesFor(tokens);
    const maxTokens = this.#maxTokens(request, bytesFor);
    const sequence = new Sequence({
      id,
      prompt,
      maxTokens,
      eosTokens: request.ignoreEos ? new Set() : tokenizer.eosTokens,
      policy,
      sampler: new Sampler(prompt, request),
      stops: new StopStrings(checkStops(request.stop)),
      text: tokenizer.stream(),
      bytes: bytesFor(prompt.length + maxTokens),
      listener,
    });
    this.#scheduler.add(sequence);
    this.#sequences.set(id, sequence);
    this.#admit(); // so that only those wait that must
  }

  /** Ends a request at once and frees its memory; its listener hears nothing more. Unknown ids are ignored. */
  abort(id: number): void {
    const sequence = this.#sequences.get(id);
    if (sequence) this.#release(sequence);
  }

  /**
   * One forward pass, or a piece of indexing.
   *
   * @returns Whether there is more to do.
   */
  step(): boolean {
    this.#admit();
    this.#prepare();
    const entries = this.#scheduler.schedule();
    if (entries.length > 0) this.#run(entries);
    return !this.#scheduler.idle;
  }

  /** Drops what still runs and frees its memory. */
  [Symbol.dispose](): void {
    for (const sequence of [...this.#sequences.values()]) this.#release(sequence);
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
    if (maxTokens === undefined)
      while (most > 1 && bytesFor(prompt.length + most) > cacheBytes) most = Math.floor(most / 2);
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
    for (const sequence of this.#scheduler.admit()) {
      sequence.admitted = performance.now();
      this.#guard(sequence, () => {
        const cache = this.#options.cache.open();
        try {
          sequence.memory = { cache, attention: sequence.policy.open(cache) };
        } catch (error) {
          cache[Symbol.dispose]();
          throw error;
        }
      });
    }
  }

  /** Brings tables up to date, a piece a step and in equal shares, so that a long prompt's do not hold up other streams. */
  #prepare(): void {
    const behind = this.#scheduler.running.filter(({ unprepared }) => unprepared);
    for (const sequence of behind) {
      this.#guard(sequence, () => sequence.memory!.attention.prepare(INDEX_KEYS / behind.length));
    }
  }

  #run(entries: ScheduledEntry[]): void {
    const now = performance.now();
    for (const { sequence } of entries) if (!sequence.prefilling && sequence.decoding === 0) sequence.decoding = now;
    let result: ForwardResult;
    try {
      result = this.#options.llama.forward(
        entries.map(({ sequence, tokens }) => ({
          sequence: sequence.memory!.cache,
          tokens,
          promptTokens: sequence.prompt.length,
          attention: sequence.sampling ? sequence.memory!.attention : undefined,
          logits: sequence.cached + tokens.length < sequence.prompt.length ? 'none' : 'last',
        })),
      );
    } catch (error) {
      // One of them is to blame: alone, the others get the results they would have got together.
      if (entries.length > 1) for (const entry of entries) this.#run([entry]);
      else this.#fail(entries[0]!.sequence, error);
      return;
    }
    let next = 0;
    for (const [i, { sequence, tokens }] of entries.entries()) {
      const logits = sequence.prefilling ? undefined : result.logits[next++]!;
      this.#guard(sequence, () => this.#advance(sequence, tokens.length, logits, result.keysRead[i] ?? 0));
    }
  }

  /** Takes in one sequence's part of a step's results: the only place where a sequence moves on. */
  #advance(sequence: Sequence, rows: number, logits: Float32Array | undefined, keysRead: number): void {
    const { prompt, listener, eosTokens, memory } = sequence;
    const { cached } = sequence;
    const prefilled = cached - rows < prompt.length;
    if (prefilled) {
      listener.onEvent({ type: 'prefill', done: cached, total: prompt.length });
    } else {
      memory!.attention.afterDecode(cached, keysRead);
    }
    if (!logits) return;

    const { token, logprob } = sequence.sampler.sample(logits);
    if (eosTokens.has(token)) {
      this.#finish(sequence, 'stop');
      return;
    }
    sequence.lastToken = token;
    sequence.generated += 1;
    const { text, stopped } = sequence.stops.push(sequence.text.push(token));
    listener.onEvent({ type: 'token', token, text, logprob });
    if (stopped) this.#finish(sequence, 'stop', '');
    else if (sequence.generated === sequence.maxTokens) this.#finish(sequence, 'length');
  }

  /** @param heldText Text not shown yet; what tokenizer and stop strings held back when absent. */
  #finish(sequence: Sequence, finishReason: 'stop' | 'length', heldText?: string): void {
    const { prompt, generated, submitted, admitted, memory, listener } = sequence;
    const now = performance.now();
    const decoding = sequence.decoding || now;
    const attention = memory!.attention.report();
    this.#release(sequence);
    let text = heldText;
    if (text === undefined) {
      const rest = sequence.stops.push(sequence.text.flush());
      text = rest.text + sequence.stops.flush();
    }
    listener.onEvent({
      type: 'end',
      finishReason,
      text,
      usage: { promptTokens: prompt.length, completionTokens: generated },
      attention,
      timing: {
        queueMs: admitted - submitted,
        prefillMs: decoding - admitted,
        decodeMs: now - decoding,
        prefillTokensPerSecond: rate(prompt.length, decoding - admitted),
        // The first token comes out of the prefill.
        decodeTokensPerSecond: rate(attention.decodeSteps, now - decoding),
      },
    });
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
    this.#release(sequence);
    const known = error instanceof MagicPigError;
    const message = error instanceof Error ? error.message : String(error);
    sequence.listener.onError(known ? error : new GenerationFailedError(message, { cause: error }));
  }

  #release(sequence: Sequence): void {
    this.#sequences.delete(sequence.id);
    this.#scheduler.remove(sequence);
    sequence.memory?.attention[Symbol.dispose]();
    sequence.memory?.cache[Symbol.dispose]();
    sequence.memory = undefined;
  }
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
