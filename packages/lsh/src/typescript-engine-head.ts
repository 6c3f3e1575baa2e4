/** The hash tables of one head in TypeScript, in segments laid out and merged as native/head_index.cc does. */
import { type Container, corrupt, type Section } from './typescript-engine-container.js';

/**
 * A run of keys, sorted by bucket in every table. Ids are relative to a part of at most 65,535 keys, so that they fit in 16
 * bits; there are at most two.
 */
export interface Segment {
  count: number;
  /** [tables][buckets + 1][parts]: keys of the part in the buckets before this one. */
  starts: Uint16Array;
  /** [tables][count]: by bucket, then by part, then ascending. */
  ids: Uint16Array;
  /** Indexes that share it. */
  holders: number;
}

const PART_KEYS = 65_535;
/** Keys of a segment at most. */
export const SEGMENT_KEYS = 2 * PART_KEYS;
const MERGE_RATIO = 4;
const TAIL_KEYS = 1024;
const MOST_TAIL_KEYS = 8192;

/** Collision counters of a segment's keys, zero between queries: JavaScript runs one query at a time. */
const counters = new Uint16Array(SEGMENT_KEYS);

/** Keys that the tail holds at most. A segment should not hold far fewer keys than it has buckets. */
function tailLimit(bits: number): number {
  return Math.min(MOST_TAIL_KEYS, Math.max(TAIL_KEYS, 2 ** bits / 4));
}

/** Parts of a segment of so many keys. */
export function partsOf(count: number): number {
  return Math.ceil(count / PART_KEYS);
}

/** Keys live in segments, and the last few in a tail of plain codes, which queries compare one by one. */
export class HeadIndex {
  #segments: readonly Segment[] = [];
  /** Codes [listed][tables], and room for more. */
  tail: Uint16Array;
  listed = 0;
  size = 0;
  /** Comes from a file that nobody has checked: not to be changed, or trusted, before. */
  #unchecked = false;

  constructor(
    readonly bits: number,
    readonly tables: number,
  ) {
    this.tail = new Uint16Array(0);
  }

  get segments(): readonly Segment[] {
    return this.#segments;
  }

