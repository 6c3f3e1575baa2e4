import type { Ceilings, ProfileEntry } from '@magicpig/cpu-kernels';
import type { SketchBudget } from '@magicpig/lsh';
import type { WeightFormat } from './backend.js';
import type { ChatMessage, LlamaConfig } from './checkpoint.js';

/** Progress of {@link loadLlama}. `download` counts bytes, `load` counts tensors. */
export interface LoadProgress {
  stage: 'download' | 'load';
  /** What is being worked on: a file, a tensor. */
  item: string;
  done: number;
  total: number;
}

/** How decoded tokens attend to the context. Chosen per request; numbers out of range are refused. */
export type AttentionOptions =
  | { policy: 'dense' }
  | {
      policy: 'magicpig';
      /** Bits a hash code (paper: K), 1..16. */
      K?: number;
      /** Hash tables (paper: L), 1..4096. */
      L?: number;
      /** First tokens of the context that are always attended exactly. */
      sink?: number;
      /** Last tokens that are always attended exactly; up to twice as many while they wait to be indexed. */
      window?: number;
      /** Layers that keep exact attention. Default: 0 and every 16th. */
      denseLayers?: number[];
      /** Contexts of fewer tokens use exact attention, and for a sixteenth more those of answers that begin with nearly as many. */
      minContext?: number;
      /** Seeds the projections. */
      seed?: number;
      /** Also sample for the question, the prompt's last `sampledPromptTokens` tokens (the paper's "setup B"); 0 is the default. */
      sampledPromptTokens?: number;
    }
  | {
      policy: 'sketch';
      /** Bits a dimension of the keys' sketches, 1..4. Default 2. */
      bits?: number;
      /**
       * Keys read of those that are sampled, in expectation: a `share` of them, a `count`, or as few as bring the estimated
       * relative standard error of the softmax's denominator down to `error`, between the shares `min` and `max`. Default a
       * share of 0.05.
       */
      budget?: SketchBudget;
      /** Added to every key's weight, in units of the mean weight, so that keys which the sketch underrates are drawn too; 1e-6..1. Default 0.02. */
      floor?: number;
      /** As with `magicpig`. */
      sink?: number;
      window?: number;
      denseLayers?: number[];
      minContext?: number;
      /** Seeds the sketches' rotation and the draws. */
      seed?: number;
    }
  | {
      policy: 'custom';
      /** A policy of {@link LoadOptions.policies}. */
      name: string;
      /** Passed to its module; plain data. */
      options?: Record<string, unknown>;
    };

export interface LoadOptions {
  /** Where the model computes. Default `cpu`. `cuda` needs the package `@magicpig/cuda-kernels` and a GPU. */
  backend?: 'cpu' | 'cuda';
  /**
   * With `cuda`: bytes of the device's memory to use at most; default most of what is free. With `dense` attention it holds keys and
   * values too; otherwise they live in host memory, and the device keeps those that it attends to while there is room.
   */
  vramBytes?: number;
  /** Threads that compute; default `os.availableParallelism()`. */
  threads?: number;
  /**
   * Format of the weights in memory; default `q8` for checkpoints whose matrices are quantised, as which they keep their blocks,
   * and `bf16` for others. The KV cache is float32 with `f32` and bfloat16 otherwise.
   */
  weights?: WeightFormat;
  /** Longest context of a request, prompt and answer, in tokens; default the model's own limit. */
  contextTokens?: number;
  /** Bytes for KV cache and tables together; default half of the memory that is free after loading. */
  cacheBytes?: number;
  /** Bytes for everything: weights, activations, KV cache and tables; instead of `cacheBytes`, which gets what is left. */
  memoryBytes?: number;
  /** Requests that decode together; others wait in a queue. Default 16. */
  maxSequences?: number;
  /** Requests that may wait; one more is refused with EngineBusyError. Default 256. */
  maxQueue?: number;
  /**
   * Milliseconds that the streams of decoding requests may wait while prompts of others are read or their tables are built:
   * work is cut into pieces that short. Default 250.
   */
  maxStallMs?: number;
  /**
   * What later requests may go on from instead of computing it again, while there is memory for it: `all` (default): the
   * beginnings of prompts, and answers too (a conversation goes on from the keys and values that its answers were
   * generated with, by requests of the same attention settings only); `prompts`: beginnings of prompts alone, so that a
   * request's tokens do not depend on earlier requests in any bit; `off`.
   */
  prefixCache?: 'all' | 'prompts' | 'off';
  /**
   * A folder to keep the prefix cache in across restarts: files of keys, values and tables, written a minute after the last
   * request and when the model is closed. Default none.
   */
  snapshotDir?: string;
  /** Bytes of all files there, at most; the least recently used go first. Default 4 GiB. */
  snapshotBytes?: number;
  /** Policy of requests that name none. Default `magicpig` with its defaults. */
  attention?: AttentionOptions;
  /**
   * Attention policies of your own, by name: modules whose default export is an `AttentionPolicyModule`, as absolute paths or
   * URLs (`import.meta.resolve('./my-policy.js')`). They are imported into the thread that computes.
   */
  policies?: Record<string, string>;
  /** Measure every operator, for {@link LlamaModel.profile}. Default false. */
  profile?: boolean;
  /** Where downloads are kept; default the user's cache directory, or MAGICPIG_CACHE. */
  cacheDir?: string;
  /** Seed of `random:` weights. */
  randomSeed?: number;
  signal?: AbortSignal;
  onProgress?: (progress: LoadProgress) => void;
}

