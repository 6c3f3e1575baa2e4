import { checkInteger } from '../validate.js';

/** Sizes of the key sketches of one layer. */
export interface SketchSizes {
  /** Dimension of the keys, at most 256. */
  dim: number;
  /** Bits a dimension, 1..4. Default 2. */
  bits?: number;
  kvHeads: number;
  /** Keys of each KV head that there is room for. */
  capacity: number;
}

const MAX_DIM = 256;
const MAX_BITS = 4;
const MAX_CAPACITY = 2 ** 30;

/** @internal */
export function checkSketch(sizes: SketchSizes): Required<SketchSizes> {
  return {
    dim: checkInteger('dim', sizes.dim, 1, MAX_DIM),
    bits: checkInteger('bits', sizes.bits ?? 2, 1, MAX_BITS),
    kvHeads: checkInteger('kvHeads', sizes.kvHeads, 1, 65535),
    capacity: checkInteger('capacity', sizes.capacity, 1, MAX_CAPACITY),
  };
}

/** @internal 32-bit words of one bit plane of a key. */
export function planeWords(dim: number): number {
  return dim <= 64 ? 2 : dim <= 128 ? 4 : 8;
}

/** Elements of the arrays that hold sketches: `codes` (i32), `factors` (u16) and the rotation's `flips` (i32). */
export function sketchLengths(sizes: SketchSizes): { codes: number; factors: number; flips: number } {
  const { dim, bits, kvHeads, capacity } = checkSketch(sizes);
  return {
    codes: kvHeads * capacity * bits * planeWords(dim),
    factors: kvHeads * capacity,
    flips: 3 * planeWords(dim),
  };
}
