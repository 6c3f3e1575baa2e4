import { KeySketch } from '@magicpig/lsh';
import { describe, expect, it } from 'vitest';
import { KvStore } from '../src/index.js';
import { headProblem, randomRows, runStep, type Token, tokensOf } from './model.js';
import { Random } from './random.js';
import { referenceAttention, relativeError } from './reference.js';

const SHAPE = { layers: 2, kvHeads: 2, queryHeads: 6, headDim: 64 } as const;
const HEADS = SHAPE.layers * SHAPE.kvHeads;
const LAYERS = [0, 1];
const LENGTH = 600;
const [BEGIN, END] = [4, 540];

/** A context of random tokens, and a sketch of those that are sampled. */
function context(options: ConstructorParameters<typeof KeySketch>[0], threads = 2) {
  const store = new KvStore({ ...SHAPE, dtype: 'f32', threads });
  const sequence = store.open();
  const rows = randomRows(store, LENGTH, new Random(3), 1.5);
  runStep(store, [{ sequence, tokens: LENGTH }], rows);
  const sketch = new KeySketch({ ...options, heads: HEADS });
  for (let head = 0; head < HEADS; head++) {
    const [layer, kvHead] = [Math.floor(head / SHAPE.kvHeads), head % SHAPE.kvHeads];
    sketch.add(store.readKeys(sequence, layer, kvHead, BEGIN, END), head);
  }
  return { store, sequence, tokens: tokensOf(store, rows, LENGTH), sketch };
}

function attend(parts: ReturnType<typeof context>, queries: ReturnType<typeof randomRows>) {
  const { store, sequence, sketch } = parts;
  const fork = sequence.fork();
  const keysRead = new Float64Array(1);
  const logSumExp = LAYERS.map(() => new Float32Array(SHAPE.queryHeads));
  const outputs = runStep(store, [{ sequence: fork, tokens: 1 }], queries, (layer) => ({
    sampling: [{ selector: sketch.selector, begin: BEGIN, end: END }],
    keysRead,
    logSumExp: logSumExp[layer]!,
  }));
  fork[Symbol.dispose]();
  return { outputs, keysRead: keysRead[0]!, logSumExp };
}

describe.each([1, 2, 3, 4])('a sketch of %i bits', (bits) => {
  it.each([[{ share: 0.1 }], [{ count: 40 }], [{ error: 0.2 }]])(
    'as selector gives the reference on the keys and probabilities it draws: %j',
    (budget) => {
      const parts = context({ dim: SHAPE.headDim, bits, budget, seed: 7 });
      const { store, tokens, sketch } = parts;
      const queries = randomRows(store, 1, new Random(9));
      const { outputs, keysRead, logSumExp } = attend(parts, queries);
      const all: Token[] = [...tokens, ...tokensOf(store, queries, 1)];
      const exact = Array.from({ length: LENGTH + 1 }, (_, i) => i).filter((i) => i < BEGIN || i >= END);
      let read = 0;
      for (const layer of LAYERS) {
        for (let head = 0; head < SHAPE.queryHeads; head++) {
          const query = queries.queries[layer]!.subarray(head * 64, (head + 1) * 64);
          const index = layer * SHAPE.kvHeads + Math.floor(head / 3);
          const { ids, logProbabilities } = sketch.sample(query, { head: index, step: LENGTH });
          read += exact.length + ids.length;
          const attended = [...exact, ...Array.from(ids, (id) => BEGIN + id)];
          const logProbability = [...exact.map(() => 0), ...logProbabilities];
          const problem = { ...headProblem(store, all, layer, head, query, attended), logProbability };
          const expected = referenceAttention(problem);
          expect(relativeError(outputs[layer]!.subarray(head * 64, (head + 1) * 64), expected.output)).toBeLessThan(
            1e-5,
          );
          expect(Math.abs(logSumExp[layer]![head]! - expected.logSumExp)).toBeLessThan(1e-5);
        }
      }
      expect(keysRead).toBe(read);
    },
  );

  it('that draws every key gives exact attention', () => {
    const parts = context({ dim: SHAPE.headDim, bits, budget: { share: 1 } });
    const queries = randomRows(parts.store, 1, new Random(10));
    const { outputs, keysRead } = attend(parts, queries);
    expect(keysRead).toBe(2 * SHAPE.queryHeads * (LENGTH + 1));
    const exact = runStep(parts.store, [{ sequence: parts.sequence, tokens: 1 }], queries);
    for (const layer of LAYERS) expect(relativeError(outputs[layer]!, exact[layer]!)).toBeLessThan(1e-5);
  });
});

it('draws the same keys on any number of threads, and others for another seed', () => {
  const outputs = (threads: number, seed: number) => {
    const parts = context({ dim: SHAPE.headDim, budget: { share: 0.05 }, seed }, threads);
    return attend(parts, randomRows(parts.store, 1, new Random(11))).outputs;
  };
  const [one, three, other] = [outputs(1, 0), outputs(3, 0), outputs(1, 1)];
  expect(three).toEqual(one);
  expect(relativeError(other[0]!, one[0]!)).toBeGreaterThan(1e-3);
});
