/** What went wrong, for programs. */
export type CpuKernelsErrorCode = 'INVALID_ARGUMENT' | 'DISPOSED' | 'OUT_OF_MEMORY' | 'MAP_FILE' | 'NATIVE_LOAD';

/** Base of every error this package throws on purpose. */
export class CpuKernelsError extends Error {
  readonly code: CpuKernelsErrorCode;

  constructor(code: CpuKernelsErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** An argument has the wrong type, shape or range. */
export class InvalidArgumentError extends CpuKernelsError {
  constructor(message: string) {
    super('INVALID_ARGUMENT', message);
  }
}

/** A tensor, weight, mapped file or backend was used after it was disposed. */
export class DisposedError extends CpuKernelsError {
  constructor(what: string) {
    super('DISPOSED', `${what} was disposed and cannot be used any more`);
  }
}

/** The system did not give the memory asked for. */
export class OutOfMemoryError extends CpuKernelsError {
  constructor(what: string, bytes: number) {
    super(
      'OUT_OF_MEMORY',
      `no memory for ${what} (about ${Math.ceil(bytes / 2 ** 20)} MiB): close other programs or use a smaller weight format`,
    );
  }
}

/** A file could not be mapped into memory. */
export class MapFileError extends CpuKernelsError {
  readonly path: string;
  /** The system's error code (`ENOENT`, `EACCES`, ...), or `EMPTY`, or `ERANGE` for a range outside the file. */
  readonly reason: string;

  constructor(path: string, reason: string, message: string) {
    super('MAP_FILE', message);
    this.path = path;
    this.reason = reason;
  }
}

/** The native addon is missing or does not load on this platform. */
export class NativeLoadError extends CpuKernelsError {
  constructor(message: string, options?: ErrorOptions) {
    super('NATIVE_LOAD', message, options);
  }
}
