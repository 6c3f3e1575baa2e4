import { InvalidArgumentError } from '../errors.js';
import { checkInteger, checkMultiple } from '../validate.js';

/** Heads of grouped-query attention. */
export interface Heads {
  /** A multiple of kvHeads. */
  queryHeads: number;
  kvHeads: number;
  /** At most 128, a multiple of 8. */
  headDim: number;
}

/** @internal */
export function checkHeads(heads: Heads): Heads {
  const kvHeads = checkInteger('kvHeads', heads.kvHeads, 1, 65535);
  const queryHeads = checkInteger('queryHeads', heads.queryHeads, 1, 65535);
  const headDim = checkMultiple('headDim', heads.headDim, 8, 8, 128);
  if (queryHeads % kvHeads !== 0) {
    throw new InvalidArgumentError(`queryHeads (${queryHeads}) must be a multiple of kvHeads (${kvHeads}).`);
  }
  return { queryHeads, kvHeads, headDim };
}
