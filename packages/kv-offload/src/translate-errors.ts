import {
  CorruptFileError,
  DisposedError,
  FileError,
  InvalidArgumentError,
  KvOutOfMemoryError,
  MagicPigKvError,
  SelectorError,
  StaleStepError,
  UnsupportedError,
} from './errors.js';

/** Runs a native call and turns what it throws into this package's errors. */
export function translateErrors<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw translate(error);
  }
}

function translate(error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof MagicPigKvError) return error;
  const { code, requestedBytes, availableBytes } = error as Error & {
    code?: string;
    requestedBytes?: number;
    availableBytes?: number;
  };
  switch (code) {
    case 'INVALID_ARGUMENT':
      return new InvalidArgumentError(error.message);
    case 'OUT_OF_MEMORY':
      return new KvOutOfMemoryError(error.message, requestedBytes ?? 0, availableBytes ?? Number.POSITIVE_INFINITY);
    case 'DISPOSED':
      return new DisposedError(error.message);
    case 'STALE_STEP':
      return new StaleStepError(error.message);
    case 'SELECTOR':
      return new SelectorError(error.message);
    case 'FILE':
      return new FileError(error.message);
    case 'CORRUPT_FILE':
      return new CorruptFileError(error.message);
    case 'UNSUPPORTED':
      return new UnsupportedError(error.message);
    default:
      return error;
  }
}
