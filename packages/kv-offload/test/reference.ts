/** Exact attention in double precision, written from the formula: the oracle of all kernel tests. */
export interface ReferenceHead {
  /** [dim] */
  query: ArrayLike<number>;
  /** One row for each attended token. */
  keys: ArrayLike<number>[];
  values: ArrayLike<number>[];
  /** log-probabilities subtracted from the scores (paper, Algorithm 1); zeros when absent. */
  logProbability?: ArrayLike<number>;
}

export function referenceAttention({ query, keys, values, logProbability }: ReferenceHead): {
  output: Float64Array;
  logSumExp: number;
} {
  const dim = query.length;
  const output = new Float64Array(dim);
  if (keys.length === 0) return { output, logSumExp: Number.NEGATIVE_INFINITY };
  const scores = keys.map((key, i) => dot(query, key) / Math.sqrt(dim) - (logProbability?.[i] ?? 0));
  const max = scores.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const weights = scores.map((score) => Math.exp(score - max));
  const sum = weights.reduce((a, b) => a + b, 0);
  for (let i = 0; i < values.length; i++) {
    for (let j = 0; j < dim; j++) output[j]! += (weights[i]! / sum) * values[i]![j]!;
  }
  return { output, logSumExp: max + Math.log(sum) };
}

export function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}

/** |a - b| / |b| in the Euclidean norm; |a| when b is zero. */
export function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < b.length; i++) {
    difference += (a[i]! - b[i]!) ** 2;
    norm += b[i]! ** 2;
  }
  return Math.sqrt(norm > 0 ? difference / norm : difference);
}
