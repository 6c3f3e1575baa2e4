// Blocks of keys, and the error of attention when only some blocks are looked at, by the formula of the variance.
import { KeySketch } from '@magicpig/lsh';
import { generator, scoresOf, tauOf } from './selections.mjs';

const ITERATIONS = 8;
/** Bits a dimension of the means of blocks. */
const MEAN_BITS = 4;
/** Exponents that weights of keys, by bits, and of blocks are raised to; what is added to each weight, in units of their mean. */
const TEMPER = { 1: 0.55, 2: 0.85 };
const RESIDUAL_TEMPER = { 1: 0.8, 2: 0.95 };
const BLOCK_TEMPER = 0.7;
const FLOOR = 0.02;
/** The least probability with which a block is looked at. */
const LEAST = 1 / 90;

/** Ids of n keys, so many to a block, in order. */
export function positionalBlocks(n, size) {
  return Array.from({ length: Math.ceil(n / size) }, (_, i) =>
    Uint32Array.from({ length: Math.min(size, n - i * size) }, (_, j) => i * size + j),
  );
}

/** Blocks of at most `size` keys that lie near each other (k-means), made of every `chunk` keys for themselves. */
export function clusteredBlocks(keys, dim, size, chunk) {
  const random = generator(1);
  const blocks = [];
  for (let begin = 0; begin < keys.length / dim; begin += chunk) {
    const rows = keys.subarray(begin * dim, (begin + chunk) * dim);
    const nearest = clusters(rows, dim, Math.max(1, Math.floor(rows.length / dim / size)), random);
    const members = new Map();
    for (const [i, cluster] of nearest.entries()) members.set(cluster, [...(members.get(cluster) ?? []), begin + i]);
    for (const ids of members.values()) {
      for (let i = 0; i < ids.length; i += size) blocks.push(Uint32Array.from(ids.slice(i, i + size)));
    }
  }
  return blocks;
}

/** Of each row [n, dim] the nearest of so many centres. */
function clusters(rows, dim, count, random) {
  const n = rows.length / dim;
  const row = (i) => rows.subarray(i * dim, (i + 1) * dim);
  let centres = new Float32Array(count * dim);
  for (let c = 0; c < count; c += 1) centres.set(row(Math.floor(random() * n)), c * dim);
  const nearest = new Uint32Array(n);
  for (let iteration = 0; iteration <= ITERATIONS; iteration += 1) {
    const halves = Float32Array.from({ length: count }, (_, c) => {
      const centre = centres.subarray(c * dim, (c + 1) * dim);
      return centre.reduce((sum, value) => sum + value * value, 0) / 2;
    });
    const sums = new Float32Array(count * dim);
    const counts = new Uint32Array(count);
    for (let i = 0; i < n; i += 1) {
      const scores = scoresOf(centres, row(i));
      let best = 0;
      let most = Number.NEGATIVE_INFINITY;
      for (let c = 0; c < count; c += 1) {
        const closeness = scores[c] * Math.sqrt(dim) - halves[c];
        if (closeness <= most) continue;
        most = closeness;
        best = c;
      }
      nearest[i] = best;
      counts[best] += 1;
      for (let j = 0; j < dim; j += 1) sums[best * dim + j] += rows[i * dim + j];
    }
    centres = sums.map((sum, at) => sum / Math.max(counts[Math.floor(at / dim)], 1));
  }
  return nearest;
}

/** Means [blocks, dim] of the keys of each block. */
export function meansOf(keys, dim, blocks) {
  const means = new Float32Array(blocks.length * dim);
  for (const [b, ids] of blocks.entries()) {
    for (const id of ids) for (let j = 0; j < dim; j += 1) means[b * dim + j] += keys[id * dim + j] / ids.length;
  }
  return means;
}

/** Weights of keys for draws: estimates of a sketch of them, tempered, with the floor; their mean is 1 and more. */
export function sketchWeights(sketch, bits, query) {
  return weightsOf(sketch.scores(query), TEMPER[bits]);
}

/** The same, of keys of which a sketch has what they differ by from the means of their blocks; the means are exact. */
export function residualWeights(sketch, bits, query, { blocks, means }) {
  const scores = sketch.scores(query);
  const offsets = scoresOf(means, query);
  for (const [b, ids] of blocks.entries()) for (const id of ids) scores[id] += offsets[b];
  return weightsOf(scores, RESIDUAL_TEMPER[bits]);
}

function weightsOf(scores, temper) {
  const largest = scores.reduce((a, b) => Math.max(a, b));
  const weights = Float64Array.from(scores, (score) => Math.exp(temper * (score - largest)));
  const mean = weights.reduce((sum, weight) => sum + weight, 0) / weights.length;
  return weights.map((weight) => weight / mean + FLOOR);
}

/** A sketch of vectors [n, dim]. */
export function sketchOf(vectors, dim, bits, pool) {
  const sketch = new KeySketch({ dim, bits, pool });
  sketch.add(vectors);
  return sketch;
}

/** A sketch of the means of blocks. */
export function sketchOfMeans(means, dim, pool) {
  return sketchOf(means, dim, MEAN_BITS, pool);
}

/**
 * Probabilities with which blocks are looked at: for each, the number of keys that are to be read of it, of `expected` over all, for the
 * query that reads the most.
 */
export function blockProbabilities(meanSketch, blocks, queries, expected) {
  const probabilities = new Float64Array(blocks.length);
  for (const query of queries) {
    const scores = meanSketch.scores(query);
    const largest = scores.reduce((a, b) => Math.max(a, b));
    const weights = blocks.map((ids, b) => ids.length * Math.exp(BLOCK_TEMPER * (scores[b] - largest)));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    for (const [b, weight] of weights.entries()) {
      probabilities[b] = Math.max(probabilities[b], (expected * weight) / total);
    }
  }
  return probabilities.map((probability) => Math.min(1, Math.max(LEAST, probability)));
}

/**
 * Expected squared relative error of an output of attention, the sampled ratio taken as linear: blocks are looked at with probabilities
 * p [blocks], keys of these are read such that both together have the probability min(tau w, p).
 *
 * @param attention { shares [n], the softmax of the keys; values [n, dim]; output [dim] }
 * @param blocks null: every key is looked at
 */
export function expectedError({ shares, values, output }, weights, expected, blocks, probabilities) {
  const dim = output.length;
  const tau = tauOf(weights, expected);
  const norm = output.reduce((sum, value) => sum + value * value, 0);
  let error = 0;
  const part = new Float64Array(dim);
  for (let b = 0; b < (blocks?.length ?? 1); b += 1) {
    const p = probabilities?.[b] ?? 1;
    part.fill(0);
    const count = blocks ? blocks[b].length : shares.length;
    for (let i = 0; i < count; i += 1) {
      const id = blocks ? blocks[b][i] : i;
      let square = 0;
      for (let j = 0; j < dim; j += 1) {
        const y = shares[id] * (values[id * dim + j] - output[j]);
        square += y * y;
        part[j] += y;
      }
      error += square * (1 / Math.min(tau * weights[id], p) - 1 / p);
    }
    if (p < 1) error += (1 / p - 1) * part.reduce((sum, value) => sum + value * value, 0);
  }
  return error / norm;
}
