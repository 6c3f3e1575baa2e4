import { describe, expect, it } from 'vitest';
import { type KvDtype, KvStore } from '../src/index.js';
import { extremeRows, randomRows, referenceRow, runStep, type Token, tokensOf } from './model.js';
import { Random } from './random.js';
import { relativeError } from './reference.js';

const TOLERANCE: Record<KvDtype, number> = { f32: 1e-5, f16: 2e-3, bf16: 1e-2, int8: 3e-2 };

interface Case {
  dtype: KvDtype;
  kvHeads: number;
  queryHeads: number;
  headDim: number;
  /** Tokens of each step of one sequence. */
  steps: number[];
  pageTokens?: number;
  scale?: number;
}

/** Largest relative error of any row of any step against the reference. */
function worstError({ steps, scale, ...shape }: Case): number {
  const random = new Random(1);
  using store = new KvStore({ layers: 2, threads: 2, ...shape });
  const sequence = store.open();
  const tokens: Token[] = [];
  const width = store.queryHeads * store.headDim;
  let worst = 0;
  for (const count of steps) {
    const rows = randomRows(store, count, random, scale);
    tokens.push(...tokensOf(store, rows, count));
    const logSumExp = new Float32Array(count * store.queryHeads);
    const outputs = runStep(store, [{ sequence, tokens: count }], rows, () => ({ logSumExp }));
    const start = tokens.length - count;
    // Every row of short steps, some rows of long ones: the reference is slow.
    const picked = count <= 8 ? [...Array(count).keys()] : [0, 1, 5, 6, count >> 1, count - 2, count - 1];
    for (const row of picked) {
      for (const [layer, output] of outputs.entries()) {
        const queries = rows.queries[layer]!.subarray(row * width, (row + 1) * width);
        const expected = referenceRow(store, tokens.slice(0, start + row + 1), layer, queries);
        worst = Math.max(worst, relativeError(output.subarray(row * width, (row + 1) * width), expected.output));
        if (layer === 1) {
          const got = logSumExp.subarray(row * store.queryHeads, (row + 1) * store.queryHeads);
          for (let h = 0; h < got.length; h++) {
            worst = Math.max(
              worst,
              Math.abs(got[h]! - expected.logSumExp[h]!) / Math.max(1, Math.abs(expected.logSumExp[h]!)),
            );
          }
        }
      }
    }
  }
  return worst;
}

describe.each(['f32', 'f16', 'bf16', 'int8'] as const)('exact attention, %s rows', (dtype) => {
  it.each([
    [1, 1, 8],
    [1, 1, 256],
    [3, 9, 64],
    [2, 4, 72],
    [2, 8, 80],
    [1, 5, 96],
    [2, 16, 104],
    [1, 4, 128],
    [1, 7, 248],
  ])('%i KV heads, %i query heads, dim %i', (kvHeads, queryHeads, headDim) => {
    const steps = [5, 1, 1, 70, 1, 2];
    expect(worstError({ dtype, kvHeads, queryHeads, headDim, steps })).toBeLessThan(TOLERANCE[dtype]);
  });

  it.each([16, 64, 128])('contexts that end at and around page and tile edges, pages of %i', (pageTokens) => {
    const steps = [15, 1, 1, 46, 1, 1, 1, 61, 1, 1, 1, 1, 126, 1, 1, 1, 1];
    const shape = { dtype, kvHeads: 1, queryHeads: 2, headDim: 32, pageTokens };
    expect(worstError({ ...shape, steps })).toBeLessThan(TOLERANCE[dtype]);
  });

  it('contexts of several parts', () => {
    const shape = { dtype, kvHeads: 1, queryHeads: 2, headDim: 16 };
    expect(worstError({ ...shape, steps: [4090, 1, 9, 1, 4100, 1] })).toBeLessThan(TOLERANCE[dtype]);
  });

  it('attends to a single key exactly', () => {
    using store = new KvStore({ layers: 1, kvHeads: 1, queryHeads: 3, headDim: 24, dtype });
    const rows = randomRows(store, 1, new Random(7));
    rows.values[0] = Float32Array.from({ length: 24 }, (_, i) => (i === 23 ? 127 : i - 8));
    const [output] = runStep(store, [{ sequence: store.open(), tokens: 1 }], rows);
    for (let head = 0; head < 3; head++) {
      expect([...output!.subarray(head * 24, head * 24 + 24)]).toEqual([...rows.values[0]!]);
    }
  });

  it('gives the mean of the values when all scores are equal', () => {
    using store = new KvStore({ layers: 1, kvHeads: 1, queryHeads: 1, headDim: 8, dtype });
    const sequence = store.open();
    const rows = randomRows(store, 300, new Random(3));
    rows.keys[0]!.fill(0.5);
    for (let i = 0; i < 300; i++) rows.values[0]!.fill(i % 3, i * 8, i * 8 + 8);
    runStep(store, [{ sequence, tokens: 300 }], rows);
    const last = randomRows(store, 3, new Random(4));
    last.keys[0]!.fill(0.5);
    for (let i = 0; i < 3; i++) last.values[0]!.fill(i, i * 8, i * 8 + 8);
    const outputs = runStep(store, [{ sequence, tokens: 3 }], last)[0]!;
    for (const x of outputs.subarray(16)) expect(x).toBeCloseTo(1, 5);
  });

  it.each([1e4, -1e4])('survives scores of %d', (score) => {
    using store = new KvStore({ layers: 1, kvHeads: 1, queryHeads: 1, headDim: 64, dtype });
    const sequence = store.open();
    runStep(store, [{ sequence, tokens: 100 }], extremeRows(store, 100, 0, score));
    for (const count of [1, 5]) {
      const output = runStep(
        store,
        [{ sequence, tokens: count }],
        extremeRows(store, count, sequence.length, score),
      )[0]!;
      // The extreme key takes all of the weight, or none of it.
      for (const x of output) expect(x).toBe(score > 0 ? 2 : 1);
    }
  });
});

