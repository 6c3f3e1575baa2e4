import { describe, expect, it } from 'vitest';
import type { SourceType } from '../src/backend.js';
import type { Checkpoint } from '../src/checkpoint.js';
import { ownFormat } from '../src/llama-weights.js';
import { randomCheckpoint, randomModel } from './random-checkpoint.js';

/** A checkpoint whose matrices have these types, by the last part of their names; the others are quantised. */
function checkpointOf(types: Record<string, SourceType>): Checkpoint {
  const checkpoint = randomCheckpoint(randomModel('group-of-3-tied'));
  return {
    ...checkpoint,
    tensor: (name, rows, cols) => {
      const type = types[name.split('.').at(-2)!] ?? 'q4_k';
      return { type, data: new Uint8Array(0), rows, cols };
    },
  };
}

describe('the format of a checkpoint’s own', () => {
  it('is q8, its blocks, when matrices of every width are quantised', () => {
    expect(ownFormat(checkpointOf({}))).toBe('q8');
    expect(ownFormat(checkpointOf({ down_proj: 'q6_k', o_proj: 'q8_0' }))).toBe('q8');
  });

  it.each(['down_proj', 'o_proj', 'gate_proj'])('is bf16 when %s is not', (name) => {
    for (const type of ['f32', 'f16', 'bf16'] as const) expect(ownFormat(checkpointOf({ [name]: type }))).toBe('bf16');
  });

  it('is bf16 for random weights', () => {
    expect(ownFormat(randomCheckpoint(randomModel('group-of-3-tied')))).toBe('bf16');
  });
});
