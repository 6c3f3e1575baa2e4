// One layer of attention with a filled context, for the benchmarks.
import { KvStore } from '@magicpig/kv-offload';
import { SimHashTables } from '@magicpig/lsh';

export function median(values) {
  return values.toSorted((a, b) => a - b)[values.length >> 1];
}

/** Median milliseconds of each function over `rounds` rounds in which they take turns, after one that does not count. */
export function medians(rounds, functions) {
  const times = functions.map(() => []);
  for (let round = 0; round <= rounds; round++) {
    for (const [i, run] of functions.entries()) {
      const start = performance.now();
      run();
      if (round > 0) times[i].push(performance.now() - start);
    }
  }
  return times.map(median);
}

/** Rows of normal-like numbers, the first elements of each head shifted: directions are uneven, as those of real keys are. */
export function fill(rows, width, headDim, random) {
  pool ??= normalLike(2 ** 20);
  const data = new Float32Array(rows * width);
  for (let at = 0; at < data.length; at += headDim) {
    const from = Math.floor(random() * (pool.length - headDim));
    data.set(pool.subarray(from, from + headDim), at);
    for (let i = at; i < at + 4; i++) data[i] += 0.5;
  }
  return data;
}
let pool;

/** The same numbers whatever was drawn before, so that settings which are compared hold the same rows. */
function normalLike(length) {
  const random = uniform(7);
  return Float32Array.from({ length }, () => random() + random() + random() - 1.5);
}

/** Numbers in 0..1 from a seed (Park and Miller's generator). */
export function uniform(state) {
  return () => (state = (state * 16807) % 2147483647) / 2147483647;
}

export function setting({ length, queryHeads, kvHeads, headDim, threads, dtype = 'bf16', batch = 1, tables = true }) {
  const store = new KvStore({ layers: 1, kvHeads, queryHeads, headDim, threads, dtype });
  const random = uniform(1);
  const chunk = 2048;
  const [kv, q] = [kvHeads * headDim, queryHeads * headDim];
  const rows = fill(chunk, kv, headDim, random);
  const queries = fill(batch, q, headDim, random);
  const output = new Float32Array(batch * q);
  const sequences = Array.from({ length: batch }, () => store.open());
  for (const sequence of sequences) {
    for (let at = 0; at < length; at += chunk) {
      // Another offset for each chunk, so that no two chunks hold the same rows.
      const view = fill(Math.min(chunk, length - at), kv, headDim, random);
      const step = store.step([{ sequence, tokens: view.length / kv }]);
      step.append(0, { data: view, offset: 0, stride: kv }, { data: view, offset: 0, stride: kv });
    }
  }
  const [begin, end] = [4, Math.max(4, length - 64)];
  let index;
  if (tables) {
    index = sequences.map((sequence) => {
      const lsh = new SimHashTables({ heads: kvHeads, dim: headDim, bits: 10, tables: 150, seed: 1, threads });
      for (let head = 0; head < kvHeads; head++) lsh.add(head, store.readKeys(sequence, 0, head, begin, end));
      return lsh;
    });
  }
  const sampling = index?.map((lsh) => ({ selector: lsh.selector, begin, end }));
  const attend = (options) => {
    const step = store.step(sequences.map((sequence) => ({ sequence, tokens: 1 })));
    step.append(0, { data: rows, offset: 0, stride: kv }, { data: rows, offset: 0, stride: kv });
    step.attend(0, { data: queries, offset: 0, stride: q }, { data: output, offset: 0, stride: q }, options);
    step.rollback();
  };
  return {
    store,
    attend,
    exact: () => attend(),
    sampled: () => attend({ sampling }),
    sampledShare: () => {
      const keysRead = new Float64Array(batch);
      attend({ sampling, keysRead });
      return (keysRead[0] / queryHeads - (length + 1 - (end - begin))) / (end - begin);
    },
    output,
    bytes: batch * store.bytesFor(length),
    dispose() {
      for (const lsh of index ?? []) lsh[Symbol.dispose]();
      store[Symbol.dispose]();
    },
  };
}
