/** Tables of many heads in TypeScript: what native/tables.cc computes, to the last bit. */
import { setImmediate } from 'node:timers/promises';
import type {
  EngineCandidates,
  EngineCandidatesBatch,
  EngineQuery,
  EngineStats,
  EngineTables,
  EngineTablesOptions,
  Vectors,
} from './engine.js';
import { saveFile } from './typescript-engine-container.js';
import { engineError } from './typescript-engine-error.js';
import { type Head, writeTables } from './typescript-engine-file.js';
import { HeadIndex } from './typescript-engine-head.js';
import { dot, type TypeScriptProjection, toFloats } from './typescript-engine-projection.js';

/** Rows between two looks at whether an asynchronous call was stopped. */
const ROWS_AT_ONCE = 64;

const NO_CENTRE = 'centre is missing: the head is centred on a mean and has none yet; nothing was added.';
const NEEDLESS_CENTRE =
  'centre is given, but the head has one already or is not centred on a mean: hash relative to what centre(head) says and leave it out; nothing was added.';

/** What one query finds: the first `count` elements of arrays that are reused. */
type Found = Required<EngineCandidates>;

export class TypeScriptTables implements EngineTables {
  readonly #options: EngineTablesOptions;
  readonly #projection: TypeScriptProjection;
  /** [heads]; absent while a head has no keys and no centre. */
  readonly #heads: (Head | undefined)[];
  readonly #codes: Uint16Array;
  readonly #rounded: Int16Array;
  #found: Found = candidateArrays(0);

  constructor(options: EngineTablesOptions, heads: (Head | undefined)[] = new Array(options.heads)) {
    const { center } = options;
    this.#options = { ...options, center: center instanceof Float32Array ? center.slice() : center };
    this.#projection = options.projection as TypeScriptProjection;
    this.#heads = heads;
    this.#codes = new Uint16Array(this.#projection.tables);
    this.#rounded = new Int16Array(this.#projection.roundedSize);
  }

  bytes(): number {
    const { logTable, center } = this.#options;
    let sum = logTable.byteLength + 8 * this.#heads.length;
    if (center instanceof Float32Array) sum += center.byteLength;
    for (const head of this.#heads) {
      if (head) {
        sum += head.index.bytes + head.inverseNorms.byteLength + head.vectors.byteLength;
        sum += head.centre?.byteLength ?? 0;
      }
    }
    return sum;
  }

  stats(head: number): EngineStats {
    const { index, inverseNorms, vectors, centre } = this.#heads[head] ?? this.#newHead();
    const { segments, listed } = index;
    const buckets = index.bucketSizes();
    return {
      segments: Uint32Array.from(segments, ({ count }) => count),
      listed,
      occupied: buckets.reduce((sum, size) => sum + (size > 0 ? 1 : 0), 0),
      largest: buckets.reduce((most, size) => Math.max(most, size), 0),
      squares: buckets.reduce((sum, size) => sum + size * size, 0),
      idBytes: segments.reduce((sum, { ids }) => sum + ids.byteLength, 0),
      startBytes: segments.reduce((sum, { starts }) => sum + starts.byteLength, 0),
      codeBytes: index.tail.byteLength,
      vectorBytes: vectors.byteLength,
      normBytes: inverseNorms.byteLength + (centre?.byteLength ?? 0),
    };
  }

  length(head: number): number {
    return this.#heads[head]?.index.size ?? 0;
  }

  add(head: number, vectors: Vectors): void {
    const hashing = this.#hash(head, vectors);
    while (!hashing.next().done);
  }

  async addAsync(head: number, vectors: Vectors, control: Uint32Array): Promise<boolean> {
    const hashing = this.#hash(head, vectors.slice());
    for (let step = hashing.next(); !step.done; step = hashing.next()) {
      Atomics.store(control, 1, step.value);
      await setImmediate();
      if (Atomics.load(control, 0) !== 0) return false;
    }
    return true;
  }

