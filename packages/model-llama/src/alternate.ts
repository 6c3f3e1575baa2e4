/** Runs work in turns, each up to its next `yield`, until all is done; returns the results in the order given. */
export function alternate<T>(work: readonly Generator<void, T>[]): T[] {
  const results: T[] = [];
  const going = new Map(work.entries());
  while (going.size > 0) {
    for (const [i, one] of going) {
      const turn = one.next();
      if (!turn.done) continue;
      results[i] = turn.value;
      going.delete(i);
    }
  }
  return results;
}
