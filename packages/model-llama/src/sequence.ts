import type { ForwardTrace, GenerationEvent, TimeSplit } from './api.js';
import type { AttentionPolicy, SequenceAttention } from './attention-policy.js';
import type { TokenStream } from './checkpoint.js';
import type { TraceRecorder } from './forward-trace.js';
import type { KvSequence } from './kv-cache.js';
import type { PrefixNode } from './prefix-cache.js';
import type { Sampler } from './sampler.js';
import type { StopStrings } from './stop-strings.js';

/** What happens to a request: its events, the last one of type `end`, or one error instead of it. */
export interface SequenceListener {
  onEvent(event: GenerationEvent): void;
  /** Instead of an event of type `end`, for a forward pass alone. */
  onTrace?(trace: ForwardTrace): void;
  onError(error: unknown): void;
}

export interface SequenceOptions {
  id: number;
  /** At least one token. */
  prompt: Int32Array;
  maxTokens: number;
  eosTokens: ReadonlySet<number>;
  policy: AttentionPolicy;
  /** Tells the policy from others with which it must not share what it computed. */
  policyKey: string;
  sampler: Sampler;
  stops: StopStrings;
  text: TokenStream;
  listener: SequenceListener;
  /** Records a forward pass over the prompt, which is then all that happens. */
  recorder?: TraceRecorder | undefined;
}

/** Memory of a running sequence. */
export interface SequenceMemory {
  cache: KvSequence;
  attention: SequenceAttention;
  /** Where the beginning that it shares with others is kept. */
  node: PrefixNode | undefined;
}

/** State of one request. Scheduler and engine change it; it decides nothing. */
export class Sequence {
  readonly id: number;
  readonly prompt: Int32Array;
  readonly maxTokens: number;
  readonly eosTokens: ReadonlySet<number>;
  readonly policy: AttentionPolicy;
  readonly policyKey: string;
  readonly sampler: Sampler;
  readonly stops: StopStrings;
  readonly text: TokenStream;
  readonly listener: SequenceListener;
  readonly recorder: TraceRecorder | undefined;
  /** The first tokens of the prompt that may be taken from earlier requests. */
  readonly reusableTokens: number;
  /** Tokens that may come into the cache, and bytes that the policy may come to need for them. */
  readonly mostTokens: number;
  readonly mostTableBytes: number;
  /** Prompt tokens that attend exactly; those after them are treated like decoded ones. */
  readonly exactPromptTokens: number;

  /** Present from admission to the end. */
  memory: SequenceMemory | undefined;
  /** The first tokens of prompt and answer that are computed by exact attention over such tokens. */
  exactTokens: number;
  /** The first tokens of the prompt that were known from earlier requests. */
  reusedTokens = 0;
  /** Tokens generated; the next step brings the last one into the cache. */
  readonly answer: number[] = [];
  readonly submitted = performance.now();
  admitted = 0;
  /** First decode step: prompt and tables are done. */
  decoding = 0;
  /** The engine's times then. */
  decodingSince: TimeSplit | undefined;

  constructor(options: SequenceOptions) {
    this.id = options.id;
    this.prompt = options.prompt;
    this.maxTokens = options.maxTokens;
    this.eosTokens = options.eosTokens;
    this.policy = options.policy;
    this.policyKey = options.policyKey;
    this.sampler = options.sampler;
    this.stops = options.stops;
    this.text = options.text;
    this.listener = options.listener;
    this.recorder = options.recorder;
    this.mostTokens = options.prompt.length + options.maxTokens;
    this.mostTableBytes = options.policy.bytesFor(this.mostTokens);
    this.exactPromptTokens = Math.max(options.prompt.length - options.policy.sampledPromptTokens, 0);
    this.exactTokens = this.exactPromptTokens;
    // A chunk of one row is computed like a decoded token: none may be left of the exact part.
    this.reusableTokens = Math.min(this.exactPromptTokens - 2, options.recorder?.from ?? Number.POSITIVE_INFINITY);
  }

  /** Tokens of prompt and answer that are in the cache. */
  tokens(): Int32Array {
    const tokens = new Int32Array(this.prompt.length + this.answer.length);
    tokens.set(this.prompt);
    tokens.set(this.answer, this.prompt.length);
    return tokens.subarray(0, this.cached);
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

  /** Its tables are being made for another sequence. */
  get waiting(): boolean {
    return this.memory?.attention.waiting ?? false;
  }

  /** Tables are behind: {@link SequenceAttention.prepare} must be called before the next step. */
  get unprepared(): boolean {
    return this.sampling && !(this.memory?.attention.ready ?? true);
  }
}
