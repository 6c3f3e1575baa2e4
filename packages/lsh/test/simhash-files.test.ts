import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import {
  CorruptFileError,
  FileError,
  InvalidArgumentError,
  ReadOnlyError,
  SimHashIndex,
  type SimHashIndexOptions,
  SimHashProjection,
  SimHashTables,
} from '../src/index.js';
import { normals } from './reference.js';

const folder = mkdtempSync(join(tmpdir(), 'lsh-files-'));
afterAll(() => rmSync(folder, { recursive: true }));
const path = join(folder, 'index');

const dim = 16;
const made = (options: Partial<SimHashIndexOptions> = {}) => {
  const index = new SimHashIndex({ dim, bits: 4, tables: 20, seed: 2 ** 40 + 1, threads: 2, ...options });
  index.add(normals(1, 3000 * dim));
  index.add(normals(2, 40 * dim));
  return index;
};
const queries = normals(3, 6 * dim);
const answers = (index: SimHashIndex) =>
  index.queryBatch(queries, { collisions: true, dots: true, probabilities: true, minCollisions: 3 });

describe('SimHashIndex files', () => {
  it.each([
    { keepVectors: 'f32', center: 'auto' },
    { keepVectors: 'bf16', center: normals(9, dim), projection: 'hadamard' },
    { keepVectors: 'f32', minCollisions: 1, minProbability: 0.25 },
  ] as const)('come back as they were: %o', (options) => {
    using index = made(options);
    index.save(path);
    expect(readFileSync(path).equals(index.toBuffer())).toBe(true);
    using loaded = SimHashIndex.load(path, { threads: 1 });
    using viewed = SimHashIndex.view(path);
    using verified = SimHashIndex.view(path, { verify: true });
    using read = SimHashIndex.fromBuffer(index.toBuffer());
    for (const other of [loaded, viewed, verified, read]) {
      expect(other.length).toBe(3040);
      expect(other.minCollisions).toBe(index.minCollisions);
      expect(other.minProbability).toBe(index.minProbability);
      expect(other.projection.seed).toBe(2 ** 40 + 1);
      expect(other.projection.kind).toBe(index.projection.kind);
      expect(other.centre).toEqual(index.centre);
      expect(answers(other)).toEqual(answers(index));
      expect(Buffer.from(other.toBuffer()).equals(index.toBuffer())).toBe(true);
    }
    // What was loaded grows and shrinks as the original does.
    for (const each of [index, loaded, read]) {
      expect(each.readOnly).toBe(false);
      each.add(normals(4, 1500 * dim));
      each.truncate(3700);
    }
    expect(answers(loaded)).toEqual(answers(index));
    expect(answers(read)).toEqual(answers(index));
    expect(viewed.length).toBe(3040);
  });

  it('hold indexes without vectors, and empty ones', () => {
    using codes = new SimHashIndex({ dim, bits: 4, tables: 20, keepVectors: false });
    codes.addCodes(codes.projection.hash(normals(1, 50 * dim)));
    using read = SimHashIndex.fromBuffer(codes.toBuffer());
    expect(read.query(queries.subarray(0, dim))).toEqual(codes.query(queries.subarray(0, dim)));
    expect(() => read.topK(queries.subarray(0, dim), 1)).toThrow(/keepVectors/);
    using empty = new SimHashIndex({ dim, bits: 4, tables: 20, center: 'auto' });
    using again = SimHashIndex.fromBuffer(empty.toBuffer());
    expect(again.length).toBe(0);
    again.add(normals(1, 10 * dim));
    expect(again.centre).not.toEqual(new Float32Array(dim));
  });

  it('are read-only as views', () => {
    using index = made();
    index.save(path);
    using view = SimHashIndex.view(path);
    expect(view.readOnly).toBe(true);
    expect(() => view.add(queries)).toThrow(ReadOnlyError);
    expect(() => view.truncate(1)).toThrow(ReadOnlyError);
    expect(() => view.clear()).toThrow(ReadOnlyError);
    // Replacing the file leaves the view what it was.
    using other = new SimHashIndex({ dim });
    other.save(path);
    expect(answers(view)).toEqual(answers(index));
    expect(readdirSync(folder)).toEqual(['index']);
  });

  it('say what the system said', () => {
    using index = made();
    expect(() => index.save(join(folder, 'missing', 'index'))).toThrow(FileError);
    expect(() => index.save(folder)).toThrow(FileError);
    expect(() => SimHashIndex.load(join(folder, 'missing'))).toThrow(/missing/);
    expect(() => SimHashIndex.load(folder)).toThrow(FileError);
    expect(() => SimHashIndex.load('')).toThrow(InvalidArgumentError);
    expect(() => index.save('a\0b')).toThrow(InvalidArgumentError);
    expect(() => SimHashIndex.fromBuffer('x' as unknown as Uint8Array)).toThrow(InvalidArgumentError);
    expect(readdirSync(folder)).toEqual(['index']);
  });

  it('refuse every flipped bit and every cut', () => {
    using index = made({ keepVectors: 'bf16', center: 'auto' });
    const bytes = index.toBuffer();
    const random = normals(77, 200).map((value) => Math.abs(value * 1e4) % 1);
    for (let i = 0; i < 100; i++) {
      // Headers and tables of sections as often as contents.
      const at = Math.floor(random[2 * i]! * (i % 2 === 0 ? 64 + 9 * 32 : bytes.length));
      const bit = 1 << Math.floor(random[2 * i + 1]! * 8);
      bytes[at]! ^= bit;
      expect(() => SimHashIndex.fromBuffer(bytes)).toThrow(CorruptFileError);
      writeFileSync(path, bytes);
      expect(() => SimHashIndex.load(path)).toThrow(CorruptFileError);
      expect(() => SimHashIndex.view(path, { verify: true })).toThrow(CorruptFileError);
      // A view does not look at contents: wrong answers at worst.
      try {
        using view = SimHashIndex.view(path);
        expect(answers(view).ids.every((id) => id < 3040)).toBe(true);
        view.topK(queries.subarray(0, dim), 3);
        view.stats();
      } catch (error) {
        expect(error).toBeInstanceOf(CorruptFileError);
      }
      bytes[at]! ^= bit;
    }
    writeFileSync(path, bytes);
    for (const length of [bytes.length - 1, 100_000, 4096, 300, 65, 64, 63, 1, 0]) {
      truncateSync(path, length);
      expect(() => SimHashIndex.view(path)).toThrow(CorruptFileError);
      expect(() => SimHashIndex.fromBuffer(bytes.subarray(0, length))).toThrow(CorruptFileError);
    }
    // At any alignment.
    const shifted = new Uint8Array(bytes.length + 3).subarray(3);
    shifted.set(bytes);
    using read = SimHashIndex.fromBuffer(shifted);
    expect(answers(read)).toEqual(answers(index));
  });
});