describe('strided rows', () => {
  it('reads queries, keys and values in place out of one matrix and writes only its own columns', () => {
    const random = new Random(11);
    using store = new KvStore({ layers: 1, kvHeads: 2, queryHeads: 4, headDim: 16, dtype: 'f32' });
    const [q, kv] = [4 * 16, 2 * 16];
    const stride = q + 2 * kv + 5;
    const data = random.normals(3 + 6 * stride);
    const rows = {
      keys: [new Float32Array(6 * kv)],
      values: [new Float32Array(6 * kv)],
      queries: [new Float32Array(6 * q)],
    };
    for (let i = 0; i < 6; i++) {
      const row = data.subarray(3 + i * stride);
      rows.queries[0]!.set(row.subarray(0, q), i * q);
      rows.keys[0]!.set(row.subarray(q, q + kv), i * kv);
      rows.values[0]!.set(row.subarray(q + kv, q + 2 * kv), i * kv);
    }
    const expected = runStep(store, [{ sequence: store.open(), tokens: 6 }], rows)[0]!;

    const step = store.step([{ sequence: store.open(), tokens: 6 }]);
    step.append(0, { data, offset: 3 + q, stride }, { data, offset: 3 + q + kv, stride });
    const output = new Float32Array(2 + 6 * (q + 7)).fill(-1);
    step.attend(0, { data, offset: 3, stride }, { data: output, offset: 2, stride: q + 7 });
    for (let i = 0; i < 6; i++) {
      const row = output.subarray(2 + i * (q + 7));
      expect([...row.subarray(0, q)]).toEqual([...expected.subarray(i * q, (i + 1) * q)]);
      if (i < 5) expect([...row.subarray(q, q + 7)]).toEqual(Array(7).fill(-1));
    }
  });

  it('counts the keys read', () => {
    using store = new KvStore({ layers: 1, kvHeads: 2, queryHeads: 6, headDim: 8 });
    const sequence = store.open();
    const keysRead = new Float64Array([100, 0, 0]);
    runStep(store, [{ sequence, tokens: 3 }], randomRows(store, 3, new Random(1)), () => ({ keysRead }));
    expect([...keysRead]).toEqual([106, 12, 18]);
    const single = new Float64Array(1);
    runStep(store, [{ sequence, tokens: 1 }], randomRows(store, 1, new Random(1)), () => ({ keysRead: single }));
    expect(single[0]).toBe(24);
  });
});
