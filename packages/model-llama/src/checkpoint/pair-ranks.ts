/** A slot: left and right id, rank; -1 for left when it is free. */
const SLOT = 3;
const FREE = -1;

/**
 * Ranks of pairs of token ids: a hash table with open addressing, 24 bytes a pair and nothing for the garbage collector to follow.
 * A Map of numbers beyond 31 bits takes four times that, and a third of the time a model takes to load.
 */
export class PairRanks {
  readonly #slots: Int32Array;
  readonly #mask: number;

  /** @param count Pairs that will be added, at most. */
  constructor(count: number) {
    const slots = 2 ** Math.ceil(Math.log2(2 * count + 1));
    this.#slots = new Int32Array(SLOT * slots).fill(FREE);
    this.#mask = slots - 1;
  }

  /** The first rank of a pair stays. */
  add(left: number, right: number, rank: number): void {
    const at = this.#find(left, right);
    if (this.#slots[at] !== FREE) return;
    this.#slots[at] = left;
    this.#slots[at + 1] = right;
    this.#slots[at + 2] = rank;
  }

  get(left: number, right: number): number | undefined {
    const at = this.#find(left, right);
    return this.#slots[at] === FREE ? undefined : this.#slots[at + 2];
  }

  /** Where the pair is, or the free slot where it would be. */
  #find(left: number, right: number): number {
    const hash = Math.imul(Math.imul(left, 0x9e3779b1) + right, 0x85ebca6b);
    let slot = (hash ^ (hash >>> 15)) & this.#mask;
    for (;;) {
      const at = SLOT * slot;
      const there = this.#slots[at];
      if (there === FREE || (there === left && this.#slots[at + 1] === right)) return at;
      slot = (slot + 1) & this.#mask;
    }
  }
}
