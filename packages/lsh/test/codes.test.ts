import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { SimHashProjection, type SimHashProjectionOptions } from '../src/index.js';

type Case = SimHashProjectionOptions & { vectors: number[]; codes: number[] };
const cases: Case[] = JSON.parse(readFileSync(new URL('fixtures/codes.json', import.meta.url), 'utf8'));

describe('codes', () => {
  it.each(cases)('are those of the test vectors: $kind, dim $dim', ({ vectors, codes, ...options }) => {
    const hashed = new SimHashProjection(options).hash(Float32Array.from(vectors));
    expect(Array.from(hashed)).toEqual(codes);
  });
});