  set segments(segments: readonly Segment[]) {
    for (const segment of segments) segment.holders++;
    for (const segment of this.#segments) segment.holders--;
    this.#segments = segments;
  }

  /** What forks share is divided among them. */
  get bytes(): number {
    return this.segments.reduce(
      (sum, { starts, ids, holders }) => sum + Math.ceil((starts.byteLength + ids.byteLength) / holders),
      this.tail.byteLength,
    );
  }

  /** Another with the same keys, which shares the segments. */
  fork(): HeadIndex {
    const fork = new HeadIndex(this.bits, this.tables);
    fork.tail = this.tail.slice(0, this.listed * this.tables);
    fork.segments = this.segments;
    fork.listed = this.listed;
    fork.size = this.size;
    fork.#unchecked = this.#unchecked;
    return fork;
  }

  /** Upper bound of `bytes` with `keys` keys, however they were added. */
  static mostBytes(bits: number, tables: number, keys: number): number {
    // Segments that could not be merged because the result would be too large: each with the one before holds more than
    // SEGMENT_KEYS. Behind them, each at most a MERGE_RATIO-th of the one before.
    const limit = tailLimit(bits);
    let segments = keys > SEGMENT_KEYS ? 2 * Math.floor(keys / SEGMENT_KEYS) : 0;
    for (let rest = Math.min(keys, SEGMENT_KEYS); rest > limit; rest /= MERGE_RATIO) segments++;
    const parts = Math.floor(keys / PART_KEYS) + segments;
    return 2 * tables * (parts * (2 ** bits + 1) + keys + Math.min(keys, limit) / 8);
  }

  /**
   * Appends keys by their codes [n, tables]. Throws RangeError when memory cannot be had, CORRUPT_FILE; then nothing has
   * changed.
   */
  append(codes: Uint16Array): void {
    this.#check();
    const { tables } = this;
    const n = codes.length / tables;
    const pending = this.listed + n;
    if (pending <= tailLimit(this.bits)) {
      if (this.tail.length < pending * tables) {
        const tail = new Uint16Array(Math.max(pending * tables, Math.floor(this.tail.length * 1.125)));
        tail.set(this.tail.subarray(0, this.listed * tables));
        this.tail = tail;
      }
      this.tail.set(codes, this.listed * tables);
      this.listed = pending;
      this.size += n;
      return;
    }
    const all = new Uint16Array(pending * tables);
    all.set(this.tail.subarray(0, this.listed * tables));
    all.set(codes, this.listed * tables);
    const made: Segment[] = [];
    let done = 0;
    while (pending - done > (done === 0 ? 0 : tailLimit(this.bits))) {
      const count = Math.min(pending - done, SEGMENT_KEYS);
      made.push(this.#sort(all.subarray(done * tables, (done + count) * tables), count));
      done += count;
    }
    const segments = this.#merged([...this.segments, ...made]);
    this.tail = all.slice(done * tables);
    this.segments = segments;
    this.listed = pending - done;
    this.size += n;
  }

  /** The codes [count][tables] of a segment's keys; undefined when a table does not hold every key once and in order. */
  codesOf(count: number, starts: Uint16Array, ids: Uint16Array): Uint16Array | undefined {
    const segment = { count, starts, ids, holders: 0 };
    const codes = this.#codes(segment, count);
    return this.#sorted(segment, codes) ? codes : undefined;
  }

  /** Keeps the first `size` keys. Throws as `append`. */
  truncate(size: number): void {
    if (size >= this.size) return;
    this.#check();
    const sorted = this.size - this.listed;
    if (size >= sorted) {
      this.listed = size - sorted;
      this.size = size;
      return;
    }
    const kept: Segment[] = [];
    let base = 0;
    while (base + this.segments[kept.length]!.count <= size) {
      const segment = this.segments[kept.length]!;
      base += segment.count;
      kept.push(segment);
    }
    const rest = size - base;
    const codes = this.#codes(this.segments[kept.length]!, rest);
    if (rest > tailLimit(this.bits)) {
      kept.push(this.#sort(codes, rest));
      this.tail = new Uint16Array(0);
      this.listed = 0;
    } else {
      // Too few for a segment.
      this.tail = codes;
      this.listed = rest;
    }
    this.segments = kept;
    this.size = size;
  }

  /**
   * Writes the ids of the keys that equal `codes` [tables] in at least `least` tables, ascending, and in how many tables each
   * does, to arrays [size].
   *
   * @returns how many there are
   */
  query(codes: Uint16Array, least: number, ids: Uint32Array, collisions: Uint16Array): number {
    const { tables, tail } = this;
    let found = 0;
    let base = 0;
    for (const segment of this.segments) {
      for (let t = 0; t < tables; t++) {
        this.#forBucket(segment, t, codes[t]!, (from, end, base) => {
          for (let at = from; at < end; at++) counters[base + segment.ids[at]!]!++;
        });
      }
      for (let i = 0; i < segment.count; i++) {
        const count = counters[i]!;
        if (count >= least) {
          ids[found] = base + i;
          collisions[found++] = count;
        }
      }
      // A damaged file may have counted others too.
      counters.fill(0, 0, this.#unchecked ? counters.length : segment.count);
      base += segment.count;
    }
    for (let row = 0; row < this.listed; row++) {
      let count = 0;
      for (let t = 0; t < tables; t++) if (tail[row * tables + t] === codes[t]) count++;
      if (count >= least) {
        ids[found] = base + row;
        collisions[found++] = count;
      }
    }
    return found;
  }

  /** Keys in each bucket of each table, [tables][buckets]. */
  bucketSizes(): Uint32Array {
    const buckets = 2 ** this.bits;
    const sizes = new Uint32Array(this.tables * buckets);
    for (const segment of this.segments) {
      this.#forAll(segment, (table, bucket, from, end) => {
        sizes[table * buckets + bucket]! += end - from;
      });
    }
    for (let i = 0; i < this.listed * this.tables; i++) sizes[(i % this.tables) * buckets + this.tail[i]!]!++;
    return sizes;
  }

  /** Sections of a file, under the number `index`. */
  write(index: number): Section[] {
    const { segments, tail, listed, tables } = this;
    if (listed === 0 && segments.length === 0) return [];
    const sorted = [
      { index, kind: 'IDS ', pieces: segments.map(({ ids }) => ids) },
      { index, kind: 'SEGS', pieces: [Uint32Array.from(segments, ({ count }) => count)] },
      { index, kind: 'STRT', pieces: segments.map(({ starts }) => starts) },
    ];
    const plain = { index, kind: 'TAIL', pieces: [tail.subarray(0, listed * tables)] };
    return [...(segments.length > 0 ? sorted : []), ...(listed > 0 ? [plain] : [])];
  }

  /**
   * What `write` wrote, of `size` keys in `segments` segments and a tail of `listed`; with `check` all of it is looked at.
   * Throws CORRUPT_FILE.
   */
  read(file: Container, index: number, size: number, segments: number, listed: number, check: boolean): void {
    const { tables } = this;
    const counts = file.get(index, 'SEGS', segments, Uint32Array);
    const stride = tables * (2 ** this.bits + 1);
    const keys = counts.reduce((sum, count) => sum + count, listed);
    if (counts.some((count) => count === 0 || count > SEGMENT_KEYS) || keys !== size || listed > tailLimit(this.bits)) {
      throw corrupt("The file's segments are malformed.");
    }
    const parts = counts.reduce((sum, count) => sum + partsOf(count), 0);
    const starts = file.get(index, 'STRT', parts * stride, Uint16Array);
    const ids = file.get(index, 'IDS ', (size - listed) * tables, Uint16Array);
    let start = 0;
    let id = 0;
    this.segments = Array.from(counts, (count) => ({
      count,
      starts: starts.slice(start, (start += partsOf(count) * stride)),
      ids: ids.slice(id, (id += count * tables)),
      holders: 0,
    }));
    this.tail = file.get(index, 'TAIL', listed * tables, Uint16Array);
    this.listed = listed;
    this.size = size;
    this.#unchecked = true;
    if (check) this.#check();
  }

