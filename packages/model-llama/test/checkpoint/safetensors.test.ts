import { describe, expect, it } from 'vitest';
import { parseSafetensors } from '../../src/checkpoint/safetensors.js';
import { weightSource } from '../../src/checkpoint/tensor-table.js';
import { CheckpointError } from '../../src/errors.js';
import { inMemoryFile } from './in-memory-file.js';
import { random } from './seeded-random.js';
import { writeSafetensors } from './write-safetensors.js';

const bytes = (length: number) => Uint8Array.from({ length }, (_, i) => i);
const TENSORS = {
  matrix: { dtype: 'BF16', shape: [2, 3], data: bytes(12) },
  vector: { dtype: 'F32', shape: [4], data: bytes(16) },
  ids: { dtype: 'I64', shape: [1], data: bytes(8) },
  half: { dtype: 'F16', shape: [1, 2], data: bytes(4) },
};

const parse = (file: Uint8Array) => parseSafetensors(inMemoryFile(file, '/m/model.safetensors'));

function refusal(file: Uint8Array): CheckpointError {
  try {
    parse(file);
  } catch (error) {
    expect(error).toBeInstanceOf(CheckpointError);
    return error as CheckpointError;
  }
  throw new Error('it was accepted');
}

describe('a safetensors file', () => {
  const table = parse(writeSafetensors(TENSORS));

  it('gives its tensors in place', () => {
    expect([...table.keys()]).toEqual(Object.keys(TENSORS));
    expect(weightSource(table, 'm', 'matrix', 2, 3)).toEqual({ type: 'bf16', data: bytes(12), rows: 2, cols: 3 });
    expect(weightSource(table, 'm', 'vector', 1, 4)).toMatchObject({ type: 'f32', rows: 1, cols: 4 });
    expect(weightSource(table, 'm', 'half', 1, 2)).toMatchObject({ type: 'f16' });
  });

  it('refuses other shapes, elements that are no weights, and names that are not there', () => {
    expect(() => weightSource(table, 'm', 'matrix', 3, 2)).toThrow('its shape is [2, 3], and the model');
    expect(() => weightSource(table, 'm', 'vector', 4, 1)).toThrow(CheckpointError);
    expect(() => weightSource(table, 'm', 'ids', 1, 1)).toThrow('its elements are i64');
    expect(() => weightSource(table, 'm', 'nothing', 1, 1)).toThrow(
      expect.objectContaining({ name: 'CheckpointError', tensor: 'nothing' }),
    );
  });

  it.each<[string, Parameters<typeof writeSafetensors>[1], string]>([
    ['an unknown dtype', (header) => Object.assign(header.vector!, { dtype: 'F3' }), 'dtype F3'],
    [
      'a length that does not fit the shape',
      (header) => Object.assign(header.vector!, { shape: [5] }),
      'takes 20 bytes',
    ],
    ['a shape that overflows', (header) => Object.assign(header.vector!, { shape: [2 ** 50, 2 ** 50] }), 'takes'],
    ['a negative shape', (header) => Object.assign(header.vector!, { shape: [-4] }), 'needs dtype, shape'],
    [
      'offsets that are none',
      (header) => Object.assign(header.vector!, { data_offsets: ['12', 28] }),
      'needs dtype, shape',
    ],
    [
      'offsets beyond the end',
      (header) => Object.assign(header.vector!, { data_offsets: [1012, 1028] }),
      'it is truncated',
    ],
    [
      'the bytes of another',
      (header) => Object.assign(header.vector!, { data_offsets: [8, 24] }),
      'overlaps tensor matrix',
    ],
  ])('names the tensor and the offset of %s', (_, change, message) => {
    const error = refusal(writeSafetensors(TENSORS, change));
    expect(error.message).toContain(message);
    expect(error).toMatchObject({ file: '/m/model.safetensors', tensor: 'vector' });
    expect(error.offset).toBeGreaterThanOrEqual(8);
  });

  it('refuses bytes that belong to no tensor', () => {
    expect(refusal(Buffer.concat([writeSafetensors(TENSORS), Buffer.alloc(3)])).message).toContain('3 bytes after');
  });

  it('refuses headers that are none', () => {
    const header = (json: string) => {
      const length = Buffer.alloc(8);
      length.writeBigUInt64LE(BigInt(json.length));
      return Buffer.concat([length, Buffer.from(json)]);
    };
    expect(refusal(header('{"a":')).message).toContain('not JSON');
    expect(refusal(header('[]')).message).toContain('not an object');
    expect(refusal(header('{"a":null}')).message).toContain('needs dtype');
    expect(refusal(Buffer.alloc(3)).message).toContain('too few');
    expect(refusal(Buffer.alloc(64, 0xff)).message).toContain('not a safetensors file');
  });

  it('is refused when truncated, wherever', () => {
    const whole = writeSafetensors(TENSORS);
    for (let length = 0; length < whole.length; length += 1) {
      expect(refusal(whole.subarray(0, length)).offset).toBeDefined();
    }
  });

  it('is accepted or refused with a typed error when bytes of it are flipped', () => {
    const whole = writeSafetensors(TENSORS);
    const next = random(3);
    for (let i = 0; i < 5_000; i += 1) {
      const damaged = Buffer.from(whole);
      const at = next(whole.length - 40);
      damaged[at] = damaged[at]! ^ (1 << next(8));
      try {
        for (const tensor of parse(damaged).values()) tensor.file.view(tensor.offset, tensor.length);
      } catch (error) {
        expect(error).toBeInstanceOf(CheckpointError);
      }
    }
  });
});
