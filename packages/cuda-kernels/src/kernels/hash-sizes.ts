import { checkInteger, checkMultiple } from '../validate.js';

/** Sizes of SimHash. */
export interface HashSizes {
  /** Dimension of the vectors, a multiple of 4, at most 256. */
  dim: number;
  /** Bits of a code (paper: K), 1..16. Default 10. */
  bits?: number;
  /** Hash tables (paper: L). Default 150. */
  tables?: number;
}

/** Most keys of one segment of tables: positions are 16 bits. */
export const SEGMENT_KEYS = 65535;

const MAX_DIM = 256;
const MAX_TABLES = 4096;

/** @internal */
export function checkBits(bits: number | undefined): number {
  return checkInteger('bits', bits ?? 10, 1, 16);
}

/** @internal */
export function checkHash(sizes: HashSizes): { dim: number; bits: number; tables: number } {
  return {
    dim: checkMultiple('dim', sizes.dim, 4, 4, MAX_DIM),
    bits: checkBits(sizes.bits),
    tables: checkInteger('tables', sizes.tables ?? 150, 1, MAX_TABLES),
  };
}

/** Elements of the projection matrix of {@link simhashProjections}: rows are padded to 64, 128 or 256 bytes. */
export function projectionLength(sizes: HashSizes): number {
  const { dim, bits, tables } = checkHash(sizes);
  return bits * tables * (dim <= 64 ? 64 : dim <= 128 ? 128 : 256);
}