export interface GenerateOptions {
  /**
   * Tokens to generate at most; never more than the context leaves. Default as many as the context leaves and a quarter of
   * the cache has room for, or 1,024.
   */
  maxTokens?: number;
  /** 0 is greedy. Default 0. */
  temperature?: number;
  topP?: number;
  topK?: number;
  minP?: number;
  repetitionPenalty?: number;
  presencePenalty?: number;
  frequencyPenalty?: number;
  /** Seeds the sampler; the same request with the same seed gives the same tokens. Default 0. */
  seed?: number;
  /** Generation ends before any of these; they are not part of the text. */
  stop?: string[];
  /** Go on after an end-of-sequence token (for measurements). */
  ignoreEos?: boolean;
  attention?: AttentionOptions;
  signal?: AbortSignal;
}

/** What a request's attention did. */
export interface AttentionReport {
  /** The policy's own name for itself: `dense`, `magicpig`, `sketch`. */
  policy: string;
  /** Decode steps, and how many of them sampled (0 when the context stayed under `minContext`). */
  decodeSteps: number;
  sampledSteps: number;
  /** Tokens attended exactly (sink, window, waiting to be indexed) in the sampled layers, mean over sampled steps. */
  exactTokens: number;
  /** Share of the sampled keys that were drawn, mean over sampled steps, layers and query heads. */
  sampledShare: number;
  /** Share of all keys read in decode, dense layers and exact tokens included. */
  keysReadShare: number;
  /**
   * With `sketch`: the estimated relative standard error of the softmax's denominator over the sampled keys, mean over sampled
   * steps, layers and query heads.
   */
  samplingError?: number;
}

export type GenerationEvent =
  | { type: 'prefill'; done: number; total: number }
  /**
   * `text` may be empty while a character is incomplete, or longer than the token when one completes. `samplingError` is that
   * of {@link AttentionReport} in the step that gave the token.
   */
  | { type: 'token'; token: number; text: string; logprob: number; samplingError?: number }
  | {
      type: 'end';
      finishReason: 'stop' | 'length';
      /** Text held back until now (a partial stop string that did not complete). */
      text: string;
      /** `cachedTokens` of the prompt's tokens were known from earlier requests. */
      usage: { promptTokens: number; cachedTokens: number; completionTokens: number };
      attention: AttentionReport;
      timing: {
        queueMs: number;
        prefillMs: number;
        decodeMs: number;
        prefillTokensPerSecond: number;
        decodeTokensPerSecond: number;
        /** Of the steps of `decodeMs`, for all requests in them together. */
        split: TimeSplit;
      };
    };

/**
 * Where the time of steps went, in milliseconds. On the CPU the parts add up; with a device, it and the host work at the same
 * time.
 */
export interface TimeSplit {
  /** On the CPU: matrix products, norms and the like. */
  denseMs?: number;
  /** With a device: it computed, its own attention included. */
  gpuMs?: number;
  /** With a device: rows were on their way between it and the host. */
  transferMs?: number;
  /** With a device: the host waited for it. */
  idleMs?: number;
  /** With a device: the host chose keys. */
  selectMs?: number;
  /** The host attended to keys, and wrote keys and values; without a device it also chose keys. */
  attendMs: number;
  /** Building and growing tables and sketches. */
  indexMs: number;
  /** The rest: sampling of tokens, text, bookkeeping. */
  otherMs: number;
}

export interface ModelInfo {
  name: string;
  config: LlamaConfig;
  backend: string;
  /** Backend's own line: instruction set, threads. */
  description: string;
  threads: number;
  weights: WeightFormat;
  contextTokens: number;
  /** Bytes for KV cache and tables. */
  cacheBytes: number;
  /** Bytes that are taken beside them. */
  memory: { weights: number; scratch: number };
  maxSequences: number;
  hasChatTemplate: boolean;
}

export interface ModelStats {
  running: number;
  waiting: number;
  /** Bytes of KV cache and tables in use, by running requests and for later ones. */
  cacheBytesUsed: number;
  /** Bytes kept for later requests, which give way when running ones need them. */
  prefixBytes: number;
  cacheBytes: number;
  /** Of all steps so far. */
  times: TimeSplit;
}

/**
 * Where the time of a model's steps went. Operators are those of the backend, `attend` (exact or sampled), `append`, `index`
 * (building and growing tables), and `other`: all that is no operator.
 */
export interface ModelProfile {
  /** Steps with tokens of a prompt, what decodes in the same steps included. Longest operator first. */
  prefill: ProfileEntry[];
  /** Steps that only decode. */
  decode: ProfileEntry[];
  /** What the machine does at most, measured. */
  ceilings: Ceilings;
  /** Both as text: a bar of each operator's share of the time, its rates, and their shares of the ceilings. */
  table: string;
}

