import { InvalidArgumentError } from '../errors.js';
import { checkInteger, checkMultiple, show } from '../validate.js';

/**
 * How vectors are projected. `gaussian`: independent normal hyperplanes (the paper's), a dense product on the integer tensor cores.
 * `hadamard`: random rotations by fast Hadamard transforms, with less variance; on a GPU the dense product is the faster one.
 */
export type Projection = 'gaussian' | 'hadamard';

/** Sizes of SimHash. */
export interface HashSizes {
  /** Dimension of the vectors, a multiple of 4, at most 256. */
  dim: number;
  /** Bits of a code (paper: K), 1..16. Default 10. */
  bits?: number;
  /** Hash tables (paper: L), 1..4096. Default 150. */
  tables?: number;
  /** Default `gaussian`. */
  projection?: Projection;
}

/** Most keys of one segment of tables: positions are 16 bits. */
export const SEGMENT_KEYS = 65535;

const MAX_DIM = 256;
const MAX_TABLES = 4096;
const ROTATIONS = 3;

/** @internal */
export function checkBits(bits: number | undefined): number {
  return checkInteger('bits', bits ?? 10, 1, 16);
}

/** @internal */
export function checkHash(sizes: HashSizes): Required<HashSizes> {
  const projection = sizes.projection ?? 'gaussian';
  if (projection !== 'gaussian' && projection !== 'hadamard') {
    throw new InvalidArgumentError(`projection must be 'gaussian' or 'hadamard', not ${show(projection)}.`);
  }
  return {
    dim: checkMultiple('dim', sizes.dim, 4, 4, MAX_DIM),
    bits: checkBits(sizes.bits),
    tables: checkInteger('tables', sizes.tables ?? 150, 1, MAX_TABLES),
    projection,
  };
}

/**
 * Bytes of the projections of {@link simhashProjections}: for `gaussian` one for each weight, rows padded to 64, 128 or 256; for
 * `hadamard` one bit for each sign flip.
 */
export function projectionLength(sizes: HashSizes): number {
  const { dim, bits, tables, projection } = checkHash(sizes);
  const padded = dim <= 64 ? 64 : dim <= 128 ? 128 : 256;
  if (projection === 'gaussian') return bits * tables * padded;
  return Math.ceil((bits * tables) / padded) * ROTATIONS * (padded / 8);
}
