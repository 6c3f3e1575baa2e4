import { describe, expect, it } from 'vitest';
import {
  InvalidArgumentError,
  NonFiniteError,
  type QueryResult,
  SimHashIndex,
  SimHashProjection,
  SimHashTables,
  UnsupportedError,
} from '../src/index.js';
import { normals } from './reference.js';

const dim = 24;
const n = 1500;

/** The nearest bfloat16 of each value, ties to even. */
function toBf16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  return Uint16Array.from(bits, (word) => {
    const rest = word & 0xffff;
    const up = rest > 0x8000 || (rest === 0x8000 && (word >>> 16) % 2 === 1);
    return (word >>> 16) + (up ? 1 : 0);
  });
}

function fromBf16(values: Uint16Array): Float32Array {
  return new Float32Array(Uint32Array.from(values, (half) => half << 16).buffer);
}

const vectors = normals(1, n * dim);
const query = normals(2, dim);
const dotOf = (a: Float32Array, b: Float32Array) => a.reduce((sum, value, i) => sum + value * b[i]!, 0);
const row = (from: Float32Array, id: number) => from.subarray(id * dim, (id + 1) * dim);

describe('bfloat16', () => {
  const half = toBf16(vectors);
  const widened = fromBf16(half);

  it.each(['gaussian', 'hadamard'] as const)('is hashed as the float32 of the same value (%s)', (kind) => {
    const projection = new SimHashProjection({ dim, bits: 6, tables: 40, kind });
    expect(projection.hash(half)).toEqual(projection.hash(widened));
    expect(projection.hash(half, { threads: 3 })).toEqual(projection.hash(half));
  });

  it('is added and asked for as such', () => {
    using index = new SimHashIndex({ dim, bits: 4, tables: 40, center: 'auto', threads: 2 });
    using same = new SimHashIndex({ dim, bits: 4, tables: 40, center: 'auto', threads: 2 });
    index.add(half);
    same.add(widened);
    const what = { collisions: true, dots: true, probabilities: true };
    const asked = toBf16(query);
    expect(index.query(asked, what)).toEqual(same.query(fromBf16(asked), what));
    expect(index.queryBatch(half.subarray(0, 4 * dim), what)).toEqual(
      same.queryBatch(widened.subarray(0, 4 * dim), what),
    );
    using tables = new SimHashTables({ heads: 1, dim, bits: 4, tables: 40, threads: 1 });
    tables.add(0, half);
    expect(tables.query(0, asked)).toEqual(index.query(asked).ids);
    expect(() => index.add(half.subarray(1))).toThrow(InvalidArgumentError);
    expect(() => index.add(new Uint16Array(dim).fill(0x7f80))).toThrow(NonFiniteError);
    expect(() => index.query(asked.subarray(1))).toThrow(InvalidArgumentError);
  });

  it('is how vectors are kept, on request', () => {
    using index = new SimHashIndex({ dim, bits: 4, tables: 40, keepVectors: 'bf16', threads: 1 });
    index.add(vectors);
    using full = new SimHashIndex({ dim, bits: 4, tables: 40, threads: 1 });
    full.add(vectors);
    const { ids, dots } = index.query(query, { dots: true });
    expect(ids).toEqual(full.query(query).ids);
    ids.forEach((id, i) => {
      expect(dots![i]).toBeCloseTo(dotOf(query, row(widened, id)), 5);
    });
    expect(index.stats().bytes.vectors).toBeLessThan(0.6 * full.stats().bytes.vectors);
    expect(() => new SimHashIndex({ dim, keepVectors: 'f16' as 'bf16' })).toThrow(/keepVectors/);
  });
});

