/** Steps of the mean between one power of two and the next. */
const STEPS = 8;

/** The last part of the keys that the mean never covers: what follows a beginning that others share, a question. */
const TAIL = 1 / 32;

/**
 * Over how many of `keys` keys, from the first, the mean is taken when an index is built at the end of a prompt: the last
 * multiple of an eighth of a power of two before the tail, at least six sevenths of them. It depends on their number alone, so
 * that prompts that begin alike and are about as long can share an index.
 */
export function meanKeys(keys: number): number {
  const most = keys - Math.floor(keys * TAIL);
  const step = Math.max(2 ** Math.floor(Math.log2(most / STEPS)), 1);
  return Math.floor(most / step) * step;
}

/**
 * Keys of a context that has grown so far beyond those that the mean is over that the index must be around a newer one: by a
 * third to a half.
 *
 * @param stagger In [0, 1): later for some indexes than for others, so that not all are built anew at once.
 */
export function outgrownAt(mean: number, stagger: number): number {
  return Math.floor(mean * (4 / 3 + stagger / 6)) + 1;
}
