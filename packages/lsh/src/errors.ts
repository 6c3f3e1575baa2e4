/** What went wrong, for programs. */
export type LshErrorCode =
  | 'INVALID_ARGUMENT'
  | 'NON_FINITE'
  | 'OUT_OF_MEMORY'
  | 'DISPOSED'
  | 'UNSUPPORTED'
  | 'BUSY'
  | 'READ_ONLY'
  | 'IO'
  | 'CORRUPT_FILE';

/** Base of all errors thrown by this package; {@link code} says which kind. The index is unharmed by a call that throws. */
export class MagicPigLshError extends Error {
  readonly code: LshErrorCode;

  constructor(code: LshErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** An option or argument out of range, of the wrong type or of the wrong length. */
export class InvalidArgumentError extends MagicPigLshError {
  constructor(message: string, options?: ErrorOptions) {
    super('INVALID_ARGUMENT', message, options);
  }
}

/** A vector holds NaN or an infinity. */
export class NonFiniteError extends MagicPigLshError {
  constructor(message: string, options?: ErrorOptions) {
    super('NON_FINITE', message, options);
  }
}

/** The memory that the call needs could not be had. */
export class OutOfMemoryError extends MagicPigLshError {
  constructor(message: string, options?: ErrorOptions) {
    super('OUT_OF_MEMORY', message, options);
  }
}

/** The object was disposed of before the call. */
export class DisposedError extends MagicPigLshError {
  constructor(message: string, options?: ErrorOptions) {
    super('DISPOSED', message, options);
  }
}

/** The platform or the way the package is running (the TypeScript fallback) cannot do this. */
export class UnsupportedError extends MagicPigLshError {
  constructor(message: string, options?: ErrorOptions) {
    super('UNSUPPORTED', message, options);
  }
}

/** An asynchronous call is still running on the object; wait for its promise. */
export class BusyError extends MagicPigLshError {
  constructor(message: string, options?: ErrorOptions) {
    super('BUSY', message, options);
  }
}

/** The object is a view of a file and cannot be changed. */
export class ReadOnlyError extends MagicPigLshError {
  constructor(message: string, options?: ErrorOptions) {
    super('READ_ONLY', message, options);
  }
}

/** A file could not be read or written; the message says which and why. */
export class FileError extends MagicPigLshError {
  constructor(message: string, options?: ErrorOptions) {
    super('IO', message, options);
  }
}

/** A file or buffer is no file of this package, of another version, cut short or damaged; the message says where. */
export class CorruptFileError extends MagicPigLshError {
  constructor(message: string, options?: ErrorOptions) {
    super('CORRUPT_FILE', message, options);
  }
}