describe('dot products', () => {
  const center = normals(3, dim).map((value) => value + 0.5);

  it.each(['none', 'auto', center] as const)('and probabilities are those of the vectors, centre %#', (given) => {
    using index = new SimHashIndex({ dim, bits: 4, tables: 30, center: given, threads: 2 });
    index.add(vectors);
    const { centre } = index;
    if (given === center) expect(centre).toEqual(center);
    const { ids, dots, probabilities } = index.query(query, {
      dots: true,
      probabilities: true,
    }) as Required<QueryResult>;
    using unit = new SimHashIndex({ dim, bits: 4, tables: 30, threads: 2 });
    unit.add(vectors.map((value, i) => value - centre[i % dim]!));
    expect(unit.query(query).ids).toEqual(ids);
    const centred = unit.query(query, { probabilities: true }).probabilities!;
    ids.forEach((id, i) => {
      expect(dots[i]).toBeCloseTo(dotOf(query, row(vectors, id)), 5);
      expect(probabilities[i]).toBeCloseTo(centred[i]!, 4);
    });
  });

  it('rank the nearest, equal ones by id', () => {
    using index = new SimHashIndex({ dim, bits: 3, tables: 40, threads: 1 });
    const twice = new Float32Array(2 * vectors.length);
    twice.set(vectors);
    twice.set(vectors, vectors.length);
    index.add(twice);
    const { ids, dots } = index.query(query, { dots: true }) as Required<QueryResult>;
    const order = Array.from(ids, (id, i) => ({ id, dot: dots[i]! })).sort((a, b) => b.dot - a.dot || a.id - b.id);
    for (const k of [1, 2, 7, 100, ids.length, ids.length + 5]) {
      const best = index.topK(query, k);
      expect(Array.from(best.ids)).toEqual(order.slice(0, k).map(({ id }) => id));
      expect(Array.from(best.dots)).toEqual(order.slice(0, k).map(({ dot }) => dot));
    }
    expect(() => index.topK(query, 0)).toThrow(InvalidArgumentError);
  });
});

describe('batches and buffers', () => {
  const make = () => {
    const index = new SimHashIndex({ dim, bits: 4, tables: 30, threads: 3 });
    index.add(vectors);
    return index;
  };
  const queries = normals(4, 21 * dim);
  const all = { collisions: true, dots: true, probabilities: true };

  it('hold what single queries find', () => {
    using index = make();
    const batch = index.queryBatch(queries, all) as Required<QueryResult> & { offsets: Uint32Array };
    expect(batch.offsets.length).toBe(22);
    for (let i = 0; i < 21; i++) {
      const single = index.query(row(queries, i), all) as Required<QueryResult>;
      for (const name of ['ids', 'collisions', 'dots', 'probabilities'] as const) {
        expect(batch[name].subarray(batch.offsets[i]!, batch.offsets[i + 1])).toEqual(single[name]);
      }
    }
    expect(index.queryBatch(new Float32Array(0))).toEqual({ offsets: new Uint32Array(1), ids: new Uint32Array(0) });
    using empty = new SimHashIndex({ dim });
    expect(empty.queryBatch(queries, all).offsets).toEqual(new Uint32Array(22));
    expect(() => index.queryBatch(queries.slice().fill(Number.NaN, 30, 31))).toThrow(NonFiniteError);
    expect(() => index.queryBatch(queries.subarray(1))).toThrow(InvalidArgumentError);
  });

  it('queryInto fills the arrays that are there, as far as they go', () => {
    using index = make();
    const single = index.query(query, all) as Required<QueryResult>;
    const { length } = single.ids;
    const out = {
      ids: new Uint32Array(length + 1).fill(9),
      collisions: new Uint16Array(length + 1),
      dots: new Float64Array(length + 1),
      probabilities: new Float32Array(length + 1),
    };
    expect(index.queryInto(query, out)).toBe(length);
    expect(out.ids[length]).toBe(9);
    for (const name of ['ids', 'collisions', 'dots', 'probabilities'] as const) {
      expect(out[name].subarray(0, length)).toEqual(single[name]);
    }
    const few = { ids: new Uint32Array(5), dots: new Float64Array(3) };
    expect(index.queryInto(query, few, { minCollisions: 1 })).toBeGreaterThan(length);
    const more = index.query(query, { minCollisions: 1, dots: true });
    expect(Array.from(few.ids)).toEqual([...more.ids.subarray(0, 3), 0, 0]);
    expect(few.dots).toEqual(more.dots!.subarray(0, 3));
    expect(() => index.queryInto(query, { ids: new Uint16Array(3) as unknown as Uint32Array })).toThrow(/out.ids/);
    using codes = new SimHashIndex({ dim, keepVectors: false });
    expect(() => codes.queryInto(query, few)).toThrow(UnsupportedError);
  });
});

