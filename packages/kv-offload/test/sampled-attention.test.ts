import { logInclusionTable, SimHashTables } from '@magicpig/lsh';
import { describe, expect, it } from 'vitest';
import {
  GivenSelector,
  type KvDtype,
  type KvSequence,
  KvStore,
  mergeStates,
  type Sampling,
  SelectorError,
} from '../src/index.js';
import { extremeRows, headProblem, randomRows, rowsOf, runStep, type Token, tokensOf } from './model.js';
import { Random } from './random.js';
import { dot, referenceAttention, relativeError } from './reference.js';

const TOLERANCE: Record<KvDtype, number> = { f32: 1e-5, f16: 2e-3, bf16: 1e-2, int8: 3e-2 };

interface Context {
  store: KvStore;
  sequence: KvSequence;
  tokens: Token[];
}

function context(dtype: KvDtype, length: number, shape: object = {}, random = new Random(21)): Context {
  const store = new KvStore({ layers: 2, kvHeads: 2, queryHeads: 6, headDim: 64, dtype, threads: 2, ...shape });
  const sequence = store.open();
  const rows = randomRows(store, length, random);
  runStep(store, [{ sequence, tokens: length }], rows);
  return { store, sequence, tokens: tokensOf(store, rows, length) };
}

/** Static tokens, then those of `ids` relative to begin. */
function attended(begin: number, end: number, position: number, ids: ArrayLike<number>): number[] {
  const all = Array.from({ length: position + 1 }, (_, i) => i);
  return [...all.filter((i) => i < begin || i >= end), ...Array.from(ids, (id) => begin + id)];
}

