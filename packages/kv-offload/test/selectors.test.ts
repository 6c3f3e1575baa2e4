import { describe, expect, it } from 'vitest';
import {
  DisposedError,
  GivenSelector,
  H2oSelector,
  IvfSelector,
  type KvSequence,
  KvStore,
  mergeStates,
  OracleSelector,
  QuestSelector,
  SelectorError,
  TopKSelector,
  WindowSelector,
} from '../src/index.js';
import { headProblem, randomRows, runStep, type StepRows, type Token, tokensOf } from './model.js';
import { Random } from './random.js';
import { dot, referenceAttention, relativeError } from './reference.js';

const DIM = 32;
const LENGTH = 403;
const HEADS = 4;
const [BEGIN, END] = [3, 380];

function context(): { store: KvStore; sequence: KvSequence; tokens: Token[]; rows: StepRows } {
  const store = new KvStore({ layers: 2, kvHeads: 2, queryHeads: HEADS, headDim: DIM, dtype: 'f32', threads: 2 });
  const sequence = store.open();
  const rows = randomRows(store, LENGTH, new Random(17));
  runStep(store, [{ sequence, tokens: LENGTH }], rows);
  return { store, sequence, tokens: tokensOf(store, rows, LENGTH), rows };
}

/** Scores of the sampled tokens for one query head of the next row. */
function scores(store: KvStore, tokens: Token[], layer: number, head: number, query: Float32Array): number[] {
  const { keys } = headProblem(store, tokens.slice(BEGIN, END), layer, head, query);
  return keys.map((key) => dot(query, key) / Math.sqrt(DIM));
}

function largest(values: number[], count: number): number[] {
  const order = values.map((_, i) => i).sort((a, b) => values[b]! - values[a]! || a - b);
  return order.slice(0, count).sort((a, b) => a - b);
}

/** Attends once with `selector` and expects what the reference makes of the chosen ids. */
function expectSelection(
  { store, sequence, tokens }: ReturnType<typeof context>,
  selector: object,
  choose: (layer: number, head: number, query: Float32Array) => number[],
): void {
  const rows = randomRows(store, 1, new Random(99));
  const all = [...tokens, ...tokensOf(store, rows, 1)];
  using fork = sequence.fork();
  const outputs = runStep(store, [{ sequence: fork, tokens: 1 }], rows, () => ({
    sampling: [{ selector, begin: BEGIN, end: END }],
  }));
  for (let layer = 0; layer < 2; layer++) {
    for (let head = 0; head < HEADS; head++) {
      const query = rows.queries[layer]!.subarray(head * DIM, (head + 1) * DIM);
      const statics = all.map((_, i) => i).filter((i) => i < BEGIN || i >= END);
      const ids = [...statics, ...choose(layer, head, query).map((id) => BEGIN + id)];
      const expected = referenceAttention(headProblem(store, all, layer, head, query, ids)).output;
      expect(relativeError(outputs[layer]!.subarray(head * DIM, (head + 1) * DIM), expected)).toBeLessThan(1e-5);
    }
  }
}