  /** Hashes and then adds vectors; yields how many are hashed, and changes nothing before it ends. */
  *#hash(head: number, vectors: Vectors): Generator<number, void> {
    const { dim, tables } = this.#projection;
    const rows = vectors.length / dim;
    if (rows === 0) return;
    const floats = toFloats(vectors);
    const { keep } = this.#options;
    const kept = keep === 'bf16' ? toBrain(floats) : floats;
    const target = this.#heads[head] ?? this.#newHead(floats);
    const { index } = target;
    const centre = this.#centre(head, target);
    const norms = new Float32Array(rows);
    const codes = allocate(() => new Uint16Array(rows * tables));
    for (let row = 0; row < rows; row++) {
      const code = codes.subarray(row * tables, (row + 1) * tables);
      norms[row] = this.#projection.hashRow(floats, row, centre, this.#rounded, code);
      if ((row + 1) % ROWS_AT_ONCE === 0 || row + 1 === rows) yield row + 1;
    }
    allocate(() => {
      const inverseNorms = this.#options.norms ? appended(target.inverseNorms, index.size, norms) : target.inverseNorms;
      const all = keep === 'none' ? target.vectors : appended(target.vectors, index.size * dim, kept);
      index.append(codes);
      target.inverseNorms = inverseNorms;
      target.vectors = all;
    });
    this.#heads[head] = target;
  }

  addCodes(head: number, codes: Uint16Array): void {
    const { bits, tables } = this.#projection;
    if (codes.length === 0) return;
    if (codes.some((code) => code >>> bits !== 0)) {
      throw engineError('INVALID_ARGUMENT', 'codes holds a code with more bits than the index has; nothing was added.');
    }
    const target = this.#heads[head] ?? this.#newHead();
    const { index } = target;
    allocate(() => {
      const none = new Float32Array(codes.length / tables);
      const inverseNorms = this.#options.norms ? appended(target.inverseNorms, index.size, none) : target.inverseNorms;
      index.append(codes);
      target.inverseNorms = inverseNorms;
    });
    this.#heads[head] = target;
  }

  /** Sorts the codes again, as adding them would. */
  addSegment(
    head: number,
    count: number,
    starts: Uint16Array,
    ids: Uint16Array,
    inverseNorms: Float32Array,
    centre: Float32Array | undefined,
  ): void {
    const needed = this.#options.center === 'auto' && !this.#heads[head]?.centre;
    if (needed !== (centre !== undefined)) throw engineError('INVALID_ARGUMENT', needed ? NO_CENTRE : NEEDLESS_CENTRE);
    const target = this.#heads[head] ?? this.#newHead();
    const { index } = target;
    allocate(() => {
      const codes = index.codesOf(count, starts.slice(), ids.slice());
      if (!codes) {
        throw engineError(
          'INVALID_ARGUMENT',
          'A table of the segment does not hold each of its keys once, ascending within each bucket that starts delimits; nothing was added.',
        );
      }
      if (!inverseNorms.every((norm) => norm >= 0 && norm < Infinity)) {
        throw engineError(
          'INVALID_ARGUMENT',
          'inverseNorms holds one that is negative or not finite; nothing was added.',
        );
      }
      const all = this.#options.norms ? appended(target.inverseNorms, index.size, inverseNorms) : target.inverseNorms;
      index.append(codes);
      target.inverseNorms = all;
    });
    if (centre) target.centre = centre.slice();
    this.#heads[head] = target;
  }

  query(head: number, query: Vectors, what: EngineQuery): EngineCandidates {
    const count = this.#find(head, toFloats(query), what);
    const result = emptyCandidates(what, count);
    copyCandidates(this.#found, result, 0, count);
    return result;
  }

  queryInto(head: number, query: Vectors, what: EngineQuery, out: EngineCandidates): number {
    const count = this.#find(head, toFloats(query), what);
    const { ids, collisions = ids, dots = ids, probabilities = ids } = out;
    const room = Math.min(ids.length, collisions.length, dots.length, probabilities.length);
    copyCandidates(this.#found, out, 0, Math.min(count, room));
    return count;
  }

  queryBatch(head: number, queries: Vectors, what: EngineQuery): EngineCandidatesBatch {
    const querying = this.#queries(head, queries, what);
    for (;;) {
      const step = querying.next();
      if (step.done) return step.value;
    }
  }

  async queryBatchAsync(
    head: number,
    queries: Vectors,
    what: EngineQuery,
    control: Uint32Array,
  ): Promise<EngineCandidatesBatch | undefined> {
    const querying = this.#queries(head, queries.slice(), what);
    for (;;) {
      const step = querying.next();
      if (step.done) return step.value;
      Atomics.store(control, 1, step.value);
      await setImmediate();
      if (Atomics.load(control, 0) !== 0) return undefined;
    }
  }

  /** Asks the queries one after the other; yields how many are done. */
  *#queries(head: number, queries: Vectors, what: EngineQuery): Generator<number, EngineCandidatesBatch> {
    const { dim } = this.#projection;
    const floats = toFloats(queries);
    const count = floats.length / dim;
    const offsets = new Uint32Array(count + 1);
    const parts: EngineCandidates[] = [];
    for (let i = 0; i < count; i++) {
      const part = this.query(head, floats.subarray(i * dim, (i + 1) * dim), what);
      parts.push(part);
      offsets[i + 1] = offsets[i]! + part.ids.length;
      yield i + 1;
    }
    const all = emptyCandidates(what, offsets[count]!);
    parts.forEach((part, i) => {
      copyCandidates(part, all, offsets[i]!, part.ids.length);
    });
    return { ...all, offsets };
  }

  centre(head: number): Float32Array {
    return this.#centre(head, this.#heads[head])?.slice() ?? new Float32Array(this.#projection.dim);
  }

  truncate(head: number, length: number): void {
    allocate(() => this.#heads[head]?.index.truncate(length));
  }

  clear(): void {
    for (const head of this.#heads) if (head) head.index.segments = [];
    this.#heads.fill(undefined);
  }

  /** Tables with the same keys: segments are shared, the rest is copied. */
  fork(): TypeScriptTables {
    const heads = this.#heads.map(
      (head) =>
        head && {
          ...head,
          index: head.index.fork(),
          inverseNorms: head.inverseNorms.slice(),
          vectors: head.vectors.slice(),
        },
    );
    return new TypeScriptTables(this.#options, heads);
  }

  dispose(): void {
    this.clear();
  }

  save(path: string): void {
    saveFile(path, this.toBuffer());
  }

  toBuffer(): Uint8Array {
    return allocate(() => writeTables(this.#options, this.#projection, this.#heads));
  }

  selector(): object {
    throw engineError(
      'UNSUPPORTED',
      'A selector is called from the threads of native code, and this process runs hashing in TypeScript: build or install the native addon.',
    );
  }

  /** A head without keys; `first` are the vectors whose mean becomes its centre. Throws NON_FINITE. */
  #newHead(first?: Float32Array): Head {
    const { bits, tables, dim } = this.#projection;
    const { center, keep } = this.#options;
    return {
      index: new HeadIndex(bits, tables),
      ...(center === 'auto' && first && { centre: meanOf(first, dim) }),
      inverseNorms: new Float32Array(0),
      vectors: keep === 'bf16' ? new Uint16Array(0) : new Float32Array(0),
    };
  }

  #centre(head: number, target: Head | undefined): Float32Array | undefined {
    const { center } = this.#options;
    const { dim } = this.#projection;
    return center instanceof Float32Array ? center.subarray(head * dim, (head + 1) * dim) : target?.centre;
  }

  /** Leaves the candidates in #found; returns how many. */
  #find(head: number, query: Float32Array, what: EngineQuery): number {
    const { dim } = this.#projection;
    const codes = this.#codes;
    this.#projection.hashRow(query, 0, undefined, this.#rounded, codes);
    const target = this.#heads[head];
    if (!target) return 0;
    const { index, inverseNorms, vectors } = target;
    if (this.#found.ids.length < index.size) {
      this.#found = allocate(() => candidateArrays(index.size + (index.size >> 3)));
    }
    const { ids, collisions, dots, probabilities } = this.#found;
    const count = index.query(codes, what.minCollisions, ids, collisions);
    if (!what.dots && !what.logTable) return count;

    const centre = this.#centre(head, target);
    const shift = centre ? dot(query, 0, centre, 0, dim) : 0;
    const norm = Math.sqrt(dot(query, 0, query, 0, dim));
    const inverse = norm > 0 ? 1 / norm : 0;
    for (let i = 0; i < count; i++) {
      const id = ids[i]!;
      const kept = vectors.subarray(id * dim, (id + 1) * dim);
      const product = dot(query, 0, toFloats(kept), 0, dim);
      dots[i] = product;
      if (what.logTable) {
        probabilities[i] = probability(what.logTable, (product - shift) * inverseNorms[id]! * inverse);
      }
    }
    return what.nearest === undefined ? count : this.#nearest(count, what.nearest);
  }

  /** Moves the candidates of largest dot product to the front. */
  #nearest(count: number, most: number): number {
    const { ids, dots } = this.#found;
    // Infinite kept values make products that are no numbers, and an order needs numbers.
    const known = Float64Array.from(dots.subarray(0, count), (value) => (Number.isNaN(value) ? -Infinity : value));
    const order = Uint32Array.from(known, (_, i) => i).sort((a, b) => known[b]! - known[a]! || a - b);
    const best = order.subarray(0, most);
    ids.set(best.map((i) => ids[i]!));
    dots.set(Float64Array.from(best, (i) => known[i]!));
    return best.length;
  }
}

