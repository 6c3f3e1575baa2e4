import type { LshErrorCode } from './errors.js';

/** An error as engines throw them: with a `code`, from which translate-errors.ts makes one of errors.ts. */
export function engineError(code: LshErrorCode, message: string, cause?: unknown): Error {
  return Object.assign(new Error(message, cause === undefined ? undefined : { cause }), { code });
}
