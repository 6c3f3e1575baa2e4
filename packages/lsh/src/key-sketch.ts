import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { DisposedError, FileError, InvalidArgumentError, UnsupportedError } from './errors.js';
import { checkBudget, type SketchBudget } from './key-sketch-budget.js';
import type { EngineSketch, EngineSketchBudget, EngineSketchFile, EngineSketchShape } from './key-sketch-engine.js';
import { engine } from './load-engine.js';
import { translateErrors } from './translate-errors.js';
import { checkInteger, checkNumber, checkRows, checkVector, show } from './validate.js';

const MAX_SKETCH_DIM = 256;
const MAX_SKETCH_BITS = 4;
const MAX_SKETCH_KEYS = 2 ** 32 - 1025;
const UINT32 = 2 ** 32 - 1;
const DEFAULT_BITS = 2;
const DEFAULT_FLOOR = 0.02;
const DEFAULT_BUDGET: SketchBudget = { share: 0.05 };

/** What draws depend on, and files do not hold. */
export interface KeySketchUse {
  /** Scores are `scale` times the dot product of query and key. Default 1 / sqrt(dim), that of attention. */
  scale?: number;
  /** Keys that {@link KeySketch.sample} and the selector read. Default a share of 0.05. */
  budget?: SketchBudget;
  /** What is added to every key's weight, in units of the mean weight, so that keys which the sketch underrates are drawn too; 1e-6..1. Default 0.02. */
  floor?: number;
  /** Threads of adds, shared among all indexes of the process that ask for the same number. Default: all cores. */
  threads?: number;
  /** A thread pool of another addon (include/magicpig/pool.h), instead of `threads`. */
  pool?: object;
}

/** Options of {@link KeySketch}. */
export interface KeySketchOptions extends KeySketchUse {
  /** Dimension of the keys, 1..256. */
  dim: number;
  /** Independent sketches in this object; for a Llama, layers * KV heads. Default 1. */
  heads?: number;
  /** Bits a dimension, 1..4. Default 2. */
  bits?: number;
  /** Integer 0..2^53-1; seeds the rotation and the draws. The same seed gives the same results on every platform. Default 0. */
  seed?: number;
  /** `auto` (default): each head encodes its keys relative to the mean of those of its first {@link KeySketch.add}. `none`: as they are. */
  center?: 'auto' | 'none';
  /** Keep the keys, 4 * dim bytes each, which {@link KeySketch.estimate} and re-ranking need. Default false. */
  keepVectors?: boolean;
}

export interface SampleOptions {
  /** Default 0. */
  head?: number;
  /** Integer 0..2^32-1 that keys the draw: another step draws anew, the same one draws the same. Default 0. */
  step?: number;
  /** Instead of the sketch's own. */
  budget?: SketchBudget;
}

/** Keys drawn for one query. */
export interface KeySample {
  /** Ascending. */
  ids: Uint32Array;
  /** Natural logarithm of the probability with which each was drawn; 0 for those drawn for certain. */
  logProbabilities: Float32Array;
  /** Estimated relative standard error of the sum of e^score over all keys. */
  error: number;
}

/** What the selector has done since the last {@link KeySketch.resetStats}. */
export interface KeySketchStats {
  /** Draws: one for each query head, layer and step. */
  draws: number;
  /** Keys drawn, over all draws. */
  read: number;
  /** Keys there were to draw from, over all draws. */
  keys: number;
  /** Mean over the draws of the estimated relative standard error of the softmax's denominator; 0 without draws. */
  meanError: number;
  /** The largest of them. */
  largestError: number;
}

/**
 * Sketches of keys, `bits` a dimension, that estimate the score of every key, so that keys can be drawn with probabilities that follow
 * the softmax (RaBitQ's estimator; docs/samplers.md has the mathematics). A sum over all keys is estimated without bias by the sum over
 * the drawn ones, each divided by its probability, however poor the sketches are.
 *
 * Vectors are float32. Ids count the keys of a head in the order they were added, from 0.
 */
export class KeySketch {
  readonly heads: number;
  readonly dim: number;
  readonly bits: number;
  readonly seed: number;
  readonly scale: number;
  readonly floor: number;
  readonly #budget: EngineSketchBudget;
  readonly #options: KeySketchOptions;
  #sketch: EngineSketch | undefined;
  #selector: object | undefined;
  /** [heads][capacity, dim], the first `length` rows in use; absent when keys are not kept. */
  #vectors: Float32Array[] | undefined;