/** What a forward pass is to give, see {@link LlamaModel.forward}. */
export interface ForwardOptions {
  /** Logits of the last token (default), of all of them, or of none. */
  logits?: 'none' | 'last' | 'all';
  /** First token whose logits and layers are wanted; default 0. */
  from?: number;
  /** Default `dense`. The last `sampledPromptTokens` tokens sample, like decoded ones. */
  attention?: AttentionOptions;
  /** Which layers to record, default all, and what of them beside the statistics of their attention. */
  tap?: { layers?: number[]; queries?: boolean; keys?: boolean; values?: boolean; outputs?: boolean };
  signal?: AbortSignal;
}

/** What a forward pass gave, for R rows: the tokens from `from` on. */
export interface ForwardTrace {
  tokens: Int32Array;
  from: number;
  /** [R or 1 or 0, vocab] */
  logits: Float32Array;
  layers: LayerTrace[];
}

/** One layer's attention, with Hq query heads and Hkv KV heads of d elements. */
export interface LayerTrace {
  layer: number;
  /** After RoPE, [R, Hq d]. */
  queries?: Float32Array;
  /** After RoPE, [R, Hkv d]. */
  keys?: Float32Array;
  /** [R, Hkv d] */
  values?: Float32Array;
  /** What attention gives, before the output projection, [R, Hq d]. */
  outputs?: Float32Array;
  /** Logarithm of the sum of exp(scores), [R, Hq]; an estimate where keys were sampled. */
  logSumExp: Float32Array;
  /** Keys read, summed over query heads, [R]. */
  keysRead: Float64Array;
}

/** One of many requests. */
export interface BatchRequest {
  prompt: string | Int32Array | { messages: ChatMessage[]; tools?: unknown[] };
  options?: Omit<GenerateOptions, 'signal'>;
}

/** What one of many requests gave: `end`, or `error` and what came before it. */
export interface BatchResult<R extends BatchRequest = BatchRequest> {
  /** Place of the request among all, from 0. */
  index: number;
  request: R;
  tokens: number[];
  text: string;
  end: Extract<GenerationEvent, { type: 'end' }> | undefined;
  error: unknown;
}

/** Many requests at once. */
export interface LlamaEngine {
  /**
   * Runs requests, as many together as the model decodes together, and gives their results in the order they end. Requests
   * are taken from the source as there is room for them, so that it may be as long as one likes; a full queue makes it wait. A
   * request that fails does not end the others. Leaving the loop ends those that run.
   * @throws the reason of `signal`
   */
  run<R extends BatchRequest>(
    requests: Iterable<R> | AsyncIterable<R>,
    options?: { signal?: AbortSignal },
  ): AsyncIterable<BatchResult<R>>;
}

/** {@link ModelStats} as of the last step, and the present one. */
export interface ModelStatus extends ModelStats {
  /** Milliseconds since the present step began; 0 between steps. */
  stepMs: number;
  /** Why no request can succeed any more (the device was lost), when that is so; load the model again, in a new process. */
  failure?: string;
}

/**
 * A loaded model. The engine runs in a worker thread, so the calling thread never computes; several generations at once
 * share batched decode steps.
 */
export interface LlamaModel extends AsyncDisposable {
  readonly info: ModelInfo;
  /**
   * Generates from a text, token ids, or a conversation. Ends with one `end` event. Leaving the loop early or aborting
   * `signal` (the loop then throws its reason) frees the request's memory within one step.
   * @throws InvalidRequestError, ContextTooLongError, EngineBusyError, CacheTooSmallError
   */
  generate(
    prompt: string | Int32Array | { messages: ChatMessage[]; tools?: unknown[] },
    options?: GenerateOptions,
  ): AsyncIterable<GenerationEvent>;
  /** Many requests at once. */
  readonly engine: LlamaEngine;
  /**
   * One forward pass over a prompt, for researchers: logits, and what the attention of chosen layers saw and did. It shares
   * steps with generations.
   * @throws InvalidRequestError, ContextTooLongError, EngineBusyError, CacheTooSmallError, the reason of `signal`
   */
  forward(
    prompt: string | Int32Array | { messages: ChatMessage[]; tools?: unknown[] },
    options?: ForwardOptions,
  ): Promise<ForwardTrace>;
  /** Token ids of a text, or of a conversation in the chat template. */
  tokenize(prompt: string | { messages: ChatMessage[]; tools?: unknown[] }): Promise<Int32Array>;
  detokenize(tokens: ArrayLike<number>): Promise<string>;
  /** What runs, after all that was asked for before; waits for the present step to end. */
  stats(): Promise<ModelStats>;
  /**
   * The same as of the last step, at once.
   * @throws ModelClosedError, WorkerCrashedError
   */
  status(): ModelStatus;
  /**
   * Where the time went since the model was loaded or since the last call. Takes about a third of a second of the
   * model's thread.
   * @throws InvalidRequestError when the model was loaded without `profile`.
   */
  profile(): Promise<ModelProfile>;
  /** Ends running generations with an error and frees everything. */
  close(): Promise<void>;
}