describe('stats', () => {
  it('count bytes and buckets', () => {
    using index = new SimHashIndex({ dim, bits: 3, tables: 2, threads: 1 });
    expect(index.stats()).toMatchObject({
      vectors: 0,
      segments: [],
      listed: 0,
      occupancy: 0,
      largestBucket: 0,
      skew: 1,
    });
    index.add(vectors);
    index.add(vectors.subarray(0, 7 * dim));
    const stats = index.stats();
    expect(stats.vectors).toBe(n + 7);
    expect(stats.listed + stats.segments.reduce((sum, count) => sum + count, 0)).toBe(n + 7);
    const sum = Object.values(stats.bytes).reduce((total, bytes) => total + bytes, 0);
    expect(index.bytes - index.projection.bytes - sum).toBeGreaterThanOrEqual(0);
    // Counted by hand.
    const codes = index.projection.hash(vectors.slice(0, (n + 7) * dim));
    const counts = new Float64Array(16);
    for (let i = 0; i < (n + 7) * 2; i++) {
      const code = i < codes.length ? codes[i]! : codes[i - codes.length]!;
      counts[code * 2 + (i % 2)]! += 1;
    }
    expect(stats.largestBucket).toBe(Math.max(...counts));
    expect(stats.occupancy).toBe(counts.filter((count) => count > 0).length / 16);
    const pairs = counts.reduce((total, count) => total + count * (count - 1), 0);
    expect(stats.skew).toBeCloseTo((pairs / 2 / ((n + 7) * (n + 6))) * 8, 9);
  });

  it('are bounded by bytesFor', () => {
    const shape = { dim, bits: 6, tables: 20 };
    using tables = new SimHashTables({ heads: 2, ...shape, threads: 2 });
    using empty = new SimHashTables({ heads: 2, ...shape, threads: 2 });
    for (const count of [1, 30, 900, 200, 1500, 20_000, 4000, 70_000]) {
      tables.add(0, normals(count, count * dim));
      const bytes = tables.bytes - empty.bytes;
      const bound = SimHashTables.bytesFor(tables.length(0), shape);
      expect(bytes).toBeLessThanOrEqual(bound);
      // No more than an eighth of slack, once the keys outweigh the buckets.
      if (count >= 20_000) expect(bound).toBeLessThan(1.125 * bytes);
    }
    expect(SimHashTables.bytesFor(0, shape)).toBeLessThan(2000);
    expect(() => SimHashTables.bytesFor(-1, shape)).toThrow(InvalidArgumentError);
  });

  it('need at most 310 bytes a vector with 150 tables', () => {
    for (const count of [32_768, 65_535, 98_304]) {
      using index = new SimHashIndex({ dim, keepVectors: false, threads: 2 });
      const codes = new Uint16Array(count * 150);
      for (let i = 0; i < codes.length; i++) codes[i] = (Math.imul(i, 0x9e3779b9) >>> 16) % 1024;
      index.addCodes(codes);
      expect((index.bytes - index.projection.bytes) / count).toBeLessThanOrEqual(310);
    }
  });
});

describe('centres', () => {
  it('must be vectors of numbers', () => {
    expect(() => new SimHashIndex({ dim, center: new Float32Array(dim - 1) })).toThrow(/24 values/);
    expect(() => new SimHashTables({ heads: 2, dim, center: new Float32Array(dim) })).toThrow(/48 values/);
    expect(() => new SimHashIndex({ dim, center: new Float32Array(dim).fill(Number.NaN) })).toThrow(NonFiniteError);
    expect(() => new SimHashIndex({ dim, center: 'mean' as 'auto' })).toThrow(/center/);
  });
});
