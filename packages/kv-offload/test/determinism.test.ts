import { SimHashTables } from '@magicpig/lsh';
import { describe, expect, it } from 'vitest';
import { KvStore, type Sampling } from '../src/index.js';
import { randomRows, runStep, type StepRows } from './model.js';
import { Random } from './random.js';

const SHAPE = { layers: 1, kvHeads: 3, queryHeads: 9, headDim: 64 };

function slice(rows: StepRows, begin: number, end: number): StepRows {
  const cut = (layers: Float32Array[], width: number) => layers.map((data) => data.slice(begin * width, end * width));
  return { keys: cut(rows.keys, 192), values: cut(rows.values, 192), queries: cut(rows.queries, 576) };
}

/** Prefills `length` tokens in steps of `chunk`, then decodes 3 more. The bytes of all outputs, in order. */
function run(rows: StepRows, length: number, chunk: number, threads: number, dtype: 'bf16' | 'f32', sampled = false) {
  using store = new KvStore({ ...SHAPE, dtype, threads });
  const sequence = store.open();
  const outputs: Float32Array[] = [];
  for (let begin = 0; begin < length; begin += chunk) {
    const end = Math.min(length, begin + chunk);
    outputs.push(runStep(store, [{ sequence, tokens: end - begin }], slice(rows, begin, end))[0]!);
  }
  using tables = new SimHashTables({ heads: 3, dim: 64, bits: 6, tables: 40, seed: 1, threads });
  let sampling: Sampling[] | undefined;
  if (sampled) {
    for (let head = 0; head < 3; head++) tables.add(head, store.readKeys(sequence, 0, head, 4, length - 64));
    sampling = [{ selector: tables.selector, begin: 4, end: length - 64 }];
  }
  for (let token = length; token < length + 3; token++) {
    outputs.push(runStep(store, [{ sequence, tokens: 1 }], slice(rows, token, token + 1), () => ({ sampling }))[0]!);
  }
  return Buffer.concat(outputs.map((output) => Buffer.from(output.buffer)));
}

describe.each(['bf16', 'f32'] as const)('%s results are the same bits', (dtype) => {
  const store = new KvStore(SHAPE);

  it('on any number of threads', () => {
    const rows = randomRows(store, 903, new Random(4));
    for (const sampled of [false, true]) {
      const one = run(rows, 900, 900, 1, dtype, sampled);
      for (const threads of [2, 3, 8]) expect(run(rows, 900, 900, threads, dtype, sampled).equals(one)).toBe(true);
    }
  });

  it('however a prompt is cut into steps of two tokens or more', () => {
    const rows = randomRows(store, 333, new Random(5));
    const whole = run(rows, 330, 330, 2, dtype);
    for (const chunk of [2, 6, 64, 100]) expect(run(rows, 330, chunk, 2, dtype).equals(whole)).toBe(true);
  });

  it('whether the parts of a long context are one task or many', () => {
    const rows = randomRows(store, 8300, new Random(6));
    const [few, many] = [1, 8].map((threads) => {
      using long = new KvStore({ ...SHAPE, dtype, threads });
      const sequence = long.open();
      runStep(long, [{ sequence, tokens: 8290 }], slice(rows, 0, 8290));
      return runStep(long, [{ sequence, tokens: 10 }], slice(rows, 8290, 8300))[0]!;
    });
    expect(many).toEqual(few);
  });
});
