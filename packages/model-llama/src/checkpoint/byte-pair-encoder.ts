import { PairRanks } from './pair-ranks.js';
import type { TokenizerJson } from './tokenizer-json.js';

// Words that are remembered with their ids; text repeats itself. Long ones hardly do.
const CACHED_WORDS = 16_384;
const CACHED_LENGTH = 64;

/** Positions in a word are below this, ranks below 2^21 times it. */
const POSITION = 2 ** 32;

/**
 * Byte-pair encoding as Hugging Face's Rust library does it: of all neighbours in a word that a merge rule joins, join
 * those of the first rule, the leftmost first. A heap keeps a word of n characters at n log n: a megabyte of spaces is
 * one word to many pre-tokenizers.
 */
export class BytePairEncoder {
  readonly #vocab: ReadonlyMap<string, number>;
  readonly #excluded: ReadonlySet<number>;
  readonly #options: Pick<TokenizerJson['model'], 'fuseUnknown' | 'byteFallback' | 'ignoreMerges'>;
  readonly #unknown: number | undefined;
  /** Rank of the rule for a pair; what each rule makes. */
  readonly #ranks: PairRanks;
  readonly #merged: Int32Array;
  readonly #cache = new Map<string, readonly number[]>();

  /** @param excluded Ids that are never made: special tokens. */
  constructor(model: TokenizerJson['model'], excluded: ReadonlySet<number>) {
    const { vocab, merges, unknown, fuseUnknown, byteFallback, ignoreMerges } = model;
    this.#options = { fuseUnknown, byteFallback, ignoreMerges };
    this.#vocab = vocab;
    this.#excluded = excluded;
    this.#unknown = unknown === undefined ? undefined : vocab.get(unknown);
    const rules: number[] = []; // left, right, merged of each
    for (const [left, right] of merges) {
      const [leftId, rightId, merged] = [vocab.get(left), vocab.get(right), vocab.get(left + right)];
      if (leftId === undefined || rightId === undefined || merged === undefined || excluded.has(merged)) continue;
      rules.push(leftId, rightId, merged);
    }
    this.#merged = Int32Array.from({ length: rules.length / 3 }, (_, rank) => rules[3 * rank + 2]!);
    this.#ranks = new PairRanks(this.#merged.length);
    for (let rank = 0; rank < this.#merged.length; rank += 1) {
      this.#ranks.add(rules[3 * rank]!, rules[3 * rank + 1]!, rank);
    }
  }

  /** Appends the ids of one word, as the pre-tokenizer makes them. */
  encode(word: string, out: number[]): void {
    const whole = this.#options.ignoreMerges ? this.#id(word) : undefined;
    if (whole !== undefined) {
      out.push(whole);
      return;
    }
    let ids = this.#cache.get(word);
    if (ids === undefined) {
      ids = this.#merge(this.#symbols(word));
      if (word.length <= CACHED_LENGTH) {
        if (this.#cache.size >= CACHED_WORDS) this.#cache.clear();
        this.#cache.set(word, ids);
      }
    }
    for (const id of ids) out.push(id);
  }

  #id(token: string): number | undefined {
    const id = this.#vocab.get(token);
    return id === undefined || this.#excluded.has(id) ? undefined : id;
  }

  /** Ids of a word's characters; of their bytes, or the unknown token, for those that are no token. */
  #symbols(word: string): number[] {
    const symbols: number[] = [];
    let lastUnknown = false;
    for (const character of word) {
      const id = this.#id(character);
      if (id !== undefined) {
        symbols.push(id);
        lastUnknown = false;
        continue;
      }
      const bytes = this.#options.byteFallback ? this.#byteIds(character) : undefined;
      if (bytes !== undefined) {
        symbols.push(...bytes);
        lastUnknown = false;
      } else if (this.#unknown !== undefined && !(lastUnknown && this.#options.fuseUnknown)) {
        symbols.push(this.#unknown);
        lastUnknown = true;
      }
    }
    return symbols;
  }

  /** Ids of tokens `<0xE2>`, ... for a character's UTF-8 bytes, if there are all of them. */
  #byteIds(character: string): number[] | undefined {
    const ids: number[] = [];
    for (const byte of Buffer.from(character)) {
      const id = this.#id(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`);
      if (id === undefined) return undefined;
      ids.push(id);
    }
    return ids;
  }

  #merge(symbols: number[]): readonly number[] {
    const count = symbols.length;
    if (count < 2) return symbols;
    // A list of symbols in place: a merged pair is its left symbol, and the right one is skipped from then on.
    const next = Int32Array.from({ length: count }, (_, i) => i + 1);
    const previous = Int32Array.from({ length: count }, (_, i) => i - 1);
    const heap = new MinHeap();
    const consider = (left: number) => {
      const right = next[left]!;
      if (right >= count) return;
      const rank = this.#ranks.get(symbols[left]!, symbols[right]!);
      if (rank !== undefined) heap.push(rank * POSITION + left);
    };
    for (let i = 0; i < count - 1; i += 1) consider(i);

    for (let top = heap.pop(); top !== undefined; top = heap.pop()) {
      const left = top % POSITION;
      const rank = (top - left) / POSITION;
      const right = next[left]!;
      // Either symbol may have become part of another since: then this is no longer the pair that was considered.
      if (right >= count || symbols[left] === GONE) continue;
      if (this.#ranks.get(symbols[left]!, symbols[right]!) !== rank) continue;
      symbols[left] = this.#merged[rank]!;
      symbols[right] = GONE;
      const after = next[right]!;
      next[left] = after;
      if (after < count) previous[after] = left;
      if (previous[left]! >= 0) consider(previous[left]!);
      consider(left);
    }
    return symbols.filter((id) => id !== GONE);
  }
}

const GONE = -1;

/** A binary heap of numbers, the smallest first. */
class MinHeap {
  readonly #items: number[] = [];

  push(item: number): void {
    const items = this.#items;
    let at = items.length;
    items.push(item);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (items[parent]! <= item) break;
      items[at] = items[parent]!;
      at = parent;
    }
    items[at] = item;
  }

  pop(): number | undefined {
    const items = this.#items;
    const first = items[0];
    const last = items.pop();
    if (items.length === 0 || last === undefined) return first;
    let at = 0;
    for (let child = 1; child < items.length; child = 2 * at + 1) {
      if (child + 1 < items.length && items[child + 1]! < items[child]!) child += 1;
      if (items[child]! >= last) break;
      items[at] = items[child]!;
      at = child;
    }
    items[at] = last;
    return first;
  }
}