describe.each(['f32', 'f16', 'bf16', 'int8'] as const)('sampled attention over %s rows', (dtype) => {
  it.each([
    ['some', [3, 4, 17, 63, 64, 65, 200, 255]],
    ['one', [100]],
    ['no', []],
    ['all', Array.from({ length: 256 }, (_, i) => i)],
    ['an odd number of', Array.from({ length: 77 }, (_, i) => 3 * i)],
  ])('of %s given keys equals the reference on the same keys', (_, ids) => {
    const { store, sequence, tokens } = context(dtype, 330);
    const given = new GivenSelector(store);
    const random = new Random(5);
    const logs = Float32Array.from(ids, () => -4 * random.uniform());
    for (let head = 0; head < 6; head++) {
      given.set(0, head, Uint32Array.from(ids));
      given.set(1, head, Uint32Array.from(ids), logs);
    }
    const [begin, end] = [4, 260];
    for (const count of [1, 3]) {
      const rows = randomRows(store, count, random);
      const logSumExp = new Float32Array(count * 6);
      const keysRead = new Float64Array(count);
      const sampling = [{ selector: given.selector, begin, end }];
      const outputs = runStep(store, [{ sequence, tokens: count }], rows, (layer) =>
        layer === 0 ? { sampling, keysRead } : { sampling, logSumExp },
      );
      const start = tokens.length;
      tokens.push(...tokensOf(store, rows, count));
      for (let row = 0; row < count; row++) {
        const read = attended(begin, end, start + row, ids);
        expect(keysRead[row]).toBe(6 * read.length);
        for (let layer = 0; layer < 2; layer++) {
          for (let head = 0; head < 6; head++) {
            const at = (row * 6 + head) * 64;
            const query = rows.queries[layer]!.subarray(at, at + 64);
            const logProbability = read.map((_, i) => {
              const first = read.length - ids.length;
              return layer === 1 && i >= first ? logs[i - first]! : 0;
            });
            const problem = { ...headProblem(store, tokens, layer, head, query, read), logProbability };
            const expected = referenceAttention(problem);
            expect(relativeError(outputs[layer]!.subarray(at, at + 64), expected.output)).toBeLessThan(
              TOLERANCE[dtype],
            );
            if (layer === 1) {
              expect(Math.abs(logSumExp[row * 6 + head]! - expected.logSumExp)).toBeLessThan(TOLERANCE[dtype]);
            }
          }
        }
      }
    }
  });

  it('of all keys equals exact attention', () => {
    const { store, sequence } = context(dtype, 500);
    const given = new GivenSelector(store);
    for (let head = 0; head < 6; head++) {
      for (let layer = 0; layer < 2; layer++)
        given.set(
          layer,
          head,
          Uint32Array.from({ length: 430 }, (_, i) => i),
        );
    }
    const rows = randomRows(store, 1, new Random(8));
    const other = sequence.fork();
    const exact = runStep(store, [{ sequence, tokens: 1 }], rows);
    const sampled = runStep(store, [{ sequence: other, tokens: 1 }], rows, () => ({
      sampling: [{ selector: given.selector, begin: 4, end: 434 }],
    }));
    for (const [layer, output] of sampled.entries()) {
      expect(relativeError(output, exact[layer]!)).toBeLessThan(TOLERANCE[dtype] / 2);
    }
  });

  it('with nothing to attend to gives zeros and -Infinity', () => {
    const { store, sequence } = context(dtype, 9);
    const given = new GivenSelector(store);
    for (let head = 0; head < 6; head++)
      for (let layer = 0; layer < 2; layer++) given.set(layer, head, new Uint32Array());
    const logSumExp = new Float32Array(6);
    const outputs = runStep(store, [{ sequence, tokens: 1 }], randomRows(store, 1, new Random(8)), () => ({
      sampling: [{ selector: given.selector, begin: 0, end: 10 }],
      logSumExp,
    }));
    expect(outputs[1]!.every((x) => x === 0)).toBe(true);
    expect([...logSumExp]).toEqual(Array(6).fill(Number.NEGATIVE_INFINITY));
  });

  it('without the other tokens is the part that merges with exact attention over them', () => {
    const { store, sequence } = context(dtype, 330, { layers: 1 });
    const given = new GivenSelector(store);
    const random = new Random(5);
    // Heads with many keys, with one, and with none.
    const drawn = [Array.from({ length: 90 }, (_, i) => 2 * i), [7], [], [0, 255], [3, 4, 5], [64]];
    for (const [head, ids] of drawn.entries()) {
      given.set(
        0,
        head,
        Uint32Array.from(ids),
        Float32Array.from(ids, () => -2 * random.uniform()),
      );
    }
    const rows = randomRows(store, 1, new Random(8));
    const run = (sampling: Sampling) => {
      using fork = sequence.fork();
      const [logSumExp, keysRead] = [new Float32Array(6), new Float64Array(1)];
      const options = { sampling: [sampling], logSumExp, keysRead };
      const [output] = runStep(store, [{ sequence: fork, tokens: 1 }], rows, () => options);
      return { output: output!, logSumExp, keysRead: keysRead[0] };
    };
    const range = { selector: given.selector, begin: 4, end: 260 };
    const nothing = new GivenSelector(store);
    for (let head = 0; head < 6; head++) nothing.set(0, head, new Uint32Array());
    const whole = run(range);
    const part = run({ ...range, sampledOnly: true });
    const others = run({ ...range, selector: nothing.selector });
    expect(part.keysRead).toBe(drawn.flat().length);
    expect(whole.keysRead).toBe(part.keysRead! + others.keysRead!);
    expect(part.logSumExp[2]).toBe(Number.NEGATIVE_INFINITY);
    expect(part.output.subarray(2 * 64, 3 * 64).every((x) => x === 0)).toBe(true);
    const merged = mergeStates([part, others]);
    expect(relativeError(merged.output, whole.output)).toBeLessThan(dtype === 'f32' ? 1e-6 : TOLERANCE[dtype] / 3);
    expect(relativeError(merged.logSumExp, whole.logSumExp)).toBeLessThan(1e-6);

    // Tokens before the step need no keys of the step; others do.
    using fork = sequence.fork();
    const step = store.step([{ sequence: fork, tokens: 1 }]);
    const output = new Float32Array(6 * 64);
    const attend = (sampling: Sampling) =>
      step.attend(0, rowsOf(rows.queries[0]!, 6 * 64), rowsOf(output, 6 * 64), { sampling: [sampling] });
    attend({ ...range, sampledOnly: true });
    expect(output).toEqual(part.output);
    expect(() => attend(range)).toThrow(/call append\(\) first/);
    expect(() => attend({ ...range, end: 331, sampledOnly: true })).toThrow(/call append\(\) first/);

    // It tells how long selectors took: of what is exact nothing.
    const [sampledMs, exactMs] = [new Float64Array(2), new Float64Array(2)];
    for (const [sampling, ms] of [
      [range, sampledMs],
      [null, exactMs],
    ] as const) {
      using other = sequence.fork();
      runStep(store, [{ sequence: other, tokens: 1 }], rows, () => ({ sampling: [sampling], sampledMs: ms }));
    }
    expect(sampledMs[0]).toBeGreaterThan(0);
    expect(sampledMs[1]).toBeGreaterThan(sampledMs[0]!);
    expect([...exactMs]).toEqual([0, 0]);

    // No sampled tokens at all.
    const empty = run({ selector: nothing.selector, begin: 4, end: 4, sampledOnly: true });
    expect(empty.output.every((x) => x === 0)).toBe(true);
    expect([...empty.logSumExp]).toEqual(Array(6).fill(Number.NEGATIVE_INFINITY));
  });

  it.each([
    [16, 0, 16],
    [16, 15, 33],
    [64, 64, 128],
    [64, 63, 129],
    [128, 1, 331],
  ])('begins and ends at and around the edges of pages of %i: tokens %i to %i', (pageTokens, begin, end) => {
    const { store, sequence, tokens } = context(dtype, 330, { pageTokens, layers: 1 });
    const given = new GivenSelector(store);
    const ids = Uint32Array.from(
      [0, 1, end - begin - 2, end - begin - 1].filter((id, i, all) => all.indexOf(id) === i),
    );
    for (let head = 0; head < 6; head++) given.set(0, head, ids);
    const rows = randomRows(store, 1, new Random(6));
    const [output] = runStep(store, [{ sequence, tokens: 1 }], rows, () => ({
      sampling: [{ selector: given.selector, begin, end }],
    }));
    tokens.push(...tokensOf(store, rows, 1));
    for (let head = 0; head < 6; head++) {
      const query = rows.queries[0]!.subarray(head * 64, head * 64 + 64);
      const problem = headProblem(store, tokens, 0, head, query, attended(begin, end, 330, ids));
      const expected = referenceAttention(problem).output;
      expect(relativeError(output!.subarray(head * 64, head * 64 + 64), expected)).toBeLessThan(TOLERANCE[dtype]);
    }
  });

  it.each([1e4, -1e4])('survives scores of %d', (score) => {
    const shape = { layers: 1, kvHeads: 1, queryHeads: 1, headDim: 64 };
    using store = new KvStore({ ...shape, dtype, threads: 1 });
    const sequence = store.open();
    runStep(store, [{ sequence, tokens: 100 }], extremeRows(store, 100, 0, score));
    const given = new GivenSelector(store);
    given.set(0, 0, Uint32Array.of(3, 40, 41, 77), Float32Array.of(-1, -2, -30, -0.5));
    const logSumExp = new Float32Array(1);
    const [output] = runStep(store, [{ sequence, tokens: 1 }], extremeRows(store, 1, 100, score), () => ({
      sampling: [{ selector: given.selector, begin: 0, end: 100 }],
      logSumExp,
    }));
    // The extreme key takes all of the weight, or none of it.
    for (const x of output!) expect(x).toBe(score > 0 ? 2 : 1);
    expect(Math.abs(logSumExp[0]! - (score > 0 ? score + 2 : score / 2 + 30))).toBeLessThan(Math.abs(score) * 0.01);
  });

  it.each([
    [64, 3, 9],
    [128, 2, 8],
    [80, 1, 3],
  ])('with SimHash tables, dim %i, equals the reference on their candidates', (headDim, kvHeads, queryHeads) => {
    const length = 1200;
    const { store, sequence, tokens } = context(dtype, length, { headDim, kvHeads, queryHeads });
    const [begin, end] = [4, length - 64];
    const shape = { bits: 6, tables: 60 };
    using tables = new SimHashTables({ heads: 2 * kvHeads, dim: headDim, ...shape, seed: 3, threads: 1 });
    for (let layer = 0; layer < 2; layer++) {
      for (let head = 0; head < kvHeads; head++) {
        tables.add(layer * kvHeads + head, store.readKeys(sequence, layer, head, begin, end));
      }
    }
    const rows = randomRows(store, 1, new Random(31));
    const outputs = runStep(store, [{ sequence, tokens: 1 }], rows, () => ({
      sampling: [{ selector: tables.selector, begin, end }],
    }));
    tokens.push(...tokensOf(store, rows, 1));
    const table = logInclusionTable(shape);
    for (let layer = 0; layer < 2; layer++) {
      for (let head = 0; head < queryHeads; head++) {
        const query = rows.queries[layer]!.subarray(head * headDim, (head + 1) * headDim);
        const index = layer * kvHeads + Math.floor(head / (queryHeads / kvHeads));
        const ids = tables.query(index, query);
        expect(ids.length).toBeGreaterThan(0);
        expect(ids.length).toBeLessThan(end - begin);
        const read = attended(begin, end, length, ids);
        const problem = headProblem(store, tokens, layer, head, query, read);
        const centre = tables.centre(index);
        const logProbability = problem.keys.map((key, i) => {
          if (i < read.length - ids.length) return 0;
          const centred = Float64Array.from(key, (x, j) => x - centre[j]!);
          const cosine = dot(query, centred) / Math.sqrt(dot(query, query) * dot(centred, centred));
          const x = ((cosine + 1) / 2) * (table.length - 1);
          const low = Math.min(Math.floor(x), table.length - 2);
          return -(table[low]! + (table[low + 1]! - table[low]!) * (x - low));
        });
        const expected = referenceAttention({ ...problem, logProbability });
        const output = outputs[layer]!.subarray(head * headDim, (head + 1) * headDim);
        expect(relativeError(output, expected.output)).toBeLessThan(TOLERANCE[dtype] * (dtype === 'f32' ? 10 : 1));
      }
    }
  });
});

