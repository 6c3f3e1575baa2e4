import {
  CorruptFileError,
  FileError,
  InvalidArgumentError,
  type LshErrorCode,
  MagicPigLshError,
  NonFiniteError,
  OutOfMemoryError,
  UnsupportedError,
} from './errors.js';

const CLASSES: Partial<Record<LshErrorCode, new (message: string, options?: ErrorOptions) => MagicPigLshError>> = {
  INVALID_ARGUMENT: InvalidArgumentError,
  NON_FINITE: NonFiniteError,
  OUT_OF_MEMORY: OutOfMemoryError,
  UNSUPPORTED: UnsupportedError,
  IO: FileError,
  CORRUPT_FILE: CorruptFileError,
};

/** Calls an engine; its errors, which carry a `code` only, become those of errors.ts. */
export function translateErrors<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw translateError(error);
  }
}

export function translateError(error: unknown): unknown {
  if (error instanceof MagicPigLshError || !(error instanceof Error)) return error;
  const Class = CLASSES[(error as { code?: LshErrorCode }).code as LshErrorCode];
  return Class ? new Class(error.message, { cause: error }) : error;
}