  #check(): void {
    if (this.#unchecked && !this.#valid()) throw corrupt("The file's tables are malformed.");
    this.#unchecked = false;
  }

  /** Whether every table holds every key once and in order: whether the segments are what sorting their codes makes. */
  #valid(): boolean {
    return (
      this.tail.every((code) => code >>> this.bits === 0) &&
      this.segments.every((segment) => this.#sorted(segment, this.#codes(segment, segment.count)))
    );
  }

  /** Whether a segment is what sorting its codes makes. */
  #sorted(segment: Segment, codes: Uint16Array): boolean {
    const again = this.#sort(codes, segment.count);
    return equal(again.starts, segment.starts) && equal(again.ids, segment.ids);
  }

  /** Counting sort of codes [count][tables]. */
  #sort(codes: Uint16Array, count: number): Segment {
    const { tables } = this;
    const buckets = 2 ** this.bits;
    const parts = partsOf(count);
    const starts = new Uint16Array(tables * (buckets + 1) * parts);
    const ids = new Uint16Array(tables * count);
    // Of each bucket and part: first how many keys, then where the next one goes.
    const places = new Uint32Array(buckets * parts);
    const before = new Uint32Array(parts);
    let start = 0;
    for (let t = 0; t < tables; t++) {
      places.fill(0);
      for (let i = 0; i < count; i++) places[codes[i * tables + t]! * parts + Math.floor(i / PART_KEYS)]!++;
      before.fill(0);
      let place = t * count;
      for (let at = 0; at < places.length; at++) {
        const size = places[at]!;
        starts[start++] = before[at % parts]!;
        places[at] = place;
        before[at % parts]! += size;
        place += size;
      }
      starts.set(before, start);
      start += parts;
      for (let i = 0; i < count; i++) {
        const part = Math.floor(i / PART_KEYS);
        ids[places[codes[i * tables + t]! * parts + part]!++] = i - part * PART_KEYS;
      }
    }
    return { count, starts, ids, holders: 0 };
  }

  /** Calls f for each part of a bucket: its ids are ids[from .. end), relative to key `base` of the segment. */
  #forBucket(
    segment: Segment,
    table: number,
    bucket: number,
    f: (from: number, end: number, base: number) => void,
  ): void {
    const parts = partsOf(segment.count);
    const start = (table * (2 ** this.bits + 1) + bucket) * parts;
    let from = table * segment.count;
    for (let part = 0; part < parts; part++) from += segment.starts[start + part]!;
    for (let part = 0; part < parts; part++) {
      const end = from + segment.starts[start + parts + part]! - segment.starts[start + part]!;
      f(from, end, part * PART_KEYS);
      from = end;
    }
  }

  #forAll(segment: Segment, f: (table: number, bucket: number, from: number, end: number, base: number) => void): void {
    for (let t = 0; t < this.tables; t++) {
      for (let b = 0; b < 2 ** this.bits; b++) {
        this.#forBucket(segment, t, b, (from, end, base) => f(t, b, from, end, base));
      }
    }
  }

  /** Codes [count][tables] of a segment's first keys. */
  #codes(segment: Segment, count: number): Uint16Array {
    const codes = new Uint16Array(count * this.tables);
    this.#forAll(segment, (table, bucket, from, end, base) => {
      for (let at = from; at < end; at++) {
        const key = base + segment.ids[at]!;
        if (key < count) codes[key * this.tables + table] = bucket;
      }
    });
    return codes;
  }

  /** The last segment, and those before it that are not much larger, become one, as far as it holds them all. */
  #merged(segments: readonly Segment[]): readonly Segment[] {
    let first = segments.length - 1;
    let total = segments[first]!.count;
    while (
      first > 0 &&
      Math.floor(segments[first - 1]!.count / MERGE_RATIO) < total &&
      segments[first - 1]!.count + total <= SEGMENT_KEYS
    ) {
      total += segments[--first]!.count;
    }
    if (first + 1 === segments.length) return segments;
    const codes = new Uint16Array(total * this.tables);
    let at = 0;
    for (const segment of segments.slice(first)) {
      codes.set(this.#codes(segment, segment.count), at * this.tables);
      at += segment.count;
    }
    return [...segments.slice(0, first), this.#sort(codes, total)];
  }
}

function equal(a: Uint16Array, b: Uint16Array): boolean {
  return a.length === b.length && a.every((value, i) => value === b[i]);
}
