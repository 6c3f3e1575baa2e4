import type { EngineProjection, Vectors } from './engine.js';
import { InvalidArgumentError, OutOfMemoryError } from './errors.js';
import { engine } from './load-engine.js';
import { translateErrors } from './translate-errors.js';
import { checkInteger, checkVectors, MAX_BITS, MAX_DIM, MAX_TABLES, show } from './validate.js';

/** Options of {@link SimHashProjection}. */
export interface SimHashProjectionOptions {
  /** Dimension of the vectors, 1..32768. */
  dim: number;
  /** Bits of a hash code (paper: K), 1..16. Default 10. */
  bits?: number;
  /** Hash tables (paper: L), 1..4096. Default 150. */
  tables?: number;
  /** Integer 0..2^53-1. The same seed gives the same codes on every platform and backend. Default 0. */
  seed?: number;
  /**
   * `gaussian` (default, the paper's): independent hyperplanes, dim multiplications for each bit. `hadamard`: blocks of
   * orthogonal hyperplanes from random rotations by fast Hadamard transforms, log(dim) additions for each bit; the bits of
   * one table come from different blocks where there are enough, so that they stay nearly independent.
   */
  kind?: 'gaussian' | 'hadamard';
}

/**
 * The random hyperplanes of SimHash: `bits * tables` rows of `dim` normal values, rounded to odd 8-bit integers (so that
 * none is zero and the distribution is symmetric), drawn by Philox4x32-10. A vector is rounded to integers too, relative
 * to its largest magnitude, so a projection is an exact integer sum and codes are identical on every backend.
 *
 * Immutable; one projection may serve any number of {@link SimHashTables}, so that its matrix exists once.
 */
export class SimHashProjection {
  readonly dim: number;
  readonly bits: number;
  readonly tables: number;
  readonly seed: number;
  readonly kind: 'gaussian' | 'hadamard';
  /** @internal */
  readonly native: EngineProjection;

  /**
   * @throws InvalidArgumentError when an option is out of range
   * @throws OutOfMemoryError when the matrix, 2 * dim * bits * tables bytes, cannot be allocated
   */
  constructor(options: SimHashProjectionOptions) {
    this.dim = checkInteger('dim', options.dim, 1, MAX_DIM);
    this.bits = checkInteger('bits', options.bits ?? 10, 1, MAX_BITS);
    this.tables = checkInteger('tables', options.tables ?? 150, 1, MAX_TABLES);
    this.seed = checkInteger('seed', options.seed ?? 0, 0, Number.MAX_SAFE_INTEGER);
    this.kind = options.kind ?? 'gaussian';
    if (this.kind !== 'gaussian' && this.kind !== 'hadamard') {
      throw new InvalidArgumentError(`kind must be 'gaussian' or 'hadamard', not ${show(this.kind)}.`);
    }
    this.native = translateErrors(() =>
      engine().createProjection(this.kind === 'hadamard', this.dim, this.bits, this.tables, this.seed),
    );
  }

  /** Bytes of the matrix (of the sign flips, with `hadamard`). */
  get bytes(): number {
    return this.native.bytes;
  }

  /**
   * Codes of vectors [n, dim], float32 or bfloat16 in a Uint16Array, as they are (not centred).
   *
   * @param options threads, default 1
   * @returns Uint16Array [n, tables]; bit j of an entry is the side of hyperplane j of that table
   * @throws InvalidArgumentError, NonFiniteError, OutOfMemoryError
   */
  hash(vectors: Vectors, options: { threads?: number } = {}): Uint16Array {
    const threads = checkInteger('threads', options.threads ?? 1, 1, 1024);
    const codes = this.#codes(checkVectors('vectors', vectors, this.dim));
    translateErrors(() => this.native.hash(vectors, codes, threads));
    return codes;
  }

  #codes(rows: number): Uint16Array {
    try {
      return new Uint16Array(rows * this.tables);
    } catch (error) {
      throw new OutOfMemoryError(`${rows * this.tables} codes do not fit in memory.`, { cause: error });
    }
  }
}