function candidateArrays(size: number): Found {
  return {
    ids: new Uint32Array(size),
    collisions: new Uint16Array(size),
    dots: new Float64Array(size),
    probabilities: new Float32Array(size),
  };
}

function emptyCandidates(what: EngineQuery, count: number): EngineCandidates {
  return {
    ids: new Uint32Array(count),
    ...(what.collisions && { collisions: new Uint16Array(count) }),
    ...(what.dots && { dots: new Float64Array(count) }),
    ...(what.logTable && { probabilities: new Float32Array(count) }),
  };
}

/** Copies the first `count` candidates to those arrays that `to` has, from `at` on. */
function copyCandidates(from: EngineCandidates, to: EngineCandidates, at: number, count: number): void {
  to.ids.set(from.ids.subarray(0, count), at);
  if (from.collisions) to.collisions?.set(from.collisions.subarray(0, count), at);
  if (from.dots) to.dots?.set(from.dots.subarray(0, count), at);
  if (from.probabilities) to.probabilities?.set(from.probabilities.subarray(0, count), at);
}

/** Mean of rows, summed in double from first to last. */
function meanOf(rows: Float32Array, dim: number): Float32Array {
  const sums = new Float64Array(dim);
  for (let i = 0; i < rows.length; i++) sums[i % dim]! += rows[i]!;
  const mean = Float32Array.from(sums, (sum) => sum / (rows.length / dim));
  if (!mean.every(Number.isFinite)) {
    throw engineError('NON_FINITE', 'A vector holds NaN or an infinity; nothing was changed.');
  }
  return mean;
}

