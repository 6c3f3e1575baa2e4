/** Steps of the mean between one power of two and the next, so that it covers at least four fifths of the keys. */
const STEPS = 8;

/**
 * Over how many of `keys` keys, from the first, the mean is taken that their tables are centred on: the last multiple of an
 * eighth of a power of two. The mean follows the context as it grows, tables are built anew a bounded number of times,
 * and they depend on nothing but the keys in them: not on where a prompt ended, nor on who computed it.
 *
 * @param stagger In [0, 1): by what part of a step this mean follows later than others, so that not all tables are built
 *   anew at once.
 */
export function meanKeys(keys: number, stagger = 0): number {
  const step = Math.max(2 ** Math.floor(Math.log2(keys / STEPS)), 1);
  const last = Math.floor(keys / step) * step;
  if (keys - last >= stagger * step) return last;
  // Below a power of two the steps are half as long.
  return last - (last === STEPS * step ? Math.max(step / 2, 1) : step);
}
