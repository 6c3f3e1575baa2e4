// The data of peers.mjs: seeded, so that every process makes the same.

export const dim = 128;
export const count = 100_000;
export const queryCount = 100;
/** Temperatures of the softmax sums, exp(cosine / temperature): from a few vectors that matter to nearly all of them. */
export const temperatures = [0.02, 0.05, 0.1, 0.2];
export const budgets = [0.005, 0.01, 0.02, 0.05, 0.1];

const CLUSTERS = 256;

/** Uniform values in [0, 1) (mulberry32). */
export function uniforms(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * Unit vectors as embeddings are: clusters of unequal size and width, and directions of falling variance.
 *
 * @returns { vectors: Float32Array [count][dim], queries: Float32Array [queryCount][dim] }
 */
export function makeData() {
  const uniform = uniforms(1);
  const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  const scales = Float64Array.from({ length: dim }, (_, i) => 1 / Math.sqrt(1 + i / 16));
  const centres = Float64Array.from({ length: CLUSTERS * dim }, (_, i) => normal() * scales[i % dim]);
  const widths = Float64Array.from({ length: CLUSTERS }, () => 0.5 + uniform());
  const make = (rows) => {
    const out = new Float32Array(rows * dim);
    for (let row = 0; row < rows; row++) {
      const cluster = Math.floor(CLUSTERS * uniform() ** 2);
      const x = scales.map((scale, i) => centres[cluster * dim + i] + widths[cluster] * normal() * scale);
      const norm = Math.hypot(...x);
      out.set(
        x.map((value) => value / norm),
        row * dim,
      );
    }
    return out;
  };
  return { vectors: make(count), queries: make(queryCount) };
}

/** Row i of rows [n][dim]. */
export const rowOf = (rows, i) => rows.subarray(i * dim, (i + 1) * dim);

/** Dot product of two vectors [dim]. */
export function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < dim; i++) sum += a[i] * b[i];
  return sum;
}
