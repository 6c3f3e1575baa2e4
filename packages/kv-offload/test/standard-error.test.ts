import { describe, expect, it } from 'vitest';
import { GivenSelector, type KvDtype, KvStore, TopKSelector } from '../src/index.js';
import { headProblem, randomRows, runStep, tokensOf } from './model.js';
import { Random } from './random.js';
import { referenceAttention } from './reference.js';

const [DIM, LENGTH, BEGIN, END] = [40, 600, 4, 560];

describe.each(['f32', 'f16', 'bf16', 'int8'] as KvDtype[])('standard error over %s rows', (dtype) => {
  it('is the error that repeated samples show', () => {
    const store = new KvStore({ layers: 1, kvHeads: 1, queryHeads: 1, headDim: DIM, dtype, threads: 2 });
    const sequence = store.open();
    const random = new Random(77);
    const context = randomRows(store, LENGTH, random);
    runStep(store, [{ sequence, tokens: LENGTH }], context);
    const rows = randomRows(store, 1, random);
    const tokens = [...tokensOf(store, context, LENGTH), ...tokensOf(store, rows, 1)];
    const exact = referenceAttention(headProblem(store, tokens, 0, 0, rows.queries[0]!)).output;
    const given = new GivenSelector(store);
    const draws = 300;
    let [errors, predicted] = [0, 0];
    for (let draw = 0; draw < draws; draw++) {
      const probability = (i: number) => 0.3 + (0.5 * ((i * 5) % 7)) / 6;
      const ids = Uint32Array.from(Array(END - BEGIN).keys()).filter((i) => random.uniform() < probability(i));
      given.set(
        0,
        0,
        ids,
        Float32Array.from(ids, (i) => Math.log(probability(i))),
      );
      using fork = sequence.fork();
      const standardError = new Float32Array(1);
      const [output] = runStep(store, [{ sequence: fork, tokens: 1 }], rows, () => ({
        sampling: [{ selector: given.selector, begin: BEGIN, end: END }],
        standardError,
      }));
      errors += output!.reduce((sum, x, i) => sum + (x - exact[i]!) ** 2, 0) / draws;
      predicted += standardError[0]! ** 2 / draws;
    }
    // 300 draws of a sum over 40 dimensions: the ratio of variances has a spread of a few percent.
    expect(predicted / errors).toBeGreaterThan(0.85);
    expect(predicted / errors).toBeLessThan(1.15);
  });

  it('is 0 for exact rows and NaN for truncations', () => {
    const store = new KvStore({ layers: 1, kvHeads: 1, queryHeads: 2, headDim: 16, dtype });
    const sequence = store.open();
    const standardError = new Float32Array(2 * 100).fill(7);
    runStep(store, [{ sequence, tokens: 100 }], randomRows(store, 100, new Random(1)), () => ({ standardError }));
    expect(standardError.every((x) => x === 0)).toBe(true);
    const { selector } = new TopKSelector({ sequence, keys: 5 });
    runStep(store, [{ sequence, tokens: 1 }], randomRows(store, 1, new Random(2)), () => ({
      sampling: [{ selector, begin: 0, end: 90 }],
      standardError,
    }));
    expect([...standardError.subarray(0, 3)]).toEqual([Number.NaN, Number.NaN, 0]);
  });
});
