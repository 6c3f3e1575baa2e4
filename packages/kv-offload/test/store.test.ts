import { describe, expect, it } from 'vitest';
import {
  DisposedError,
  GivenSelector,
  InvalidArgumentError,
  KvOutOfMemoryError,
  type KvSequence,
  KvStore,
  StaleStepError,
} from '../src/index.js';
import { randomRows, referenceRow, rowsOf, runStep, type Token, tokensOf } from './model.js';
import { Random } from './random.js';
import { relativeError } from './reference.js';

const SHAPE = { layers: 2, kvHeads: 2, queryHeads: 4, headDim: 16, pageTokens: 16, threads: 2 };
const PAGE_BYTES = { f32: 2 * 2 * 2 * 16 * 16 * 4, bf16: 2 * 2 * 2 * 16 * 16 * 2 };

/** bfloat16, to nearest even: what a bf16 store keeps of a float32. */
function toBf16(x: number): number {
  const bits = new Uint32Array(Float32Array.of(x).buffer);
  bits[0] = (bits[0]! + 0x7fff + ((bits[0]! >>> 16) & 1)) & 0xffff0000;
  return new Float32Array(bits.buffer)[0]!;
}

/** Random operations on a store and on plain arrays; everything the store says must agree. */
function simulate(dtype: 'bf16' | 'f32', seed: number, operations: number): void {
  const random = new Random(seed);
  const maxPages = 40;
  const store = new KvStore({ ...SHAPE, dtype, maxBytes: maxPages * PAGE_BYTES[dtype] + 17 });
  let live: { sequence: KvSequence; tokens: Token[]; pages: number[] }[] = [];
  let nextPage = 0;
  const used = () => new Set(live.flatMap(({ pages }) => pages)).size;

  for (let operation = 0; operation < operations; operation++) {
    const kind = random.integer(10);
    const at = random.integer(Math.max(1, live.length));
    const subject = live[at];
    if (kind === 0 || subject === undefined) {
      live.push({ sequence: store.open(), tokens: [], pages: [] });
    } else if (kind === 1) {
      live.push({
        ...subject,
        sequence: subject.sequence.fork(),
        tokens: [...subject.tokens],
        pages: [...subject.pages],
      });
    } else if (kind === 2) {
      const length = random.integer(subject.tokens.length + 1);
      subject.sequence.truncate(length);
      subject.tokens.length = length;
      subject.pages.length = Math.ceil(length / 16);
    } else if (kind === 3) {
      subject.sequence[Symbol.dispose]();
      live = live.filter((other) => other !== subject);
    } else {
      const chosen = live.filter(() => random.uniform() < 0.5);
      const entries = chosen.map(({ sequence }) => ({
        sequence,
        tokens: 1 + random.integer(random.integer(4) === 0 ? 40 : 3),
      }));
      // The pages that the step should take: copies of shared last pages, then new ones.
      const before = live.map(({ pages }) => [...pages]);
      for (const [i, { tokens, pages }] of chosen.entries()) {
        const last = pages.at(-1);
        const shared = live.filter((other) => other.pages.includes(last!)).length > 1;
        if (tokens.length % 16 !== 0 && shared) pages[pages.length - 1] = nextPage++;
        while (pages.length < Math.ceil((tokens.length + entries[i]!.tokens) / 16)) pages.push(nextPage++);
      }
      if (used() > maxPages) {
        for (const [i, { pages }] of live.entries()) pages.splice(0, pages.length, ...before[i]!);
        expect(() => store.step(entries)).toThrow(KvOutOfMemoryError);
      } else {
        const count = entries.reduce((sum, { tokens }) => sum + tokens, 0);
        const rows = randomRows(store, count, random);
        const outputs = runStep(store, entries, rows);
        let row = 0;
        for (const [i, { tokens }] of chosen.entries()) {
          const added = tokensOf(store, rows, count).slice(row, row + entries[i]!.tokens);
          tokens.push(...added);
          row += added.length;
          const queries = rows.queries[1]!.subarray((row - 1) * 64, row * 64);
          const error = relativeError(
            outputs[1]!.subarray((row - 1) * 64, row * 64),
            referenceRow(store, tokens, 1, queries).output,
          );
          expect(error).toBeLessThan(dtype === 'f32' ? 1e-5 : 2e-2);
        }
      }
    }
    expect(store.bytes).toBe(used() * PAGE_BYTES[dtype]);
    for (const { sequence, tokens } of live) expect(sequence.length).toBe(tokens.length);
  }
  const keep = (x: number) => (dtype === 'f32' ? x : toBf16(x));
  for (const { sequence, tokens } of live) {
    for (const [layer, head] of [
      [0, 1],
      [1, 0],
    ] as const) {
      const expected = (pick: 'keys' | 'values') =>
        tokens.flatMap((token) => [...token[pick][layer]!.subarray(head * 16, head * 16 + 16)].map(keep));
      expect([...store.readKeys(sequence, layer, head, 0, tokens.length)]).toEqual(expected('keys'));
      expect([...store.readValues(sequence, layer, head, 0, tokens.length)]).toEqual(expected('values'));
    }
    sequence[Symbol.dispose]();
  }
  expect(store.bytes).toBe(0);
}

