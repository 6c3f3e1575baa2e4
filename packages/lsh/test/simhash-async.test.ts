import { rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { describe, expect, it } from 'vitest';
import {
  BusyError,
  DisposedError,
  InvalidArgumentError,
  NonFiniteError,
  ReadOnlyError,
  SimHashIndex,
} from '../src/index.js';
import { normals } from './reference.js';

const dim = 16;
const make = () => new SimHashIndex({ dim, bits: 6, tables: 30, center: 'auto', threads: 2 });
const vectors = normals(1, 20_000 * dim);
const queries = normals(2, 60 * dim);
/** So many that no call is done with them before it can be stopped; in TypeScript fewer take as long. */
const copies = process.env.MAGICPIG_ISA === 'typescript' ? 1 : 30;
const many = new Float32Array(copies * vectors.length);
for (let i = 0; i < copies; i++) many.set(vectors, i * vectors.length);
const manyQueries = vectors.subarray(0, 10_000 * dim);

describe('addAsync', () => {
  it('adds what add adds, and reports progress', async () => {
    using index = make();
    using reference = make();
    const reports: [number, number][] = [];
    const given = vectors.slice();
    const promise = index.addAsync(given, { onProgress: (done, total) => reports.push([done, total]) });
    given.fill(Number.NaN); // copied already
    expect(await promise).toBe(0);
    reference.add(vectors);
    expect(reports.at(-1)).toEqual([20_000, 20_000]);
    expect(reports.every(([done], i) => i === 0 || reports[i - 1]![0] <= done)).toBe(true);
    expect(await index.addAsync(vectors.subarray(0, 5 * dim))).toBe(20_000);
    reference.add(vectors.subarray(0, 5 * dim));
    expect(Buffer.from(index.toBuffer()).equals(reference.toBuffer())).toBe(true);
  });

  it('changes nothing when it is stopped', async () => {
    using index = make();
    index.add(vectors.subarray(0, 100 * dim));
    const before = index.toBuffer();
    const aborting = new AbortController();
    const reason = new Error('enough');
    const promise = index.addAsync(many, { signal: aborting.signal });
    aborting.abort(reason);
    await expect(promise).rejects.toBe(reason);
    expect(Buffer.from(index.toBuffer()).equals(before)).toBe(true);
    await expect(index.addAsync(vectors, { signal: aborting.signal })).rejects.toBe(reason);
    await expect(index.addAsync(vectors.slice().fill(Number.NaN, 9 * dim))).rejects.toThrow(NonFiniteError);
    await expect(index.addAsync(vectors.subarray(1))).rejects.toThrow(InvalidArgumentError);
    expect(Buffer.from(index.toBuffer()).equals(before)).toBe(true);
    expect(index.add(vectors.subarray(0, dim))).toBe(100);
  });

  it('is stopped by an error of onProgress', async () => {
    using index = make();
    const failure = new Error('no more reports');
    const promise = index.addAsync(many, {
      onProgress: () => {
        throw failure;
      },
    });
    await expect(promise).rejects.toBe(failure);
    expect(index.length).toBe(0);
  });

  it('lets nobody else in', async () => {
    using index = make();
    const promise = index.addAsync(many);
    const query = queries.subarray(0, dim);
    expect(() => index.length).toThrow(BusyError);
    expect(() => index.add(query)).toThrow(/wait for the promise/);
    expect(() => index.query(query)).toThrow(BusyError);
    expect(() => index.clear()).toThrow(BusyError);
    expect(() => index.toBuffer()).toThrow(BusyError);
    await expect(index.addAsync(query)).rejects.toThrow(BusyError);
    await expect(index.queryBatchAsync(query)).rejects.toThrow(BusyError);
    await promise;
    expect(index.length).toBe(many.length / dim);
  });

  it('is refused by views', async () => {
    using index = make();
    const path = join(tmpdir(), `lsh-async-${process.pid}`);
    index.save(path);
    using view = SimHashIndex.view(path);
    rmSync(path);
    await expect(view.addAsync(queries)).rejects.toThrow(ReadOnlyError);
  });
});

describe('queryBatchAsync', () => {
  it('finds what queryBatch finds, beside other queries', async () => {
    using index = make();
    index.add(vectors);
    const options = { minCollisions: 4, collisions: true, probabilities: true };
    const [first, second] = await Promise.all([
      index.queryBatchAsync(queries, options),
      index.queryBatchAsync(queries.subarray(dim), { ...options, onProgress: () => {} }),
    ]);
    const expected = index.queryBatch(queries, options);
    expect(isDeepStrictEqual(first, expected)).toBe(true);
    expect(isDeepStrictEqual(second.ids, expected.ids.slice(expected.offsets[1]!))).toBe(true);
    const promise = index.queryBatchAsync(queries);
    expect(index.query(queries.subarray(0, dim)).ids.length).toBeGreaterThan(0);
    expect(() => index.add(queries)).toThrow(BusyError);
    expect(() => index.truncate(5)).toThrow(/queryBatchAsync/);
    await promise;
    index.add(queries);
  });

  it('can be stopped', async () => {
    using index = make();
    index.add(vectors);
    const aborting = new AbortController();
    const promise = index.queryBatchAsync(manyQueries, { signal: aborting.signal });
    aborting.abort();
    await expect(promise).rejects.toMatchObject({ name: 'AbortError' });
    await expect(index.queryBatchAsync(queries.slice().fill(Number.NaN))).rejects.toThrow(NonFiniteError);
    index.truncate(10);
    expect(index.length).toBe(10);
  });
});

describe('disposal', () => {
  it('stops what runs, and frees afterwards', async () => {
    const index = make();
    const adding = index.addAsync(many);
    index[Symbol.dispose]();
    expect(() => index.length).toThrow(DisposedError);
    await expect(adding).rejects.toThrow(DisposedError);

    const other = make();
    other.add(vectors);
    const querying = [other.queryBatchAsync(queries), other.queryBatchAsync(queries)];
    other[Symbol.dispose]();
    other[Symbol.dispose]();
    await Promise.all(querying.map((promise) => expect(promise).rejects.toThrow(DisposedError)));
    await expect(other.queryBatchAsync(queries)).rejects.toThrow(DisposedError);
  });
});