describe('SimHash sampling', () => {
  it('is unbiased over seeds', () => {
    const length = 500;
    const { store, sequence, tokens } = context('f32', length, { layers: 1, kvHeads: 1, queryHeads: 1, headDim: 32 });
    const rows = randomRows(store, 1, new Random(12));
    tokens.push(...tokensOf(store, rows, 1));
    const exact = referenceAttention(headProblem(store, tokens, 0, 0, rows.queries[0]!));
    const keys = store.readKeys(sequence, 0, 0, 0, length);
    const ratios = Array.from({ length: 400 }, (_, seed) => {
      using tables = new SimHashTables({ heads: 1, dim: 32, bits: 3, tables: 12, seed, threads: 1 });
      tables.add(0, keys);
      using fork = sequence.fork();
      const logSumExp = new Float32Array(1);
      runStep(store, [{ sequence: fork, tokens: 1 }], rows, () => ({
        sampling: [{ selector: tables.selector, begin: 0, end: length }],
        logSumExp,
      }));
      return Math.exp(logSumExp[0]! - exact.logSumExp); // estimate of the denominator over the true one
    });
    const mean = ratios.reduce((sum, x) => sum + x, 0) / ratios.length;
    const variance = ratios.reduce((sum, x) => sum + (x - mean) ** 2, 0) / (ratios.length - 1);
    expect(Math.abs(mean - 1)).toBeLessThan(3.5 * Math.sqrt(variance / ratios.length));
    expect(Math.sqrt(variance)).toBeGreaterThan(0.01);
  });
});