describe('store', () => {
  it.each([1, 2, 3, 4, 5, 6])('agrees with plain arrays under random operations, seed %i', (seed) => {
    simulate(seed % 2 === 0 ? 'f32' : 'bf16', seed, 150);
  });

  it('says what a sequence will take and what is in use', () => {
    const store = new KvStore({ ...SHAPE, dtype: 'f32' });
    expect([0, 1, 16, 17].map((tokens) => store.bytesFor(tokens))).toEqual([0, 1, 1, 2].map((n) => n * PAGE_BYTES.f32));
    runStep(store, [{ sequence: store.open(), tokens: 17 }], randomRows(store, 17, new Random(1)));
    const stats = store.stats();
    expect(stats).toMatchObject({
      pages: 2,
      pageBytes: PAGE_BYTES.f32,
      bytes: 2 * PAGE_BYTES.f32,
      slabs: 1,
      threads: 2,
    });
    expect(stats.reservedBytes).toBeGreaterThanOrEqual(stats.bytes);
    expect(['avx512bf16', 'avx512', 'avx2', 'neon', 'portable']).toContain(stats.isa);
  });

  it('refuses a step that does not fit, with nothing changed', () => {
    const store = new KvStore({ ...SHAPE, maxBytes: 3 * PAGE_BYTES.bf16 });
    const [a, b] = [store.open(), store.open()];
    runStep(store, [{ sequence: a, tokens: 16 }], randomRows(store, 16, new Random(1)));
    const entries = [
      { sequence: a, tokens: 1 },
      { sequence: b, tokens: 17 },
    ];
    expect(() => store.step(entries)).toThrow(KvOutOfMemoryError);
    try {
      store.step(entries);
    } catch (error) {
      expect(error).toMatchObject({
        code: 'OUT_OF_MEMORY',
        requestedBytes: 3 * PAGE_BYTES.bf16,
        availableBytes: 2 * PAGE_BYTES.bf16,
      });
    }
    expect([a.length, b.length, store.bytes]).toEqual([16, 0, PAGE_BYTES.bf16]);
    store.step([{ sequence: b, tokens: 17 }]);
    expect(store.bytes).toBe(store.maxBytes);
  });

  it('copies a shared page once when all of its holders write in one step', () => {
    const store = new KvStore(SHAPE);
    const a = store.open();
    runStep(store, [{ sequence: a, tokens: 5 }], randomRows(store, 5, new Random(1)));
    const b = a.fork();
    expect(store.bytes).toBe(PAGE_BYTES.bf16);
    const rows = randomRows(store, 2, new Random(2));
    runStep(
      store,
      [
        { sequence: a, tokens: 1 },
        { sequence: b, tokens: 1 },
      ],
      rows,
    );
    expect(store.bytes).toBe(2 * PAGE_BYTES.bf16);
    expect([...store.readKeys(a, 0, 0, 0, 5)]).toEqual([...store.readKeys(b, 0, 0, 0, 5)]);
    expect([...store.readKeys(a, 0, 0, 5, 6)]).not.toEqual([...store.readKeys(b, 0, 0, 5, 6)]);
  });

  it('rolls a step back', () => {
    const store = new KvStore(SHAPE);
    const sequence = store.open();
    runStep(store, [{ sequence, tokens: 10 }], randomRows(store, 10, new Random(1)));
    const keys = [...store.readKeys(sequence, 1, 1, 0, 10)];
    const step = store.step([{ sequence, tokens: 30 }]);
    const rows = randomRows(store, 30, new Random(2));
    step.append(1, rowsOf(rows.keys[1]!, 32), rowsOf(rows.values[1]!, 32));
    step.rollback();
    expect([sequence.length, store.bytes]).toEqual([10, PAGE_BYTES.bf16]);
    expect([...store.readKeys(sequence, 1, 1, 0, 10)]).toEqual(keys);
    expect(() => step.rollback()).toThrow(StaleStepError);
  });

  it('gives its memory back at once', () => {
    const store = new KvStore({ ...SHAPE, layers: 32, kvHeads: 8, queryHeads: 8, pageTokens: 64, headDim: 64 });
    const sequences = Array.from({ length: 3 }, () => store.open());
    for (const sequence of sequences) store.step([{ sequence, tokens: 1000 }]);
    const full = store.stats();
    expect(full.slabs).toBeGreaterThan(2);
    for (const sequence of sequences) sequence[Symbol.dispose]();
    expect(store.stats()).toMatchObject({ pages: 0, bytes: 0, slabs: 1 });
  });

  it('keeps one empty slab, so that a step over its edge that is rolled back again and again maps nothing', () => {
    const store = new KvStore({ ...SHAPE, layers: 32, kvHeads: 8, queryHeads: 8, pageTokens: 64, headDim: 64 });
    const sequence = store.open();
    store.step([{ sequence, tokens: 64 }]);
    const { reservedBytes, pageBytes } = store.stats();
    store.step([{ sequence, tokens: (reservedBytes / pageBytes - 1) * 64 }]);
    expect(store.stats().slabs).toBe(1);
    for (let round = 0; round < 2; round++) {
      const step = store.step([{ sequence, tokens: 1 }]);
      expect(store.stats().slabs).toBe(2);
      step.rollback();
      expect(store.stats().slabs).toBe(2);
    }
    // Of two that are empty, one goes.
    sequence.truncate(0);
    expect(store.stats().slabs).toBe(1);
  });
});

