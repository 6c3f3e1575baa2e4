import { collisionProbability } from './collision-probability.js';
import { InvalidArgumentError, NonFiniteError } from './errors.js';
import { upperTail } from './inclusion-probability.js';
import { checkInteger, checkNumber, checkRows, MAX_BITS, MAX_DIM, MAX_TABLES, show } from './validate.js';

/** Options of {@link tune}: what is wanted (`budget`, `recall` or both), and what the vectors are like. */
export interface TuneOptions {
  /** Dimension of the vectors, 1..32768. */
  dim: number;
  /** Largest share of the vectors that a query may return on average, above 0 and below 1. */
  budget?: number;
  /** Least probability that a vector at `cosine` to the query is returned, above 0 and below 1. */
  recall?: number;
  /**
   * Cosine of the angle at which `recall` counts, relative to the centre where there is one. Required with `recall`; default
   * with `budget` alone: the cosine that a share `budget` of the vectors exceed, the edge of what a query would ideally return.
   */
  cosine?: number;
  /** Most tables, each of which takes two bytes a vector; 1..4096. Default 150, the paper's. */
  maxTables?: number;
  /** Tables in which a vector must share the query's bucket. Default: whichever of 1 to 4 serves best. */
  minCollisions?: number;
  /**
   * A sample of the vectors [n, dim], two at least: shares are then those of its angles. Without it, directions are taken to
   * be spread evenly over the sphere, and real vectors, which cluster, are returned in larger shares.
   */
  vectors?: Float32Array;
  /** A sample of the queries [m, dim]. Default: the vectors, each against the others. */
  queries?: Float32Array;
  /** `auto`: vectors, but not queries, are taken relative to the mean of `vectors`, as in an index of that option. Default `none`. */
  center?: 'none' | 'auto';
}

/** What {@link tune} proposes, and what to expect of it. */
export interface Tuning {
  bits: number;
  tables: number;
  minCollisions: number;
  /** Expected share of the vectors that a query returns. */
  share: number;
  /** Probability that a vector at `cosine` is returned. */
  recall: number;
  /** The cosine given, or its default. */
  cosine: number;
  /** Expected entries of a query's buckets for each vector of the index: the counting that a query does. */
  counted: number;
  /** Bytes of the tables for each vector of a large index, 2 L (1 + (2^K + 1) / 65535); kept vectors and norms come on top. */
  bytesPerVector: number;
}

/** Angles are collected in so many bins of equal width. */
const BINS = 1024;
/** Of a sample, at most so many vectors and queries are looked at, evenly spaced. */
const MOST_VECTORS = 4096;
const MOST_QUERIES = 256;
/** And, for long vectors, fewer vectors, so that comparing them takes about a second. */
const MOST_PRODUCTS = 2 ** 29;
const MOST_COLLISIONS = 4;
/** With more entries counted for each vector, a query would take as long as a pass over all vectors. */
const MOST_COUNTED = 1;
/** Vectors of a full segment. */
const SEGMENT = 65_535;

/**
 * Proposes bits (K), tables (L) and minCollisions (m) of an index. A vector at angle theta to the query collides in one table
 * with probability p^K, p = 1 - theta / pi, and is returned with probability u(theta) = P(Binomial(L, p^K) >= m); the share
 * read is the mean of u over all angles. Every K of 1..16 and m is tried with the L that meets what was asked for (u grows
 * with L) and
 *
 * - with `budget`, the share is at most that and the recall as large as `maxTables` allows;
 * - with `recall`, the recall is at least that and the share as small as `maxTables` allows;
 * - with both, there are as few tables as possible, and then as small a share.
 *
 * A query counts one collision for each entry of its buckets, L E[p^K] for each vector of the index; proposals stay at or
 * below one.
 *
 * @throws InvalidArgumentError when an option is out of range, or nothing with `maxTables` tables does what was asked for
 * @throws NonFiniteError when a vector or query holds NaN or an infinity
 */