describe('selectors', () => {
  it('window takes the first and the last tokens', () => {
    const setting = context();
    const { selector } = new WindowSelector({ store: setting.store, sink: 2, window: 5 });
    const count = END - BEGIN;
    expectSelection(setting, selector, () => [0, 1, ...Array.from({ length: 5 }, (_, i) => count - 5 + i)]);
    const wide = new WindowSelector({ store: setting.store, sink: 300, window: 300 });
    expectSelection(setting, wide.selector, () => Array.from({ length: count }, (_, i) => i));
  });

  it('topk takes the tokens of largest score', () => {
    const setting = context();
    const { selector } = new TopKSelector({ sequence: setting.sequence, begin: BEGIN, keys: 20 });
    expectSelection(setting, selector, (layer, head, query) =>
      largest(scores(setting.store, setting.tokens, layer, head, query), 20),
    );
  });

  it('quest takes the blocks with the largest bound', () => {
    const setting = context();
    const quest = new QuestSelector({ sequence: setting.sequence, begin: BEGIN, keys: 64 });
    quest.index(200); // in two parts, the first ending inside a block
    quest.index(END);
    expectSelection(setting, quest.selector, (layer, head, query) => {
      const { keys } = headProblem(setting.store, setting.tokens.slice(BEGIN, END), layer, head, query);
      const bounds = Array.from({ length: Math.ceil(keys.length / 16) }, (_, block) => {
        const rows = keys.slice(block * 16, block * 16 + 16);
        return Array.from(query, (x, i) => Math.max(...rows.map((row) => x * row[i]!))).reduce((a, b) => a + b, 0);
      });
      return largest(bounds, 4).flatMap((block) => keys.map((_, i) => i).filter((i) => Math.floor(i / 16) === block));
    });
  });

  it('h2o takes the tokens that took most attention', () => {
    const setting = context();
    const { store, sequence, tokens, rows } = setting;
    const h2o = new H2oSelector({ sequence, begin: BEGIN, keys: 25 });
    const width = HEADS * DIM;
    const first = 350;
    for (let layer = 0; layer < 2; layer++) {
      h2o.observe(layer, { data: rows.queries[layer]!, offset: first * width, stride: width }, LENGTH - first, first);
    }
    expectSelection(setting, h2o.selector, (layer, head) => {
      const shares = Array<number>(END - BEGIN).fill(0);
      for (let row = first; row < LENGTH; row++) {
        const query = rows.queries[layer]!.subarray(row * width + head * DIM, row * width + (head + 1) * DIM);
        const { keys } = headProblem(store, tokens.slice(BEGIN, row + 1), layer, head, query);
        const weights = keys.map((key) => Math.exp(dot(query, key) / Math.sqrt(DIM)));
        const sum = weights.reduce((a, b) => a + b, 0);
        for (let i = 0; i < Math.min(shares.length, weights.length); i++) shares[i]! += weights[i]! / sum;
      }
      return largest(shares, 25);
    });
  });

  it('ivf reads whole cells, and all keys when asked for all', () => {
    const setting = context();
    const all = new IvfSelector({ sequence: setting.sequence, begin: BEGIN, keys: END - BEGIN, cells: 10, seed: 4 });
    all.index(300);
    all.index(END);
    expectSelection(setting, all.selector, () => Array.from({ length: END - BEGIN }, (_, i) => i));

    // Two far groups of keys: a query reads the cell on its side, which is all of its group.
    const { store } = setting;
    using sequence = store.open();
    const rows = randomRows(store, 100, new Random(3), 0.01);
    for (let i = 0; i < 100; i++)
      for (const layer of [0, 1]) rows.keys[layer]![i * 64] = rows.keys[layer]![i * 64 + 32] = i % 2 === 0 ? 9 : -9;
    runStep(store, [{ sequence, tokens: 100 }], rows);
    const ivf = new IvfSelector({ sequence, keys: 1, cells: 2 });
    ivf.index(100);
    const query = randomRows(store, 1, new Random(5), 0.01);
    for (const layer of [0, 1]) for (let head = 0; head < HEADS; head++) query.queries[layer]![head * DIM] = 3;
    const keysRead = new Float64Array(1);
    runStep(store, [{ sequence, tokens: 1 }], query, (layer) => ({
      sampling: [{ selector: ivf.selector, begin: 0, end: 100 }],
      keysRead: layer === 0 ? keysRead : undefined,
    }));
    expect(keysRead[0]).toBe(HEADS * (50 + 1));
  });

  it('need an index that covers what is sampled', () => {
    const { store, sequence } = context();
    const quest = new QuestSelector({ sequence, keys: 16 });
    quest.index(100);
    const attend = () =>
      runStep(store, [{ sequence: sequence.fork(), tokens: 1 }], randomRows(store, 1, new Random(1)), () => ({
        sampling: [{ selector: quest.selector, begin: 0, end: 101 }],
      }));
    expect(attend).toThrow(/failed to select/);
    expect(() => quest.index(LENGTH + 1)).toThrow(/end is 404/);
    expect(() => quest.index(50)).toThrow(/end is 50/);
  });

  it('notice that the sequence was truncated and went on otherwise', () => {
    const { store, sequence } = context();
    const options = { sequence, keys: 32 };
    const quest = new QuestSelector(options);
    const ivf = new IvfSelector({ ...options, cells: 4, seed: 3 });
    for (const each of [quest, ivf]) each.index(200);
    const sampled = (selector: object, end: number) => {
      using fork = sequence.fork();
      return runStep(store, [{ sequence: fork, tokens: 1 }], randomRows(store, 1, new Random(1)), () => ({
        sampling: [{ selector, begin: 0, end, sampledOnly: true }],
      }));
    };
    const before = [quest, ivf].map((each) => sampled(each.selector, 200));
    sequence.truncate(200); // nothing that is covered
    expect([quest, ivf].map((each) => sampled(each.selector, 200))).toEqual(before);
    sequence.truncate(100);
    runStep(store, [{ sequence, tokens: 150 }], randomRows(store, 150, new Random(77)));
    for (const each of [quest, ivf]) {
      expect(() => sampled(each.selector, 200)).toThrow(SelectorError);
      each.index(180); // fewer than before
    }
    const [freshQuest, freshIvf] = [new QuestSelector(options), new IvfSelector({ ...options, cells: 4, seed: 3 })];
    for (const each of [freshQuest, freshIvf]) each.index(180);
    expect(sampled(quest.selector, 180)).toEqual(sampled(freshQuest.selector, 180));
    expect(sampled(ivf.selector, 180)).toEqual(sampled(freshIvf.selector, 180));
  });

  it('h2o forgets the shares of tokens that the sequence forgot', () => {
    const { store, sequence } = context();
    const { queries, keys } = randomRows(store, 1, new Random(3));
    const query = { data: queries[0]!, offset: 0, stride: HEADS * DIM };
    const own = { data: keys[0]!, offset: 0, stride: store.kvHeads * DIM };
    using h2o = new H2oSelector({ sequence, keys: LENGTH }); // all tokens that have a share
    const read = () => {
      using fork = sequence.fork();
      const step = store.step([{ sequence: fork, tokens: 1 }]);
      step.append(0, own, own);
      const output = { data: new Float32Array(HEADS * DIM), offset: 0, stride: HEADS * DIM };
      const keysRead = new Float64Array(1);
      const sampling = [{ selector: h2o.selector, begin: 0, end: 200, sampledOnly: true }];
      step.attend(0, query, output, { sampling, keysRead });
      return keysRead[0]! / HEADS;
    };
    h2o.observe(0, query, 1, 250);
    expect(read()).toBe(200);
    sequence.truncate(100);
    runStep(store, [{ sequence, tokens: 120 }], randomRows(store, 120, new Random(77)));
    expect(read()).toBe(100);
    h2o.observe(0, query, 1, 149);
    expect(read()).toBe(150);
  });

  it('are freed at once, and unusable afterwards', () => {
    const { store, sequence, rows } = context();
    const options = { sequence, keys: 8 };
    const selectors = [
      new TopKSelector(options),
      new OracleSelector(options),
      new QuestSelector(options),
      new IvfSelector({ ...options, cells: 4 }),
      new H2oSelector(options),
    ];
    const [, , quest, ivf, h2o] = selectors as [unknown, unknown, QuestSelector, IvfSelector, H2oSelector];
    const observe = () => h2o.observe(0, { data: rows.queries[0]!, offset: 0, stride: HEADS * DIM }, 1, 0);
    quest.index(100);
    ivf.index(100);
    observe();
    const attend = (selector: object) =>
      runStep(store, [{ sequence: sequence.fork(), tokens: 1 }], randomRows(store, 1, new Random(1)), () => ({
        sampling: [{ selector, begin: 0, end: 50 }],
      }));
    for (const each of selectors) {
      attend(each.selector);
      each[Symbol.dispose]();
      expect(() => attend(each.selector)).toThrow(SelectorError);
      expect(() => each[Symbol.dispose]()).toThrow(DisposedError);
    }
    for (const use of [() => quest.index(200), () => ivf.index(200), observe]) expect(use).toThrow(DisposedError);

    const other = sequence.fork();
    const orphans = [
      new QuestSelector({ sequence: other, keys: 8 }),
      new IvfSelector({ sequence: other, keys: 8, cells: 4 }),
    ];
    for (const each of orphans) each.index(100);
    other[Symbol.dispose]();
    for (const each of orphans) {
      expect(() => each.index(200)).toThrow(DisposedError);
      expect(() => attend(each.selector)).toThrow(SelectorError);
      each[Symbol.dispose]();
    }
    expect(() => new TopKSelector({ sequence: other, keys: 1 })).toThrow(DisposedError);
  });

  it('oracle sampling is unbiased over seeds', () => {
    const { store, sequence, tokens } = context();
    const rows = randomRows(store, 1, new Random(7));
    const all = [...tokens, ...tokensOf(store, rows, 1)];
    const query = rows.queries[1]!.subarray(DIM, 2 * DIM);
    const exact = referenceAttention(headProblem(store, all, 1, 1, query));
    const sums: number[] = [];
    const mean = new Float64Array(DIM);
    const seeds = 400;
    for (let seed = 0; seed < seeds; seed++) {
      using fork = sequence.fork();
      const { selector } = new OracleSelector({ sequence, begin: BEGIN, keys: 10, seed });
      const logSumExp = new Float32Array(HEADS);
      const output = runStep(store, [{ sequence: fork, tokens: 1 }], rows, () => ({
        sampling: [{ selector, begin: BEGIN, end: END }],
        logSumExp,
      }))[1]!;
      sums.push(Math.exp(logSumExp[1]! - exact.logSumExp));
      for (let i = 0; i < DIM; i++) mean[i]! += output[DIM + i]! / seeds;
    }
    // Draws from the true softmax know its sum: the denominator has no error at all.
    for (const sum of sums) expect(Math.abs(sum - 1)).toBeLessThan(1e-4);
    const deviation = Math.sqrt(dot(exact.output, exact.output));
    expect(relativeError(mean, exact.output) * deviation).toBeLessThan(0.25);
  });

  it('given selections with random inclusion are unbiased over draws', () => {
    const { store, sequence, tokens } = context();
    const rows = randomRows(store, 1, new Random(7));
    const all = [...tokens, ...tokensOf(store, rows, 1)];
    const query = rows.queries[0]!.subarray(0, DIM);
    const exact = referenceAttention(headProblem(store, all, 0, 0, query));
    const random = new Random(123);
    const given = new GivenSelector(store);
    const ratios: number[] = [];
    for (let draw = 0; draw < 500; draw++) {
      // Independent inclusion with probabilities between 0.1 and 0.5.
      const probability = (i: number) => 0.1 + (0.4 * ((i * 7) % 11)) / 10;
      const ids = Uint32Array.from(Array(END - BEGIN).keys()).filter((i) => random.uniform() < probability(i));
      const logs = Float32Array.from(ids, (i) => Math.log(probability(i)));
      for (let layer = 0; layer < 2; layer++)
        for (let head = 0; head < HEADS; head++) given.set(layer, head, ids, logs);
      using fork = sequence.fork();
      const logSumExp = new Float32Array(HEADS);
      runStep(store, [{ sequence: fork, tokens: 1 }], rows, (layer) => ({
        sampling: [{ selector: given.selector, begin: BEGIN, end: END }],
        logSumExp: layer === 0 ? logSumExp : undefined,
      }));
      ratios.push(Math.exp(logSumExp[0]! - exact.logSumExp));
    }
    const mean = ratios.reduce((a, b) => a + b, 0) / ratios.length;
    const variance = ratios.reduce((sum, x) => sum + (x - mean) ** 2, 0) / (ratios.length - 1);
    expect(Math.abs(mean - 1)).toBeLessThan(3.5 * Math.sqrt(variance / ratios.length));
    expect(Math.sqrt(variance)).toBeGreaterThan(0.01);
  });
});

