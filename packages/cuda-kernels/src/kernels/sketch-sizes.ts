import type { DeviceArray } from '../device-array.js';
import type { Address } from '../native.js';
import type { Stream } from '../stream.js';
import { checkArray, checkInteger, checkOptional } from '../validate.js';

/** Sizes of the key sketches of one layer. */
export interface SketchSizes {
  /** Dimension of the keys, 1..256. */
  dim: number;
  /** Bits a dimension, 1..4. Default 2. */
  bits?: number;
  kvHeads: number;
  /** Pages that `codes` and `factors` hold, of {@link SKETCH_PAGE} keys of each KV head. */
  pages: number;
}

/** Where the kernels find sketches: key i of sequence s is key i % 1024 of page pageTable[s, floor(i / 1024)]. */
export interface SketchStore {
  /** i32, {@link sketchLengths} */
  codes: DeviceArray<'i32'>;
  /** u16, {@link sketchLengths} */
  factors: DeviceArray<'u16'>;
  /** i32 of {@link sketchFlips} */
  flips: DeviceArray<'i32'>;
  /** [sequences, pageTableStride] i32, page numbers below `pages`: they are on the device and cannot be checked. Without it sequence s owns pages s * pageTableStride and on. */
  pageTable?: DeviceArray<'i32'>;
  /** Pages that one sequence has room for. Default: those that its keys need. */
  pageTableStride?: number;
}

/** Keys that are stored together. */
export const SKETCH_PAGE = 1024;

const MAX_DIM = 256;
const MAX_BITS = 4;
const MAX_PAGES = 2 ** 21;
/** Keys a sequence can have. */
export const MAX_SKETCH_KEYS = 2 ** 30;

/** @internal */
export function checkSketch(sizes: SketchSizes): Required<SketchSizes> {
  return {
    dim: checkInteger('dim', sizes.dim, 1, MAX_DIM),
    bits: checkInteger('bits', sizes.bits ?? 2, 1, MAX_BITS),
    kvHeads: checkInteger('kvHeads', sizes.kvHeads, 1, 65535),
    pages: checkInteger('pages', sizes.pages, 1, MAX_PAGES),
  };
}

/** Elements of the arrays that hold sketches: `codes` (i32), `factors` (u16) and the rotation's `flips` (i32). */
export function sketchLengths(sizes: SketchSizes): { codes: number; factors: number; flips: number } {
  const { dim, bits, kvHeads, pages } = checkSketch(sizes);
  const planeWords = dim <= 64 ? 2 : dim <= 128 ? 4 : 8;
  const factors = pages * kvHeads * SKETCH_PAGE;
  return { codes: factors * bits * planeWords, factors, flips: 3 * planeWords };
}

/** @internal The store's arguments of the kernels: of `keys` keys in each of the first `sequences` sequences. */
export function checkStore(
  stream: Stream,
  sizes: SketchSizes,
  store: SketchStore,
  sequences: number,
  keys: number,
): { view: [Address, Address, Address, number]; flips: Address } {
  const lengths = sketchLengths(sizes);
  const needed = Math.ceil(keys / SKETCH_PAGE);
  const stride = checkInteger('pageTableStride', store.pageTableStride ?? needed, needed);
  const last = sequences === 0 ? 0 : (sequences - 1) * stride + needed;
  if (store.pageTable === undefined) checkInteger('pages', sizes.pages, last);
  return {
    view: [
      checkArray(stream, 'codes', store.codes, 'i32', lengths.codes),
      checkArray(stream, 'factors', store.factors, 'u16', lengths.factors),
      checkOptional(stream, 'pageTable', store.pageTable, 'i32', last),
      stride,
    ],
    flips: checkArray(stream, 'flips', store.flips, 'i32', lengths.flips),
  };
}