export function tune(options: TuneOptions): Tuning {
  const dim = checkInteger('dim', options.dim, 1, MAX_DIM);
  const maxTables = checkInteger('maxTables', options.maxTables ?? 150, 1, MAX_TABLES);
  const { budget, recall: wanted } = options;
  if (budget !== undefined) checkShare('budget', budget);
  if (wanted !== undefined) checkShare('recall', wanted);
  if (budget === undefined && wanted === undefined) {
    throw new InvalidArgumentError('tune needs a budget (share of vectors read), a recall, or both.');
  }
  if (options.cosine === undefined && wanted !== undefined) {
    throw new InvalidArgumentError('recall needs a cosine: the angle at which vectors should be found that often.');
  }
  const angles = distribution(dim, options);
  const cosine = checkNumber('cosine', options.cosine ?? edge(angles, budget!), -1, 1);
  const p = collisionProbability(cosine);

  const candidates: Tuning[] = [];
  const least = options.minCollisions;
  if (least !== undefined) checkInteger('minCollisions', least, 1, maxTables);
  for (let bits = 1; bits <= MAX_BITS; bits++) {
    const collide = mean(angles, (q) => q ** bits);
    const most = Math.min(maxTables, Math.floor(MOST_COUNTED / collide));
    for (let m = least ?? 1; m <= Math.min(least ?? MOST_COLLISIONS, most); m++) {
      const share = (tables: number) => mean(angles, (q) => upperTail(tables, m, q ** bits));
      const recall = (tables: number) => upperTail(tables, m, p ** bits);
      // Both grow with the tables: the fewest that reach the recall, and otherwise the most within the budget.
      let tables: number;
      if (wanted !== undefined) {
        tables = smallest(m, most, (at) => recall(at) >= wanted);
        if (tables > most) continue;
      } else {
        tables = smallest(m, most, (at) => share(at) > budget!) - 1;
        if (tables < m) continue;
      }
      const proposal = {
        bits,
        tables,
        minCollisions: m,
        share: share(tables),
        recall: recall(tables),
        cosine,
        counted: tables * collide,
        bytesPerVector: 2 * tables * (1 + (2 ** bits + 1) / SEGMENT),
      };
      if (budget === undefined || proposal.share <= budget) candidates.push(proposal);
    }
  }
  if (candidates.length === 0) {
    const goals = [
      ...(budget === undefined ? [] : [`returns at most ${budget} of the vectors`]),
      ...(wanted === undefined ? [] : [`finds vectors at cosine ${cosine} with probability ${wanted}`]),
    ];
    throw new InvalidArgumentError(
      `No index of at most ${maxTables} tables ${goals.join(' and ')}; raise maxTables, or ask for less.`,
    );
  }
  const better = (a: Tuning, b: Tuning): number => {
    if (wanted === undefined) return b.recall - a.recall || a.tables - b.tables;
    if (budget === undefined) return a.share - b.share || a.tables - b.tables;
    return a.tables - b.tables || a.share - b.share;
  };
  return candidates.sort(better)[0]!;
}

/** Weights, of sum 1, of equally wide bins of p = 1 - theta / pi over [0, 1]. */
type Angles = Float64Array;

function mean(angles: Angles, f: (p: number) => number): number {
  let sum = 0;
  angles.forEach((weight, bin) => {
    if (weight > 0) sum += weight * f((bin + 0.5) / BINS);
  });
  return sum;
}

/** Cosine that a share `share` of the angles exceed. */
function edge(angles: Angles, share: number): number {
  let above = 0;
  let bin = BINS - 1;
  while (bin > 0 && above + angles[bin]! < share) above += angles[bin--]!;
  const p = (bin + 1 - (share - above) / angles[bin]!) / BINS;
  return Math.cos(Math.PI * (1 - Math.min(1, Math.max(0, p))));
}

