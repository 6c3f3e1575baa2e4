// Estimates sum_i exp(q . x_i / sqrt(dim)), the denominator of a softmax, from the vectors that SimHash tables sample,
// beside the exact sum. Repeated over seeds, the estimates scatter around the exact value: the estimator has no bias.
import { inclusionProbability, SimHashIndex } from '@magicpig/lsh';

const dim = 64;
const count = 20_000;
const seeds = 20;

/** Pairs of normal values from a small generator (mulberry32), so that every run prints the same. */
function normals(length, seed) {
  let state = seed;
  const uniform = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return Float32Array.from(
    { length },
    () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()),
  );
}

const vectors = normals(count * dim, 1);
const query = normals(dim, 2).map((value) => 2 * value);
const weight = (_id, dot) => Math.exp(dot / Math.sqrt(dim));

let exact = 0;
for (let id = 0; id < count; id++) {
  let dot = 0;
  for (let i = 0; i < dim; i++) dot += query[i] * vectors[id * dim + i];
  exact += weight(id, dot);
}

const estimates = [];
let read = 0;
for (let seed = 0; seed < seeds; seed++) {
  const index = new SimHashIndex({ dim, bits: 8, tables: 75, seed });
  index.add(vectors);
  const estimate = index.estimate(query, weight);
  estimates.push(estimate.sum);
  read += estimate.read / seeds;
  if (seed === 0)
    console.log(
      `index: ${(index.bytes / 2 ** 20).toFixed(1)} MiB, of them kept vectors ${vectors.byteLength / 2 ** 20} MiB`,
    );
  index[Symbol.dispose]();
}
const mean = estimates.reduce((a, b) => a + b) / seeds;
const deviation = Math.sqrt(estimates.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (seeds - 1));

for (const cosine of [0, 0.3, 0.6]) {
  const u = inclusionProbability(cosine, { bits: 8, tables: 75 });
  console.log(`a vector at cosine ${cosine} is read with probability ${u.toFixed(3)}`);
}
console.log(`exact sum          ${exact.toFixed(1)} from ${count} vectors`);
console.log(`one estimate       ${estimates[0].toFixed(1)}`);
console.log(
  `mean of ${seeds}         ${mean.toFixed(1)} +- ${(deviation / Math.sqrt(seeds)).toFixed(1)} (standard error)`,
);
console.log(`spread of one      ${((100 * deviation) / exact).toFixed(1)} %`);
console.log(`vectors read       ${Math.round(read)} on average`);
