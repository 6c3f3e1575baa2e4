import type { WeightSource } from './backend.js';

/** Rotary position embedding scaling, as in Hugging Face's `rope_scaling`. */
export type RopeScaling =
  | { type: 'default' }
  | { type: 'linear'; factor: number }
  | { type: 'dynamic'; factor: number; originalMaxPositions: number }
  /** Inverse frequency j is divided by factors[j], [headDim / 2]: how GGUF keeps `llama3` (tensor rope_freqs). */
  | { type: 'factors'; factors: number[] }
  | { type: 'llama3'; factor: number; lowFreqFactor: number; highFreqFactor: number; originalMaxPositions: number }
  | {
      type: 'yarn';
      factor: number;
      originalMaxPositions: number;
      betaFast: number;
      betaSlow: number;
      /** Multiplies cosines and sines; computed from `factor` when absent. */
      attentionFactor?: number;
      mscale?: number;
      mscaleAllDim?: number;
      truncate?: boolean;
    };

/** Shape of a Llama-like model. */
export interface LlamaConfig {
  /** `llama`, `qwen2`, `mistral`: the checkpoint's own word. */
  architecture: string;
  vocabSize: number;
  hiddenSize: number;
  /** Width of the MLP. */
  intermediateSize: number;
  layers: number;
  queryHeads: number;
  kvHeads: number;
  headDim: number;
  /** Longest context, in tokens, that the model was trained for. */
  maxPositions: number;
  rmsNormEps: number;
  ropeTheta: number;
  ropeScaling: RopeScaling;
  /** The output matrix is the embedding. */
  tiedEmbeddings: boolean;
}

/** An opened checkpoint: shape, weights by Hugging Face's names (`model.layers.0.self_attn.q_proj.weight`), tokenizer. */
export interface Checkpoint extends Disposable {
  /** What was asked for, for people: a path, a short name. */
  readonly name: string;
  readonly config: LlamaConfig;
  /** Names of all tensors. */
  readonly tensorNames: ReadonlySet<string>;
  /**
   * The source of one tensor; vectors have rows = 1. GGUF's permuted q and k rows come with the `rowOrder` that undoes it.
   * @throws CheckpointError when there is none of that name or its shape is not `rows` x `cols`.
   */
  tensor(name: string, rows: number, cols: number): WeightSource;
  readonly tokenizer: Tokenizer;
  /** Gives the memory of what was read of mapped files back to the system. Sources stay valid, and are read again when used. */
  trim(): void;
  /** Lets go of mapped files. Sources must not be used afterwards. */
  [Symbol.dispose](): void;
}

export interface ChatMessage {
  role: string;
  content: string;
  [key: string]: unknown;
}

export interface Tokenizer {
  /** Beginning-of-sequence id when the model's prompts start with one. */
  readonly bosToken: number | undefined;
  /** Ids that end a generation (eos, end of turn). */
  readonly eosTokens: ReadonlySet<number>;
  readonly vocabSize: number;
  /** Whether {@link applyChatTemplate} has a template to apply. */
  readonly hasChatTemplate: boolean;
  /**
   * Token ids of a text, after {@link bosToken} unless `addSpecial` is false. Special tokens written in the text are split
   * like any other text unless `allowSpecial`.
   */
  encode(text: string, options?: { addSpecial?: boolean; allowSpecial?: boolean }): Int32Array;
  /** The text of tokens, special ones included unless `skipSpecial`. */
  decode(tokens: ArrayLike<number>, options?: { skipSpecial?: boolean }): string;
  /**
   * Incremental decoding for streams: text that later tokens cannot change any more. Special tokens have no text there, and
   * a space in front is kept, since a stream goes on after other text.
   */
  stream(): TokenStream;
  /**
   * Ids of a conversation in the model's chat template, ready for the assistant's answer. Special tokens come from the
   * template only, never from a message's text.
   * @throws ChatTemplateError when the model has no template or the template refuses the messages.
   */
  applyChatTemplate(messages: ChatMessage[], options?: { tools?: unknown[] }): Int32Array;
}

export interface TokenStream {
  /** The text that this token completes; empty while a character or word is incomplete. */
  push(token: number): string;
  /** What is left at the end. */
  flush(): string;
}
