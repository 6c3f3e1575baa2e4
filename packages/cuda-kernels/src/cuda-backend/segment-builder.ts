import type { DeviceArray } from '../device-array.js';
import type { DType } from '../dtype.js';
import type { Event } from '../event.js';
import { columnMean } from '../kernels/column-mean.js';
import { copyRows } from '../kernels/copy-rows.js';
import { checkHash, type HashSizes, projectionLength, SEGMENT_KEYS } from '../kernels/hash-sizes.js';
import { simhash } from '../kernels/simhash.js';
import { simhashProjections } from '../kernels/simhash-projections.js';
import { tableBuild, tableBuildWorkspace } from '../kernels/table-build.js';
import { PAGE_TOKENS } from '../kv-view.js';
import type { PinnedArray } from '../pinned-array.js';
import type { Stream } from '../stream.js';
import type { CudaBackend } from './cuda-backend.js';
import type { CudaKvSequence } from './cuda-kv-sequence.js';
import { DeviceClock } from './device-clock.js';
import type { LayerPages } from './layer-pages.js';
import type { PagePool } from './page-pool.js';
import { Upload } from './upload.js';

/** Keys of one head, hashed and sorted: what `addSegment` of `@magicpig/lsh` takes. */
export interface Segment {
  count: number;
  /** [tables][2^bits + 1] */
  starts: Uint16Array;
  /** [tables][count] */
  ids: Uint16Array;
  /** [count] */
  inverseNorms: Float32Array;
  /** [dim], of the first segment: what all keys are relative to. */
  centre?: Float32Array;
}

/** Which keys of a sequence are hashed: those of tokens [begin, end) of one head, around the mean of the first `meanKeys`. */
export interface SegmentKeys {
  layer: number;
  kvHead: number;
  begin: number;
  end: number;
  meanKeys: number;
}

/** The tables that keys are hashed for. */
export type SegmentTables = Required<HashSizes> & { seed: number };

/** Results of one head, in host memory. */
interface Slot {
  starts?: PinnedArray<'u16'>;
  ids?: PinnedArray<'u16'>;
  norms?: PinnedArray<'f32'>;
  centre?: PinnedArray<'f32'>;
  built?: Event;
}

/** Tokens of a layer, as they are until the sequence's next step. */
interface Place {
  sequence: CudaKvSequence;
  pages: LayerPages;
  step: number;
  begin: number;
  end: number;
}

interface Job {
  place: Place;
  keys: SegmentKeys;
  slot: Slot;
}

/**
 * Hashes keys that the device holds and builds tables of them, beside whatever else it computes: one head while the host takes in the
 * one before.
 */
export class SegmentBuilder implements Disposable {
  readonly tables: SegmentTables;
  /** How long the device took. */
  readonly clock: DeviceClock;
  readonly #backend: CudaBackend;
  readonly #stream: Stream;
  /** The keys of a layer are there. */
  readonly #written: Event;
  readonly #pool: PagePool;
  readonly #kvHeads: number;
  readonly #slots: [Slot, Slot] = [{}, {}];
  readonly #scratch = new Map<string, DeviceArray>();
  readonly #indices: Upload<'i32'>;
  /** What the indices on the device are of. */
  #rows: (Place & { array: DeviceArray<'i32'> }) | undefined;
  #projected = false;
  #ahead: Job | undefined;