describe('misuse', () => {
  const row = (length: number) => rowsOf(new Float32Array(length), length);

  it('refuses shapes that are not supported', () => {
    const wrong: [object, RegExp][] = [
      [{ headDim: 12 }, /headDim is 12; pass a multiple of 8/],
      [{ headDim: 264 }, /headDim is 264; pass an integer from 8 to 256/],
      [{ queryHeads: 5 }, /queryHeads is 5; pass a multiple of kvHeads \(2\)/],
      [{ layers: 0 }, /layers is 0/],
      [{ layers: 1.5 }, /layers is 1.5/],
      [{ dtype: 'fp4' }, /dtype is fp4/],
      [{ pageTokens: 48 }, /pageTokens is 48; pass a power of two/],
      [{ maxBytes: -1 }, /maxBytes is -1/],
      [{ maxBytes: Number.NaN }, /maxBytes is NaN/],
      [{ threads: 0 }, /threads is 0/],
      [{ pool: {} }, /pool is not a thread pool/],
    ];
    for (const [options, message] of wrong) {
      expect(() => new KvStore({ ...SHAPE, ...options })).toThrow(InvalidArgumentError);
      expect(() => new KvStore({ ...SHAPE, ...options })).toThrow(message);
    }
  });

  it('refuses rows of the wrong shape', () => {
    const store = new KvStore(SHAPE);
    const step = store.step([{ sequence: store.open(), tokens: 2 }]);
    expect(() => step.append(2, row(64), row(64))).toThrow(/layer is 2/);
    expect(() => step.append(0, rowsOf(new Float32Array(63), 32), rowsOf(new Float32Array(64), 32))).toThrow(
      /keys: 2 rows/,
    );
    expect(() => step.append(0, rowsOf(new Float32Array(64), 32), rowsOf(new Float32Array(64), 31))).toThrow(
      /values.stride is 31/,
    );
    expect(() => step.append(0, { data: [] as never, offset: 0, stride: 32 }, row(64))).toThrow(/not a Float32Array/);
    const rows = rowsOf(new Float32Array(128), 64);
    expect(() => step.attend(0, rows, rows)).toThrow(/Layer 0 has no keys for this step/);
    step.append(0, rowsOf(new Float32Array(64), 32), rowsOf(new Float32Array(64), 32));
    expect(() => step.attend(0, { ...rows, offset: 1 }, rows)).toThrow(/queries: 2 rows/);
    expect(() => step.attend(0, rows, rows, { logSumExp: new Float32Array(7) })).toThrow(/logSumExp/);
    expect(() => step.attend(0, rows, rows, { keysRead: new Float64Array(1) })).toThrow(/keysRead/);
    expect(() => step.attend(0, rows, rows, { sampledMs: new Float64Array(1) })).toThrow(/sampledMs/);
    expect(() => step.attend(0, rows, rows, { sampling: [] })).toThrow(/sampling has 0 elements/);
  });

  it('refuses entries that cannot be stepped', () => {
    const store = new KvStore(SHAPE);
    const sequence = store.open();
    const foreign = new KvStore(SHAPE).open();
    expect(() => store.step([{ sequence, tokens: 0 }])).toThrow(/entries\[0\].tokens is 0/);
    expect(() => store.step([{ sequence: {} as KvSequence, tokens: 1 }])).toThrow(/not a KvSequence/);
    expect(() => store.step([{ sequence: foreign, tokens: 1 }])).toThrow(/belongs to another store/);
    expect(() =>
      store.step([
        { sequence, tokens: 1 },
        { sequence, tokens: 1 },
      ]),
    ).toThrow(/appears twice/);
    expect(() => sequence.truncate(1)).toThrow(/only 0 tokens/);
    expect(() => store.readKeys(sequence, 0, 0, 0, 1)).toThrow(/end is 1/);
    expect(() => store.readKeys(foreign, 0, 0, 0, 0)).toThrow(/not one of this store/);
  });

  it('refuses what was disposed of', () => {
    const store = new KvStore(SHAPE);
    const sequence = store.open();
    const step = store.step([{ sequence, tokens: 1 }]);
    sequence[Symbol.dispose]();
    expect(() => sequence[Symbol.dispose]()).toThrow(DisposedError);
    expect(() => sequence.length).toThrow(DisposedError);
    expect(() => sequence.fork()).toThrow(DisposedError);
    expect(() => sequence.truncate(0)).toThrow(DisposedError);
    expect(() => store.step([{ sequence, tokens: 1 }])).toThrow(DisposedError);
    expect(() => step.append(0, row(32), row(32))).toThrow(DisposedError);
    expect(() => step.rollback()).toThrow(DisposedError);

    const other = store.open();
    store[Symbol.dispose]();
    store[Symbol.dispose]();
    expect(() => other.length).toThrow(DisposedError);
    expect(() => store.open()).toThrow(DisposedError);
    expect(() => store.step([])).toThrow(DisposedError);
    expect(store.bytes).toBe(0);
  });

  it('refuses a step whose sequence went on without it', () => {
    const store = new KvStore(SHAPE);
    const changes: ((sequence: KvSequence) => void)[] = [
      (sequence) => store.step([{ sequence, tokens: 1 }]),
      (sequence) => sequence.truncate(0),
      (sequence) => sequence.fork(),
    ];
    for (const change of changes) {
      const sequence = store.open();
      const step = store.step([{ sequence, tokens: 1 }]);
      step.append(0, row(32), row(32));
      change(sequence);
      expect(() => step.append(0, row(32), row(32))).toThrow(StaleStepError);
      expect(() => step.attend(0, row(64), row(64))).toThrow(StaleStepError);
    }
  });

  it('refuses given selections that are not selections', () => {
    const given = new GivenSelector(new KvStore(SHAPE));
    expect(() => given.set(0, 4, new Uint32Array())).toThrow(/queryHead is 4/);
    expect(() => given.set(0, 0, Uint32Array.of(1, 1))).toThrow(/strictly ascending/);
    expect(() => given.set(0, 0, Uint32Array.of(1, 2), new Float32Array(1))).toThrow(/ids.length \(2\)/);
    expect(() => given.set(0, 0, Uint32Array.of(1), Float32Array.of(Number.NEGATIVE_INFINITY))).toThrow(/finite/);
  });
});
