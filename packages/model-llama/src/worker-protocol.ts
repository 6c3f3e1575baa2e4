import type {
  ForwardOptions,
  ForwardTrace,
  GenerateOptions,
  GenerationEvent,
  LoadOptions,
  LoadProgress,
  ModelInfo,
  ModelProfile,
  ModelStats,
} from './api.js';
import type { ChatMessage } from './checkpoint.js';
import type { WireError } from './wire-error.js';

/** What a generation may start from. */
export type Prompt = string | Int32Array | { messages: ChatMessage[]; tools?: unknown[] };

/** What the worker is started with. */
export interface WorkerData {
  source: string;
  options: Omit<LoadOptions, 'signal' | 'onProgress'>;
  /** For {@link SharedStatus}. */
  status: SharedArrayBuffer;
}

/** Questions with one answer, by name. */
export interface Calls {
  tokenize: { argument: Exclude<Prompt, Int32Array>; result: Int32Array };
  detokenize: { argument: Int32Array; result: string };
  stats: { argument: undefined; result: ModelStats };
  forward: { argument: { prompt: Prompt; options: Omit<ForwardOptions, 'signal'> }; result: ForwardTrace };
  profile: { argument: undefined; result: ModelProfile };
}

export type ToWorker =
  | { type: 'generate'; id: number; prompt: Prompt; options: Omit<GenerateOptions, 'signal'> }
  | { type: 'abort'; id: number }
  | { [M in keyof Calls]: { type: 'call'; id: number; method: M; argument: Calls[M]['argument'] } }[keyof Calls]
  | { type: 'abort-load' }
  | { type: 'close' };

/** News of a generation: an event, or the error that ended it. */
export type GenerationNews = { id: number; event: GenerationEvent } | { id: number; error: WireError };

export type FromWorker =
  | { type: 'progress'; progress: LoadProgress }
  | { type: 'ready'; info: ModelInfo }
  | { type: 'load-failed'; error: WireError }
  /** The backend can compute nothing any more; what runs fails by itself. */
  | { type: 'backend-failed'; reason: string }
  /** All news of a step. */
  | { type: 'news'; news: GenerationNews[] }
  | { type: 'answer'; id: number; result: Calls[keyof Calls]['result'] }
  | { type: 'call-failed'; id: number; error: WireError };