/** The smallest integer of least..most at which a condition holds that stays true once it is; most + 1 if there is none. */
function smallest(least: number, most: number, holds: (at: number) => boolean): number {
  let low = least;
  let high = most + 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (holds(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}

function distribution(dim: number, options: TuneOptions): Angles {
  const { vectors, queries, center = 'none' } = options;
  if (center !== 'none' && center !== 'auto') {
    throw new InvalidArgumentError(`center must be 'none' or 'auto', not ${show(center)}.`);
  }
  if (vectors === undefined) {
    if (queries !== undefined || center === 'auto') {
      throw new InvalidArgumentError('queries and center say how a sample is meant; give vectors too.');
    }
    return uniformAngles(dim);
  }
  const rows = checkRows('vectors', vectors, dim);
  if (rows < 2) throw new InvalidArgumentError(`vectors has ${rows} rows; a sample needs two at least.`);
  const centre = new Float64Array(dim);
  if (center === 'auto') for (let i = 0; i < vectors.length; i++) centre[i % dim]! += vectors[i]! / rows;
  const most = Math.min(MOST_VECTORS, Math.ceil(MOST_PRODUCTS / (MOST_QUERIES * dim)));
  const keys = sample(vectors, rows, dim, centre, most);
  if (queries === undefined) {
    return measuredAngles(sample(vectors, rows, dim, new Float64Array(dim), MOST_QUERIES), keys, true);
  }
  const asked = checkRows('queries', queries, dim);
  if (asked < 1) throw new InvalidArgumentError('queries is empty; leave it out or give one at least.');
  return measuredAngles(sample(queries, asked, dim, new Float64Array(dim), MOST_QUERIES), keys, false);
}

/** Between even directions, theta has the density sin(theta)^(dim - 2). */
function uniformAngles(dim: number): Angles {
  const angles = new Float64Array(BINS);
  if (dim === 1) {
    angles[0] = angles[BINS - 1] = 0.5;
    return angles;
  }
  for (let bin = 0; bin < BINS; bin++) angles[bin] = Math.sin((Math.PI * (bin + 0.5)) / BINS) ** (dim - 2);
  const total = angles.reduce((sum, weight) => sum + weight, 0);
  return angles.map((weight) => weight / total);
}

interface Sample {
  /** Which row of the whole each is. */
  rows: number[];
  /** Unit vectors, one for each; zero vectors are left out. */
  units: Float64Array[];
}

function sample(vectors: Float32Array, rows: number, dim: number, centre: Float64Array, most: number): Sample {
  const taken: Sample = { rows: [], units: [] };
  const count = Math.min(rows, most);
  for (let i = 0; i < count; i++) {
    const row = Math.floor((i * rows) / count);
    const unit = Float64Array.from(vectors.subarray(row * dim, (row + 1) * dim), (value, j) => value - centre[j]!);
    const norm = Math.sqrt(unit.reduce((sum, value) => sum + value * value, 0));
    if (!Number.isFinite(norm)) {
      throw new NonFiniteError(`Row ${row} of a sample given to tune holds NaN or an infinity.`);
    }
    if (norm === 0) continue;
    taken.rows.push(row);
    taken.units.push(unit.map((value) => value / norm));
  }
  return taken;
}

function measuredAngles(queries: Sample, keys: Sample, same: boolean): Angles {
  const angles = new Float64Array(BINS);
  let pairs = 0;
  queries.units.forEach((query, q) => {
    keys.units.forEach((key, k) => {
      if (same && queries.rows[q] === keys.rows[k]) return;
      let dot = 0;
      for (let i = 0; i < query.length; i++) dot += query[i]! * key[i]!;
      angles[Math.min(BINS - 1, Math.floor(collisionProbability(dot) * BINS))]! += 1;
      pairs++;
    });
  });
  if (pairs === 0)
    throw new InvalidArgumentError('The sample given to tune has no two vectors with an angle between them.');
  return angles.map((count) => count / pairs);
}

function checkShare(name: string, value: number): void {
  if (!(checkNumber(name, value, 0, 1) > 0 && value < 1)) {
    throw new InvalidArgumentError(`${name} must lie between 0 and 1, not at ${value}.`);
  }
}
