import * as engineErrors from './engine-errors.js';
import * as errors from './errors.js';

/** An error as it crosses between threads, which structured cloning would strip of its class and fields. */
export interface WireError {
  name: string;
  message: string;
  stack?: string | undefined;
  fields: Record<string, unknown>;
  cause?: WireError | undefined;
}

const CLASSES = new Map<string, { prototype: Error }>(Object.entries({ ...errors, ...engineErrors }));

/** Makes an error fit for `postMessage`. Its own fields must be plain data, as those of this package's errors are. */
export function toWireError(error: unknown): WireError {
  if (!(error instanceof Error)) return { name: 'Error', message: String(error), fields: {} };
  // Message, stack and cause are not enumerable.
  const fields = Object.entries(error).filter(([, value]) => typeof value !== 'function' && typeof value !== 'symbol');
  return {
    name: error.name,
    message: error.message,
    stack: error.stack,
    fields: Object.fromEntries(fields),
    cause: error.cause === undefined ? undefined : toWireError(error.cause),
  };
}

/** The error again: of its class when it is one of this package's, otherwise an `Error` with its name and fields. */
export function fromWireError(wire: WireError): Error {
  const error = new Error(wire.message, wire.cause && { cause: fromWireError(wire.cause) });
  const known = CLASSES.get(wire.name);
  if (known) Object.setPrototypeOf(error, known.prototype);
  return Object.assign(error, wire.fields, { name: wire.name, stack: wire.stack });
}