describe('mergeStates', () => {
  it('of parts is attention over all keys', () => {
    const { store, sequence, tokens } = context();
    const rows = randomRows(store, 1, new Random(4));
    const all = [...tokens, ...tokensOf(store, rows, 1)];
    const given = new GivenSelector(store);
    const part = (begin: number, end: number) => {
      // Only the given tokens: everything is "sampled", and the row's own token belongs to the last part.
      const ids = Uint32Array.from({ length: end - begin }, (_, i) => begin + i);
      for (let layer = 0; layer < 2; layer++) for (let head = 0; head < HEADS; head++) given.set(layer, head, ids);
      using fork = sequence.fork();
      const logSumExp = new Float32Array(HEADS);
      const outputs = runStep(store, [{ sequence: fork, tokens: 1 }], rows, (layer) => ({
        sampling: [{ selector: given.selector, begin: 0, end: LENGTH + 1 }],
        logSumExp: layer === 1 ? logSumExp : undefined,
      }));
      return { output: outputs[1]!, logSumExp };
    };
    const merged = mergeStates([part(0, 100), part(0, 0), part(100, 399), part(399, LENGTH + 1)]);
    for (let head = 0; head < HEADS; head++) {
      const query = rows.queries[1]!.subarray(head * DIM, (head + 1) * DIM);
      const exact = referenceAttention(headProblem(store, all, 1, head, query));
      expect(relativeError(merged.output.subarray(head * DIM, (head + 1) * DIM), exact.output)).toBeLessThan(1e-5);
      expect(merged.logSumExp[head]).toBeCloseTo(exact.logSumExp, 4);
    }
    const nothing = mergeStates([part(0, 0), part(0, 0)]);
    expect([...nothing.logSumExp]).toEqual(Array(HEADS).fill(Number.NEGATIVE_INFINITY));
    expect(nothing.output.every((x) => x === 0)).toBe(true);
  });

  it('refuses parts of different shapes', () => {
    const state = (states: number) => ({ output: new Float32Array(states * 8), logSumExp: new Float32Array(states) });
    expect(() => mergeStates([])).toThrow(/parts is empty/);
    expect(() => mergeStates([state(2), state(3)])).toThrow(/parts\[1\] has 3 states/);
  });
});
