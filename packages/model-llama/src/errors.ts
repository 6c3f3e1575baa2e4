/** Base of every error this package throws on purpose. `code` is stable; messages are for people. */
export class MagicPigError extends Error {
  readonly code: string;

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** A checkpoint's file is malformed, truncated, or of a kind that is not supported. */
export class CheckpointError extends MagicPigError {
  /** Path of the file. */
  readonly file: string;
  /** Name of the tensor or metadata key concerned, when there is one. */
  readonly tensor: string | undefined;
  /** Byte offset in the file where the trouble is, when it is known. */
  readonly offset: number | undefined;

  constructor(
    message: string,
    where: { file: string; tensor?: string | undefined; offset?: number | undefined; cause?: unknown },
  ) {
    const tensor = where.tensor === undefined ? '' : `, tensor ${where.tensor}`;
    const offset = where.offset === undefined ? '' : `, at byte ${where.offset}`;
    super('CHECKPOINT', `${where.file}${tensor}${offset}: ${message}`, { cause: where.cause });
    this.file = where.file;
    this.tensor = where.tensor;
    this.offset = where.offset;
  }
}

/** One thing tried while looking for a model, and why it did not work. */
export interface SourceAttempt {
  source: string;
  reason: string;
}

/** No source had the model. The message lists what was tried and what to pass instead. */
export class ModelNotFoundError extends MagicPigError {
  readonly attempts: readonly SourceAttempt[];

  constructor(source: string, attempts: readonly SourceAttempt[]) {
    const tried = attempts.map(({ source, reason }) => `\n  - ${source}: ${reason}`).join('');
    super(
      'MODEL_NOT_FOUND',
      `Model '${source}' was not found.${tried === '' ? '' : ` Tried:${tried}`}\n` +
        'Pass a folder with config.json and *.safetensors, a .gguf file, a hub id (owner/name), or ' +
        'random:llama-3.2-1b for a model with random weights that needs no files.',
    );
    this.attempts = attempts;
  }
}

/** The model has no chat template, or its template refuses the conversation. */
export class ChatTemplateError extends MagicPigError {
  constructor(message: string, options?: ErrorOptions) {
    super('CHAT_TEMPLATE', message, options);
  }
}

/** An option or argument has a value that makes no sense. The message names it, the value and what is allowed. */
export class InvalidRequestError extends MagicPigError {
  /** Name of the option, when one is to blame. */
  readonly option: string | undefined;

  constructor(message: string, option?: string, options?: ErrorOptions) {
    super('INVALID_REQUEST', message, options);
    this.option = option;
  }
}

/** Prompt and answer do not fit in the context. */
export class ContextTooLongError extends MagicPigError {
  /** Tokens the request needs. */
  readonly tokens: number;
  /** Tokens there is room for. */
  readonly limit: number;

  constructor(message: string, tokens: number, limit: number) {
    super('CONTEXT_TOO_LONG', message);
    this.tokens = tokens;
    this.limit = limit;
  }
}

/** The queue of waiting requests is full: try again later. */
export class EngineBusyError extends MagicPigError {
  constructor(message: string) {
    super('ENGINE_BUSY', message);
  }
}

/** The request needs more cache memory than the whole budget; waiting would not help. */
export class CacheTooSmallError extends MagicPigError {
  readonly bytes: number;
  readonly limit: number;

  constructor(message: string, bytes: number, limit: number) {
    super('CACHE_TOO_SMALL', message);
    this.bytes = bytes;
    this.limit = limit;
  }
}

/** The model was closed while the request ran, or before it was made. */
export class ModelClosedError extends MagicPigError {
  constructor(message = 'The model is closed.') {
    super('MODEL_CLOSED', message);
  }
}