  /** @throws InvalidArgumentError, OutOfMemoryError */
  constructor(options: KeySketchOptions);
  /** @internal */
  constructor(options: KeySketchOptions, from: { file: EngineSketchFile } | { fork: KeySketch });
  constructor(options: KeySketchOptions, from?: { file: EngineSketchFile } | { fork: KeySketch }) {
    const shape = checkShape(options);
    this.#options = { ...options };
    this.heads = shape.heads;
    this.dim = shape.dim;
    this.bits = shape.bits;
    this.seed = shape.seed;
    this.scale = checkNumber('scale', options.scale ?? 1 / Math.sqrt(shape.dim), 2 ** -60, 2 ** 60);
    this.floor = checkNumber('floor', options.floor ?? DEFAULT_FLOOR, 1e-6, 1);
    this.#budget = checkBudget(options.budget ?? DEFAULT_BUDGET);
    if (options.pool !== undefined && options.threads !== undefined) {
      throw new InvalidArgumentError('pool and threads exclude each other; leave one out.');
    }
    const pool = options.pool ?? checkInteger('threads', options.threads ?? availableParallelism(), 1, 1024);
    if (options.keepVectors) this.#vectors = Array.from({ length: this.heads }, () => new Float32Array(0));
    this.#sketch = translateErrors(() => {
      const { Sketch } = engine().sketches;
      if (from && 'fork' in from) return new Sketch({ fork: from.fork.#engine });
      const { scale, floor } = this;
      const file = from && { file: from.file.file };
      return new Sketch({ ...shape, scale, floor, budget: this.#budget, pool, ...file });
    });
    if (from && 'fork' in from) this.#vectors = from.fork.#vectors?.map((rows) => rows.slice());
  }

  /**
   * Reads a file that {@link save} wrote, and checks it.
   *
   * @throws FileError, CorruptFileError, InvalidArgumentError, OutOfMemoryError
   */
  static load(path: string, options: KeySketchUse = {}): KeySketch {
    return KeySketch.fromBuffer(readFile(path), options);
  }

  /**
   * Maps a file that {@link save} wrote: it is there at once, its pages are read when they are used and shared between processes, and
   * its contents are not checked. It may be appended to in memory; the file stays as it is, and must not be cut short meanwhile.
   *
   * @throws as {@link load}
   */
  static view(path: string, options: KeySketchUse = {}): KeySketch {
    if (typeof path !== 'string') throw new InvalidArgumentError(`path must be a string, not ${show(path)}.`);
    return KeySketch.#open(path, options);
  }

  /**
   * The keys in bytes of {@link toBuffer}, which are copied and checked.
   *
   * @throws CorruptFileError, InvalidArgumentError, OutOfMemoryError
   */
  static fromBuffer(bytes: Uint8Array, options: KeySketchUse = {}): KeySketch {
    if (!(bytes instanceof Uint8Array))
      throw new InvalidArgumentError(`bytes must be a Uint8Array, not ${show(bytes)}.`);
    return KeySketch.#open(bytes, options);
  }

  /** Bytes that one head of `keys` keys takes, without kept vectors: bits * dim / 8 + 2 a key, dim rounded up to a power of two. */
  static bytesFor(options: { dim: number; bits?: number; keys: number }): number {
    const { dim, bits } = checkShape(options);
    return engine().sketches.sketchBytes(dim, bits, checkInteger('keys', options.keys, 0, MAX_SKETCH_KEYS));
  }

  /** Bytes held for all heads, kept vectors included; what forks share is divided among them, so that it counts once in their sum. */
  get bytes(): number {
    return this.#engine.bytes() + (this.#vectors ?? []).reduce((sum, rows) => sum + rows.byteLength, 0);
  }

  /**
   * Selector handle for an attention kernel (include/magicpig/selector.h): keys drawn by the sketch's budget, with the logarithms of
   * their probabilities. The draws of a step are keyed by its position, and query heads of one group share random numbers, so that they
   * read many of the same keys.
   *
   * @throws UnsupportedError without the native addon
   */
  get selector(): object {
    const sketch = this.#engine;
    return (this.#selector ??= translateErrors(() => sketch.selector()));
  }

  /** Keys of one head. */
  length(head = 0): number {
    return this.#engine.length(this.#head(head));
  }

  /** The vector that a head's keys are relative to, [dim]; zeros without centring and before the first key. */
  centre(head = 0): Float32Array {
    return this.#engine.centre(this.#head(head));
  }

  /**
   * Appends keys to one head.
   *
   * @param keys [n, dim], as they are: centring is done here
   * @returns the id of the first; the others follow
   * @throws InvalidArgumentError when the length is no multiple of `dim`
   * @throws NonFiniteError for NaN, infinities and vectors longer than 2^60; OutOfMemoryError; then nothing was added
   */
  add(keys: Float32Array, head = 0): number {
    const sketch = this.#engine;
    const rows = checkRows('keys', keys, this.dim);
    const first = sketch.length(this.#head(head));
    if (first + rows > MAX_SKETCH_KEYS) throw new InvalidArgumentError(`A head holds at most ${MAX_SKETCH_KEYS} keys.`);
    const kept = this.#vectors && grow(this.#vectors[head]!, first * this.dim, keys.length);
    translateErrors(() => sketch.add(head, keys));
    if (kept) {
      kept.set(keys, first * this.dim);
      this.#vectors![head] = kept;
    }
    return first;
  }

  /**
   * Estimated scores of all keys of a head, [length].
   *
   * @param query [dim]
   * @throws InvalidArgumentError, NonFiniteError
   */
  scores(query: Float32Array, head = 0): Float32Array {
    const sketch = this.#engine;
    checkVector('query', query, this.dim);
    this.#head(head);
    return translateErrors(() => sketch.scores(head, query));
  }

  /**
   * Draws keys, each with probability min(1, tau (w + floor * mean w)), independently of each other, where w = e^score, tempered for
   * the scatter of estimated scores (docs/samplers.md); tau makes the expected number the budget.
   *
   * @param query [dim]
   * @throws InvalidArgumentError, NonFiniteError
   */
  sample(query: Float32Array, options: SampleOptions = {}): KeySample {
    const sketch = this.#engine;
    checkVector('query', query, this.dim);
    const head = this.#head(options.head ?? 0);
    const step = checkInteger('step', options.step ?? 0, 0, UINT32);
    const budget = options.budget === undefined ? this.#budget : checkBudget(options.budget);
    return translateErrors(() => sketch.draw(head, query, step, budget));
  }

  /**
   * Estimates the sum of f over all keys from those that {@link sample} draws, each weighted by the inverse of its probability:
   * unbiased over the draws. Its error is small where f is about proportional to e^score.
   *
   * @param f gets a key's id and its exact score, scale * q.k
   * @throws as {@link sample}; UnsupportedError when keys are not kept
   */
  estimate(
    query: Float32Array,
    f: (id: number, score: number) => number,
    options: SampleOptions = {},
  ): { sum: number; read: number; error: number } {
    const vectors = this.#kept(options.head ?? 0, 'estimate');
    const { ids, logProbabilities, error } = this.sample(query, options);
    let sum = 0;
    ids.forEach((id, i) => {
      sum += f(id, this.scale * dot(query, vectors, id * this.dim)) * Math.exp(-logProbabilities[i]!);
    });
    return { sum, read: ids.length, error };
  }

  /**
   * The k keys of largest score, largest first; where equal, smaller ids first. By estimated scores; with `candidates`, by the exact
   * scores of the so many of largest estimated score.
   *
   * @throws InvalidArgumentError, NonFiniteError; UnsupportedError for candidates when keys are not kept
   */
  topK(
    query: Float32Array,
    k: number,
    options: { head?: number; candidates?: number } = {},
  ): { ids: Uint32Array; scores: Float32Array } {
    const head = options.head ?? 0;
    checkInteger('k', k, 1, MAX_SKETCH_KEYS);
    const scores = this.scores(query, head);
    if (options.candidates === undefined) {
      const ids = largest(scores, k);
      return { ids, scores: Float32Array.from(ids, (id) => scores[id]!) };
    }
    const candidates = largest(scores, checkInteger('candidates', options.candidates, k, MAX_SKETCH_KEYS)).sort();
    const vectors = this.#kept(head, 'topK with candidates');
    const exact = Float32Array.from(candidates, (id) => this.scale * dot(query, vectors, id * this.dim));
    const best = largest(exact, k);
    return { ids: best.map((i) => candidates[i]!), scores: Float32Array.from(best, (i) => exact[i]!) };
  }

  /**
   * Forgets all keys of a head from `length` on; the centre stays.
   *
   * @throws InvalidArgumentError when the head has fewer
   */
  truncate(length: number, head = 0): void {
    const sketch = this.#engine;
    checkInteger('length', length, 0, sketch.length(this.#head(head)));
    sketch.truncate(head, length);
  }

  /** Forgets all keys and centres of all heads. */
  clear(): void {
    this.#engine.clear();
    this.#vectors = this.#vectors?.map(() => new Float32Array(0));
  }

  /**
   * A sketch with the same keys and options, which shares their memory until one of the two writes to it: what a sequence with a common
   * prefix starts from. (Kept vectors are copied.)
   *
   * @throws OutOfMemoryError
   */
  fork(): KeySketch {
    return new KeySketch(this.#options, { fork: this });
  }

  /** What the selector has done since the last {@link resetStats}: the keys read, and the error reached. */
  get stats(): KeySketchStats {
    const { error, draws, ...rest } = this.#engine.stats();
    return { ...rest, draws, meanError: draws > 0 ? error / draws : 0 };
  }

  resetStats(): void {
    this.#engine.resetStats();
  }

  /**
   * Writes all heads to a file, which then is the old one or the whole new one at any time. Kept vectors, scale, budget and floor are
   * not in it.
   *
   * @throws FileError, OutOfMemoryError
   */
  save(path: string): void {
    const sketch = this.#engine;
    if (typeof path !== 'string') throw new InvalidArgumentError(`path must be a string, not ${show(path)}.`);
    translateErrors(() => sketch.save(path));
  }

  /** The bytes that {@link save} writes. */
  toBuffer(): Uint8Array {
    const sketch = this.#engine;
    return translateErrors(() => sketch.toBuffer());
  }

  /** Frees everything at once. A kernel that still holds the selector gets an error from it. */
  [Symbol.dispose](): void {
    this.#sketch?.dispose();
    this.#sketch = undefined;
    this.#vectors = undefined;
  }

  static #open(source: string | Uint8Array, options: KeySketchUse): KeySketch {
    const file = translateErrors(() => engine().sketches.openSketch(source));
    const { heads, dim, bits, seed, centred } = file;
    return new KeySketch({ ...options, heads, dim, bits, seed, center: centred ? 'auto' : 'none' }, { file });
  }

  get #engine(): EngineSketch {
    if (!this.#sketch) throw new DisposedError('This KeySketch was disposed of.');
    return this.#sketch;
  }

  #head(head: number): number {
    return checkInteger('head', head, 0, this.heads - 1);
  }

  #kept(head: number, what: string): Float32Array {
    if (!this.#vectors) throw new UnsupportedError(`${what} needs the keys; make the sketch with keepVectors: true.`);
    return this.#vectors[this.#head(head)]!;
  }
}

function checkShape(options: Omit<KeySketchOptions, keyof KeySketchUse>): EngineSketchShape {
  const center = options.center ?? 'auto';
  if (center !== 'auto' && center !== 'none') {
    throw new InvalidArgumentError(`center must be 'auto' or 'none', not ${show(center)}.`);
  }
  return {
    heads: checkInteger('heads', options.heads ?? 1, 1, 2 ** 20),
    dim: checkInteger('dim', options.dim, 1, MAX_SKETCH_DIM),
    bits: checkInteger('bits', options.bits ?? DEFAULT_BITS, 1, MAX_SKETCH_BITS),
    seed: checkInteger('seed', options.seed ?? 0, 0, Number.MAX_SAFE_INTEGER),
    centred: center === 'auto',
  };
}

function readFile(path: string): Uint8Array {
  if (typeof path !== 'string') throw new InvalidArgumentError(`path must be a string, not ${show(path)}.`);
  try {
    return readFileSync(path);
  } catch (error) {
    throw new FileError(`Cannot read ${path}: ${(error as Error).message}.`, { cause: error });
  }
}

function grow(rows: Float32Array, used: number, added: number): Float32Array {
  if (used + added <= rows.length) return rows;
  const larger = new Float32Array(Math.max(used + added, Math.ceil(rows.length * 1.25)));
  larger.set(rows.subarray(0, used));
  return larger;
}

function dot(query: Float32Array, rows: Float32Array, start: number): number {
  let sum = 0;
  for (let i = 0; i < query.length; i++) sum += query[i]! * rows[start + i]!;
  return sum;
}

/** Indices of the k largest values, largest first; where equal, smaller ones first. */
function largest(values: Float32Array, k: number): Uint32Array {
  return Uint32Array.from(values, (_, i) => i)
    .sort((a, b) => values[b]! - values[a]! || a - b)
    .subarray(0, k);
}