describe('a sampled batch', () => {
  it('mixes exact and sampled entries, each as if it were alone', () => {
    const { store, sequence } = context('bf16', 300);
    const given = new GivenSelector(store);
    for (let head = 0; head < 6; head++)
      for (let layer = 0; layer < 2; layer++) given.set(layer, head, Uint32Array.of(5, 90));
    const sampled = { selector: given.selector, begin: 10, end: 250 };
    const random = new Random(2);
    const kinds = [
      { tokens: 1, sampling: null },
      { tokens: 1, sampling: sampled },
      { tokens: 70, sampling: null },
      { tokens: 2, sampling: sampled },
    ];
    const parts = kinds.map(({ tokens }) => randomRows(store, tokens, random));
    const alone = kinds.map(({ tokens, sampling }, i) => {
      using fork = sequence.fork();
      return runStep(store, [{ sequence: fork, tokens }], parts[i]!, () => ({ sampling: [sampling] }));
    });
    const join = (pick: 'keys' | 'values' | 'queries') =>
      [0, 1].map((layer) => Float32Array.from(parts.flatMap((part) => [...part[pick][layer]!])));
    const together = runStep(
      store,
      kinds.map(({ tokens }) => ({ sequence: sequence.fork(), tokens })),
      { keys: join('keys'), values: join('values'), queries: join('queries') },
      () => ({ sampling: kinds.map((kind) => kind.sampling) }),
    );
    for (const layer of [0, 1]) {
      expect([...together[layer]!]).toEqual(alone.flatMap((outputs) => [...outputs[layer]!]));
    }
  });
});