  constructor(backend: CudaBackend, pool: PagePool, kvHeads: number, tables: SegmentTables) {
    const { seed, ...sizes } = tables;
    this.tables = { ...checkHash(sizes), seed };
    this.#backend = backend;
    this.#pool = pool;
    this.#kvHeads = kvHeads;
    const { device } = backend;
    this.#stream = device.stream();
    try {
      this.#written = device.event();
    } catch (error) {
      this.#stream[Symbol.dispose]();
      throw error;
    }
    this.clock = new DeviceClock(device, this.#stream);
    this.#indices = new Upload(device, 'i32');
  }

  /** Bytes of device memory for contexts of so many keys. */
  static bytes(keys: number, sizes: Omit<SegmentTables, 'seed'>): number {
    const { dim, bits, tables } = sizes;
    const segment = Math.min(keys, SEGMENT_KEYS);
    const buckets = 2 ** bits + 1;
    return (
      projectionLength(sizes) + 2 * keys * dim + 4 * keys + tables * (4 * segment + 2 * buckets) + 4 * (segment + dim)
    );
  }

  /**
   * The segments of one head, views of pinned memory that are valid until the next call. Waits for them alone.
   *
   * @param sequence of which the device has the whole layer
   * @param written passes when the layer's keys are there; absent when they come with what is queued on the backend's stream
   */
  build(sequence: CudaKvSequence, keys: SegmentKeys, written?: Event): Segment[] {
    const { layer, begin, end } = keys;
    const place = { sequence, pages: sequence.pages[layer]!, step: sequence.lastStep, begin, end };
    const ahead = this.#ahead;
    this.#ahead = undefined;
    const ready = ahead && samePlace(ahead.place, place);
    if (!ready) this.#follow(written);
    this.clock.start();
    const job =
      ready && ahead.keys.kvHead === keys.kvHead && ahead.keys.meanKeys === keys.meanKeys
        ? ahead
        : this.#queue(place, keys, this.#slots[0]);
    const next = { ...keys, kvHead: keys.kvHead + 1 };
    const other = this.#slots.find((slot) => slot !== job.slot)!;
    if (next.kvHead < this.#kvHeads) this.#ahead = this.#queue(place, next, other);
    this.clock.stop();
    const start = performance.now();
    job.slot.built!.synchronize();
    this.#backend.waited += performance.now() - start;
    return this.#segments(job);
  }

  [Symbol.dispose](): void {
    this.#ahead = undefined;
    this.#rows = undefined;
    this.#projected = false;
    for (const thing of [this.clock, this.#indices, this.#stream, this.#written]) thing[Symbol.dispose]();
    for (const array of this.#scratch.values()) array[Symbol.dispose]();
    this.#scratch.clear();
    for (const slot of this.#slots) {
      for (const thing of Object.values(slot) as Disposable[]) thing[Symbol.dispose]();
      for (const name of Object.keys(slot)) delete slot[name as keyof Slot];
    }
  }

  /** What is queued next comes after a layer's keys. */
  #follow(written: Event | undefined): void {
    const { stream } = this.#backend;
    if (written === undefined) stream.record(this.#written);
    else stream.flush(); // so that the device is at work meanwhile
    this.#stream.wait(written ?? this.#written);
  }

  #queue(place: Place, keys: SegmentKeys, slot: Slot): Job {
    const { device } = this.#backend;
    const stream = this.#stream;
    const { seed, ...sizes } = this.tables;
    const { dim, bits, tables } = sizes;
    const count = keys.end - keys.begin;
    const projections = this.#room('projections', 'i8', projectionLength(sizes));
    if (!this.#projected) simhashProjections(stream, { out: projections, ...sizes, seed });
    this.#projected = true;

    // Keys of one head, one after the other [count, dim]: pairs of bf16 are copied as one float32.
    const x = this.#room('keys', 'bf16', count * dim);
    const held = this.#pool.keys.as('f32').view((keys.kvHead * dim) / 2);
    copyRows(stream, { out: x.as('f32'), x: held, indices: this.#indicesOf(place), rows: count, width: dim / 2 });
    const centre = this.#room('centre', 'f32', dim);
    columnMean(stream, { mean: centre, x, rows: keys.meanKeys, dim });

    const parts = partsOf(keys);
    const most = Math.max(...parts.map(({ rows }) => rows));
    const buckets = 2 ** bits + 1;
    const codes = this.#room('codes', 'u16', tables * most);
    const starts = this.#room('starts', 'u16', tables * buckets);
    const ids = this.#room('ids', 'u16', tables * most);
    const inverseNorms = this.#room('norms', 'f32', most);
    const bytes = tableBuildWorkspace(stream, { keys: most, bits, tables });
    const workspace = bytes > 0 ? this.#room('workspace', 'u8', bytes) : undefined;
    this.#fit(slot, { starts: parts.length * tables * buckets, ids: count * tables, norms: count, centre: dim });
    slot.built ??= device.event();
    const download = <T extends DType>(to: PinnedArray<T>, from: DeviceArray<T>, offset: number, width: number) =>
      stream.copyMatrix(to, from, { rows: 1, width, toStride: width, fromStride: width, toOffset: offset });
    for (const [i, { first, rows }] of parts.entries()) {
      simhash(stream, {
        ...sizes,
        codes,
        inverseNorms,
        x: x.view(first * dim),
        rows,
        centre,
        projections,
        layout: 'tables',
      });
      tableBuild(stream, { starts, ids, codes, keys: rows, bits, tables, ...(workspace && { workspace }) });
      download(slot.starts!, starts, i * tables * buckets, tables * buckets);
      download(slot.ids!, ids, first * tables, rows * tables);
      download(slot.norms!, inverseNorms, first, rows);
    }
    download(slot.centre!, centre, 0, dim);
    stream.record(slot.built);
    return { place, keys, slot };
  }

  #segments({ keys, slot }: Job): Segment[] {
    const { bits, tables, dim } = this.tables;
    const size = tables * (2 ** bits + 1);
    return partsOf(keys).map(({ first, rows }, i) => ({
      count: rows,
      starts: slot.starts!.host.subarray(i * size, (i + 1) * size),
      ids: slot.ids!.host.subarray(first * tables, (first + rows) * tables),
      inverseNorms: slot.norms!.host.subarray(first, first + rows),
      ...(i === 0 && { centre: slot.centre!.host.subarray(0, dim) }),
    }));
  }

  /** Where the keys of the first head are, in rows of a head; those of the others follow each one. */
  #indicesOf(place: Place): DeviceArray<'i32'> {
    if (this.#rows && samePlace(this.#rows, place)) return this.#rows.array;
    const { pages, begin, end } = place;
    const indices = new Int32Array(end - begin);
    for (let token = begin; token < end; token += 1) {
      indices[token - begin] = this.#kvHeads * this.#pool.slot(pages.at(Math.floor(token / PAGE_TOKENS))!, token);
    }
    this.#rows = undefined;
    const array = this.#indices.put(this.#stream, indices);
    this.#rows = { ...place, array };
    return array;
  }

  /** Device memory of at least so many elements; work on the stream takes turns with it. */
  #room<T extends DType>(name: string, dtype: T, length: number): DeviceArray<T> {
    const held = this.#scratch.get(name) as DeviceArray<T> | undefined;
    if (held !== undefined && held.length >= length) return held;
    held?.[Symbol.dispose]();
    this.#scratch.delete(name);
    const array = this.#backend.device.array(dtype, length);
    this.#scratch.set(name, array);
    return array;
  }

  #fit(slot: Slot, lengths: { starts: number; ids: number; norms: number; centre: number }): void {
    const { device } = this.#backend;
    const ensure = <T extends 'u16' | 'f32'>(name: 'starts' | 'ids' | 'norms' | 'centre', dtype: T) => {
      const held = slot[name];
      if (held !== undefined && held.length >= lengths[name]) return;
      held?.[Symbol.dispose]();
      delete slot[name];
      Object.assign(slot, { [name]: device.pinned(dtype, lengths[name]) });
    };
    ensure('starts', 'u16');
    ensure('ids', 'u16');
    ensure('norms', 'f32');
    ensure('centre', 'f32');
  }
}

/** Segments of keys, relative to the first. Those that the mean is over, and that others may share, end where a segment does. */
function partsOf({ begin, end, meanKeys }: SegmentKeys): { first: number; rows: number }[] {
  const parts: { first: number; rows: number }[] = [];
  for (let first = 0; first < end - begin; ) {
    const stop = first < meanKeys ? meanKeys : end - begin;
    const rows = Math.min(SEGMENT_KEYS, stop - first);
    parts.push({ first, rows });
    first += rows;
  }
  return parts;
}

function samePlace(a: Place, b: Place): boolean {
  return (['sequence', 'pages', 'step', 'begin', 'end'] as const).every((name) => a[name] === b[name]);
}
