/** What went wrong, for programs. */
export type KvErrorCode =
  | 'INVALID_ARGUMENT'
  | 'OUT_OF_MEMORY'
  | 'DISPOSED'
  | 'STALE_STEP'
  | 'SELECTOR'
  | 'FILE'
  | 'CORRUPT_FILE'
  | 'UNSUPPORTED';

/** Base of all errors thrown by this package; {@link code} says which kind. The store is unharmed by a call that throws. */
export class MagicPigKvError extends Error {
  readonly code: KvErrorCode;

  constructor(code: KvErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** An option or argument out of range, of the wrong type or of the wrong shape. */
export class InvalidArgumentError extends MagicPigKvError {
  constructor(message: string, options?: ErrorOptions) {
    super('INVALID_ARGUMENT', message, options);
  }
}

/** The pages that a call needs do not fit in `maxBytes`, or the system gave no memory. Nothing was written. */
export class KvOutOfMemoryError extends MagicPigKvError {
  /** Bytes the call needed beyond those in use. */
  readonly requestedBytes: number;
  /** Bytes left under `maxBytes`; Infinity when there is no limit and the system itself refused. */
  readonly availableBytes: number;

  constructor(message: string, requestedBytes: number, availableBytes: number, options?: ErrorOptions) {
    super('OUT_OF_MEMORY', message, options);
    this.requestedBytes = requestedBytes;
    this.availableBytes = availableBytes;
  }
}

/** The store or sequence was disposed of before the call. */
export class DisposedError extends MagicPigKvError {
  constructor(message: string, options?: ErrorOptions) {
    super('DISPOSED', message, options);
  }
}

/** A sequence of the step was stepped again, truncated, forked or disposed of since the step was made. */
export class StaleStepError extends MagicPigKvError {
  constructor(message: string, options?: ErrorOptions) {
    super('STALE_STEP', message, options);
  }
}

/** A selector handle of the wrong kind, version or shape, or a selector that failed. The outputs are not valid. */
export class SelectorError extends MagicPigKvError {
  constructor(message: string, options?: ErrorOptions) {
    super('SELECTOR', message, options);
  }
}

/** The system could not read or write a snapshot; the message has its reason. */
export class FileError extends MagicPigKvError {
  constructor(message: string, options?: ErrorOptions) {
    super('FILE', message, options);
  }
}

/** A snapshot is truncated, damaged, or of a version or byte order that this release does not read. */
export class CorruptFileError extends MagicPigKvError {
  constructor(message: string, options?: ErrorOptions) {
    super('CORRUPT_FILE', message, options);
  }
}

/** The platform cannot do this. */
export class UnsupportedError extends MagicPigKvError {
  constructor(message: string, options?: ErrorOptions) {
    super('UNSUPPORTED', message, options);
  }
}
