import type { GenerationEvent } from './api.js';
import type { AttentionPolicy, SequenceAttention } from './attention-policy.js';
import type { TokenStream } from './checkpoint.js';
import type { KvSequence } from './kv-cache.js';
import type { Sampler } from './sampler.js';
import type { StopStrings } from './stop-strings.js';

/** What happens to a request: its events, the last one of type `end`, or one error instead of it. */
export interface SequenceListener {
  onEvent(event: GenerationEvent): void;
  onError(error: unknown): void;
}

export interface SequenceOptions {
  id: number;
  /** At least one token. */
  prompt: Int32Array;
  maxTokens: number;
  eosTokens: ReadonlySet<number>;
  policy: AttentionPolicy;
  sampler: Sampler;
  stops: StopStrings;
  text: TokenStream;
  /** Cache and tables it may come to need, in bytes. */
  bytes: number;
  listener: SequenceListener;
}

/** State of one request. Scheduler and engine change it; it decides nothing. */
export class Sequence {
  readonly id: number;
  readonly prompt: Int32Array;
  readonly maxTokens: number;
  readonly eosTokens: ReadonlySet<number>;
  readonly policy: AttentionPolicy;
  readonly sampler: Sampler;
  readonly stops: StopStrings;
  readonly text: TokenStream;
  readonly bytes: number;
  readonly listener: SequenceListener;
  /** Prompt tokens that attend exactly; those after them are treated like decoded ones. */
  readonly exactPromptTokens: number;

  /** Present from admission to the end. */
  memory: { cache: KvSequence; attention: SequenceAttention } | undefined;
  /** Last token generated, which the next step brings into the cache. */
  lastToken = -1;
  generated = 0;
  readonly submitted = performance.now();
  admitted = 0;
  /** First decode step: prompt and tables are done. */
  decoding = 0;

  constructor(options: SequenceOptions) {
    this.id = options.id;
    this.prompt = options.prompt;
    this.maxTokens = options.maxTokens;
    this.eosTokens = options.eosTokens;
    this.policy = options.policy;
    this.sampler = options.sampler;
    this.stops = options.stops;
    this.text = options.text;
    this.bytes = options.bytes;
    this.listener = options.listener;
    this.exactPromptTokens = Math.max(options.prompt.length - options.policy.sampledPromptTokens, 0);
  }

  /** Tokens in the cache. */
  get cached(): number {
    return this.memory?.cache.length ?? 0;
  }

  get prefilling(): boolean {
    return this.cached < this.prompt.length;
  }

  /** The next step's tokens may sample, so that tables must be up to date before it. */
  get sampling(): boolean {
    return this.cached >= this.exactPromptTokens;
  }

  /** Tables are behind: {@link SequenceAttention.prepare} must be called before the next step. */
  get unprepared(): boolean {
    return this.sampling && !(this.memory?.attention.ready ?? true);
  }
}