/** `array` with `more` behind its first `used` elements, in place where there is room. */
function appended<T extends Vectors>(array: T, used: number, more: T): T {
  const needed = used + more.length;
  let target = array;
  if (needed > array.length) {
    target = new (array.constructor as new (length: number) => T)(Math.max(needed, Math.floor(array.length * 1.125)));
    target.set(array.subarray(0, used));
  }
  target.set(more, used);
  return target;
}

/** float32 to bfloat16, nearest, ties to even. */
function toBrain(values: Float32Array): Uint16Array {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  return Uint16Array.from(words, (word) => (word + 0x7fff + ((word >>> 16) & 1)) >>> 16);
}

/** exp(-table) at a cosine, interpolated. A cosine that is not a number counts as the least. */
function probability(table: Float32Array, cosine: number): number {
  const at = cosine > -1 ? Math.min((cosine + 1) / 2, 1) * (table.length - 1) : 0;
  const i = Math.min(Math.floor(at), table.length - 2);
  return Math.exp(-(table[i]! + (at - i) * (table[i + 1]! - table[i]!)));
}

/** Runs something that allocates. Throws OUT_OF_MEMORY. */
function allocate<T>(make: () => T): T {
  try {
    return make();
  } catch (cause) {
    if (cause instanceof RangeError) throw engineError('OUT_OF_MEMORY', 'Out of memory; nothing was changed.', cause);
    throw cause;
  }
}
