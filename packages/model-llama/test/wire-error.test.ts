import { expect, it } from 'vitest';
import { GenerationFailedError } from '../src/engine-errors.js';
import { CheckpointError, ModelNotFoundError } from '../src/errors.js';
import { fromWireError, toWireError } from '../src/wire-error.js';

const across = (error: unknown) => fromWireError(structuredClone(toWireError(error)));

it('keeps class, message and fields of this package’s errors', () => {
  const error = new CheckpointError('truncated', { file: 'a.gguf', tensor: 'x', offset: 7 });
  const received = across(error);
  expect(received).toBeInstanceOf(CheckpointError);
  expect(received).toMatchObject({
    name: 'CheckpointError',
    code: 'CHECKPOINT',
    file: 'a.gguf',
    tensor: 'x',
    offset: 7,
  });
  expect(received.message).toBe(error.message);
  expect(received.stack).toBe(error.stack);
  const attempts = [{ source: 'hub', reason: 'offline' }];
  expect(across(new ModelNotFoundError('m', attempts))).toMatchObject({ attempts });
});

it('keeps the cause', () => {
  const received = across(new GenerationFailedError('no room', { cause: new RangeError('too large') }));
  expect(received).toBeInstanceOf(GenerationFailedError);
  expect(received.cause).toMatchObject({ name: 'RangeError', message: 'too large' });
});

it('keeps name and fields of other errors, and takes what is no error', () => {
  const foreign = Object.assign(new Error('no memory'), {
    name: 'KvOutOfMemoryError',
    code: 'OUT_OF_MEMORY',
    help() {},
  });
  expect(across(foreign)).toMatchObject({ name: 'KvOutOfMemoryError', message: 'no memory', code: 'OUT_OF_MEMORY' });
  expect(across('text')).toMatchObject({ name: 'Error', message: 'text' });
});