describe('SimHashTables files', () => {
  it('hold every head', () => {
    const projection = new SimHashProjection({ dim, bits: 5, tables: 30, seed: 4 });
    using tables = new SimHashTables({ heads: 5, dim, projection, threads: 1 });
    tables.add(1, normals(1, 2000 * dim));
    tables.add(4, normals(2, 30 * dim));
    tables.add(2, normals(3, 30 * dim));
    tables.truncate(2, 0);
    using read = SimHashTables.fromBuffer(tables.toBuffer(), { projection, threads: 1 });
    expect(read.projection).toBe(projection);
    expect(read.heads).toBe(5);
    for (let head = 0; head < 5; head++) {
      expect(read.length(head)).toBe(tables.length(head));
      expect(read.centre(head)).toEqual(tables.centre(head));
      expect(read.query(head, queries.subarray(0, dim))).toEqual(tables.query(head, queries.subarray(0, dim)));
    }
    const others = new SimHashProjection({ dim, bits: 5, tables: 30, seed: 5 });
    expect(() => SimHashTables.fromBuffer(tables.toBuffer(), { projection: others })).toThrow(/seed is 4 in the file/);
    expect(() => SimHashIndex.fromBuffer(tables.toBuffer())).toThrow(/5 heads/);
    using index = made();
    expect(() => SimHashTables.fromBuffer(index.toBuffer())).toThrow(/SimHashIndex/);
  });

  it('keep given centres', () => {
    const center = normals(5, 2 * dim);
    using tables = new SimHashTables({ heads: 2, dim, bits: 5, tables: 30, center, threads: 1 });
    tables.add(1, normals(1, 200 * dim));
    using read = SimHashTables.fromBuffer(tables.toBuffer());
    expect(read.centre(0)).toEqual(center.subarray(0, dim));
    expect(read.centre(1)).toEqual(center.subarray(dim));
    read.clear();
    expect(read.centre(1)).toEqual(center.subarray(dim));
  });
});
