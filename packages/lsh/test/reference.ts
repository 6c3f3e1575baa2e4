/** The hash and the candidates from their definitions, in the plainest form: what every engine must reproduce exactly. */

/** Philox4x32-10 (Salmon et al. 2011) in arbitrary precision. */
export function philox(counter: number[], key: number[]): number[] {
  const M = 0xffffffffn;
  let [c0, c1, c2, c3] = counter.map(BigInt) as [bigint, bigint, bigint, bigint];
  let [k0, k1] = key.map(BigInt) as [bigint, bigint];
  for (let round = 0; round < 10; round++) {
    const a = 0xd2511f53n * c0;
    const b = 0xcd9e8d57n * c2;
    [c0, c1, c2, c3] = [(b >> 32n) ^ c1 ^ k0, b & M, (a >> 32n) ^ c3 ^ k1, a & M];
    k0 = (k0 + 0x9e3779b9n) & M;
    k1 = (k1 + 0xbb67ae85n) & M;
  }
  return [c0, c1, c2, c3].map(Number);
}

/** erf by its Taylor series, good to 1e-12 for |x| < 3. */
function erf(x: number): number {
  let term = x;
  let sum = x;
  for (let n = 1; n < 200; n++) {
    term *= -(x * x) / n;
    sum += term / (2 * n + 1);
  }
  return (2 / Math.sqrt(Math.PI)) * sum;
}

const QUANTILES = Array.from({ length: 63 }, (_, i) => Math.round(2 ** 31 * erf((i + 1) / 16 / Math.SQRT2)));

/** 2 floor(16 g) + 1 for the standard normal g at the word's quantile, clamped to +-127; the top bit is the sign. */
export function weightOfWord(word: number): number {
  const magnitude = word % 2 ** 31;
  const weight = 2 * QUANTILES.filter((quantile) => quantile <= magnitude).length + 1;
  return word >= 2 ** 31 ? -weight : weight;
}

export interface Shape {
  dim: number;
  bits: number;
  tables: number;
  seed?: number;
}

export class Reference {
  /** [tables][bits][dim] */
  readonly weights: number[][][];
  readonly limit: number;

  constructor(readonly shape: Shape) {
    const { dim, bits, tables, seed = 0 } = shape;
    const key = [seed % 2 ** 32, Math.floor(seed / 2 ** 32)];
    this.limit = Math.min(32767, Math.floor((2 ** 31 - 1) / (127 * dim)));
    this.weights = Array.from({ length: tables }, (_, t) =>
      Array.from({ length: bits }, (_, j) => {
        const words: number[] = [];
        for (let block = 0; words.length < dim; block++) words.push(...philox([block, j, t, 0], key));
        return words.slice(0, dim).map(weightOfWord);
      }),
    );
  }

  /** Code of x - centre in every table. */
  codes(x: Float32Array, centre: Float32Array | number[] = []): number[] {
    const centred = Array.from(x, (value, i) => Math.fround(value - (centre[i] ?? 0)));
    const peak = Math.max(...centred.map(Math.abs));
    const scale = Math.fround(this.limit / peak);
    const rounded = centred.map((value) => (peak < 2 ** -100 ? 0 : roundHalfEven(Math.fround(value * scale))));
    return this.weights.map((rows) =>
      rows.reduce((code, row, j) => {
        const sum = row.reduce((total, w, i) => total + w * rounded[i]!, 0);
        return sum > 0 ? code | (1 << j) : code;
      }, 0),
    );
  }

  static mean(keys: Float32Array, dim: number): Float32Array {
    const sums = new Float64Array(dim);
    for (let i = 0; i < keys.length; i++) sums[i % dim]! += keys[i]!;
    return Float32Array.from(sums, (sum) => sum / (keys.length / dim));
  }
}

/** Ids of the rows of `codes` that equal `query` in at least `least` places. */
export function candidates(codes: ArrayLike<number>[], query: ArrayLike<number>, least: number): number[] {
  return codes.flatMap((code, id) => {
    let equal = 0;
    for (let t = 0; t < query.length; t++) if (code[t] === query[t]) equal++;
    return equal >= least ? [id] : [];
  });
}

function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
}

/** Reproducible standard normal values. */
export function normals(seed: number, length: number): Float32Array {
  let state = (seed + 1) * 0x9e3779b9;
  const uniform = () => {
    state = (state + 0x6d2b79f5) | 0;
    let z = Math.imul(state ^ (state >>> 15), state | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return (((z ^ (z >>> 14)) >>> 0) + 0.5) / 2 ** 32;
  };
  return Float32Array.from({ length }, () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()));
}
