// One index of peers.mjs in a process of its own, so that its memory can be told: builds it, asks it for nearest neighbours
// and for sums, and sends what it measured to the parent.
import { rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SimHashIndex, tune } from '@magicpig/lsh';
import { budgets, count, dim, dot, makeData, queryCount, rowOf, temperatures } from './peers-data.mjs';

const peer = createRequire(new URL('peers/package.json', import.meta.url));
const EXPANSIONS = [16, 32, 64, 128, 256];
const RECALLS = [0.5, 0.8, 0.9, 0.99, 0.999];
const SEEDS = [1, 2, 3];
const ROUNDS = 3;
/** Of a graph: links and candidates while building, the defaults of usearch. */
const LINKS = 16;
const EXPANSION_ADD = 128;

const { vectors, queries } = makeData();

process.once('message', ({ engine, exact, nearest, cosine }) => {
  process.send(measure[engine](exact, nearest, cosine), () => process.disconnect());
});

const measure = {
  lsh(exact, nearest, cosine) {
    // The first index is the one for recall 0.9.
    const tunings = RECALLS.map((recall) => tune({ dim, recall, cosine, vectors, queries, maxTables: 300 }));
    const make = ({ bits, tables, minCollisions }, seed) => {
      const index = new SimHashIndex({ dim, bits, tables, minCollisions, seed, projection: 'hadamard', threads: 1 });
      index.add(vectors);
      return index;
    };
    const { index: first, ...built } = building(() => make(tunings[RECALLS.indexOf(0.9)], 1));
    first[Symbol.dispose]();
    const search = tunings.map((tuning) => {
      const index = make(tuning, 1);
      const timed = neighbours((query) => index.topK(query, 10).ids, nearest);
      index[Symbol.dispose]();
      return { setting: shapeOf(tuning), share: tuning.share, ...timed };
    });
    const sums = budgets.map((budget) => {
      const tuning = tune({ dim, budget, minCollisions: 2, vectors, queries, maxTables: 300 });
      const errors = temperatures.map(() => []);
      let read = 0;
      for (const seed of SEEDS) {
        const index = make(tuning, seed);
        temperatures.forEach((temperature, t) => {
          for (let i = 0; i < queryCount; i++) {
            const estimate = index.estimate(rowOf(queries, i), (_, product) => Math.exp(product / temperature));
            errors[t].push(estimate.sum / exact[t][i] - 1);
            read += estimate.read / (SEEDS.length * queryCount * temperatures.length);
          }
        });
        index[Symbol.dispose]();
      }
      return { setting: shapeOf(tuning), read: read / count, errors: errors.map(summary) };
    });
    return { ...built, search, sums };
  },

  usearch(exact, nearest) {
    const { Index, MetricKind, ScalarKind } = peer('usearch');
    const make = (expansion) => new Index(dim, MetricKind.IP, ScalarKind.F32, LINKS, EXPANSION_ADD, expansion, false);
    const { index, ...built } = building(() => {
      const made = make(64);
      made.add(
        BigUint64Array.from({ length: count }, (_, i) => BigInt(i)),
        vectors,
        1,
      );
      return made;
    });
    const file = join(tmpdir(), `usearch-${process.pid}`);
    index.save(file);
    const ids = (at, query, k) => Array.from(at.search(query, k, 1).keys, Number);
    const search = EXPANSIONS.map((expansion) => {
      const loaded = make(expansion);
      loaded.load(file);
      return { setting: `expansion ${expansion}`, ...neighbours((query) => ids(loaded, query, 10), nearest) };
    });
    rmSync(file);
    return { ...built, search, sums: truncations((query, k) => ids(index, query, k), exact) };
  },

  hnswlib(exact, nearest) {
    const { HierarchicalNSW } = peer('hnswlib-node');
    // It takes arrays only; making them is not counted.
    const rows = Array.from({ length: count }, (_, i) => Array.from(rowOf(vectors, i)));
    const asked = new Map(Array.from({ length: queryCount }, (_, i) => [i, Array.from(rowOf(queries, i))]));
    const { index, ...built } = building(() => {
      const made = new HierarchicalNSW('ip', dim);
      made.initIndex(count, LINKS, EXPANSION_ADD);
      rows.forEach((row, i) => {
        made.addPoint(row, i);
      });
      return made;
    });
    const search = EXPANSIONS.map((expansion) => {
      index.setEf(expansion);
      return {
        setting: `ef ${expansion}`,
        ...neighbours((_, i) => index.searchKnn(asked.get(i), 10).neighbors, nearest),
      };
    });
    const sums = truncations((_, k, i) => {
      index.setEf(k);
      return index.searchKnn(asked.get(i), k).neighbors;
    }, exact);
    return { ...built, search, sums };
  },
};

function building(make) {
  global.gc();
  const before = process.memoryUsage().rss;
  const start = performance.now();
  const index = make();
  const buildMs = performance.now() - start;
  global.gc();
  return { index, buildMs, bytesPerVector: (process.memoryUsage().rss - before) / count };
}

/** Recall at 10 and the time of one query on one thread. */
function neighbours(find, nearest) {
  const times = [];
  let hits = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const start = performance.now();
    const found = Array.from({ length: queryCount }, (_, i) => find(rowOf(queries, i), i));
    times.push((performance.now() - start) / queryCount);
    if (round === 0) hits = found.reduce((sum, ids, i) => sum + nearest[i].filter((id) => ids.includes(id)).length, 0);
  }
  return { recall: hits / (10 * queryCount), queryMs: times.sort((a, b) => a - b)[ROUNDS >> 1] };
}

/** Sums over the k nearest that an index finds, as estimates of sums over all. */
function truncations(find, exact) {
  return budgets.map((budget) => {
    const errors = temperatures.map(() => []);
    for (let i = 0; i < queryCount; i++) {
      const query = rowOf(queries, i);
      const dots = find(query, budget * count, i).map((id) => dot(query, rowOf(vectors, id)));
      temperatures.forEach((temperature, t) => {
        const sum = dots.reduce((all, product) => all + Math.exp(product / temperature), 0);
        errors[t].push(sum / exact[t][i] - 1);
      });
    }
    return { read: budget, errors: errors.map(summary) };
  });
}

/** Root mean square and mean of relative errors: how far off, and how far off on average. */
export function summary(errors) {
  const mean = errors.reduce((sum, error) => sum + error, 0) / errors.length;
  const square = errors.reduce((sum, error) => sum + error * error, 0) / errors.length;
  return { rms: Math.sqrt(square), bias: mean };
}

function shapeOf({ bits, tables, minCollisions }) {
  return `K ${bits}, L ${tables}, ${minCollisions}+`;
}