describe('selector errors', () => {
  const attend = ({ store, sequence }: Context, selector: object, begin = 4, end = 60) =>
    runStep(store, [{ sequence, tokens: 1 }], randomRows(store, 1, new Random(1)), () => ({
      sampling: [{ selector, begin, end }],
    }));

  it('refuses foreign handles', () => {
    for (const selector of [{}, [], new Float32Array(4), new Date()]) {
      expect(() => attend(context('f32', 100), selector)).toThrow(SelectorError);
    }
  });

  it('refuses a selector built for another shape', () => {
    const ours = context('f32', 100);
    const narrow = new KvStore({ layers: 2, kvHeads: 2, queryHeads: 2, headDim: 32 });
    expect(() => attend(ours, new GivenSelector(narrow).selector)).toThrow(/head dimension 32; the store has 64/);
    const shallow = new KvStore({ layers: 1, kvHeads: 1, queryHeads: 1, headDim: 64 });
    expect(() => attend(context('f32', 100), new GivenSelector(shallow).selector)).toThrow(/has 1 heads/);
  });

  it('reports a selector that fails, and ids out of range', () => {
    const ours = context('f32', 100);
    const given = new GivenSelector(ours.store);
    expect(() => attend(ours, given.selector)).toThrow(/sampling\[0\] failed to select/);
    for (let head = 0; head < 6; head++) given.set(0, head, Uint32Array.of(56));
    expect(() => attend(ours, given.selector)).toThrow(/ids beyond the sampled tokens/);
  });

  it('refuses sampled tokens that the first query does not see', () => {
    const ours = context('f32', 100);
    const given = new GivenSelector(ours.store);
    expect(() => attend(ours, given.selector, 4, 102)).toThrow(/sees only tokens 0 to 100/);
    expect(() => attend(context('f32', 100), given.selector, 9, 8)).toThrow(/sampling\[0\].end is 8/);
    expect(() =>
      runStep(ours.store, [{ sequence: ours.sequence, tokens: 1 }], randomRows(ours.store, 1, new Random(1)), () => ({
        sampling: [{ selector: given.selector, begin: 4, end: 60, sampledOnly: 'no' as unknown as boolean }],
      })),
    ).toThrow(/sampling\[0\].sampledOnly is no/);
  });
});
