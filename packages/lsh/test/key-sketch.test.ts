import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  CorruptFileError,
  DisposedError,
  FileError,
  InvalidArgumentError,
  KeySketch,
  NonFiniteError,
  UnsupportedError,
} from '../src/index.js';
import { normals, philox } from './reference.js';

const typescript = process.env.MAGICPIG_ISA === 'typescript';

/** Keys around a common vector, as a transformer's are. */
function keysLike(seed: number, n: number, dim: number): Float32Array {
  const shift = normals(seed + 1000, dim);
  return normals(seed, n * dim).map((value, i) => value + 2 * shift[i % dim]!);
}

function exactScores(query: Float32Array, keys: Float32Array, scale = 1 / Math.sqrt(query.length)): Float64Array {
  const dim = query.length;
  return Float64Array.from(
    { length: keys.length / dim },
    (_, i) => query.reduce((sum, value, k) => sum + value * keys[i * dim + k]!, 0) * scale,
  );
}

const mean = (values: ArrayLike<number>) => Array.from(values).reduce((sum, value) => sum + value, 0) / values.length;
const deviation = (values: ArrayLike<number>) => {
  const centre = mean(values);
  return Math.sqrt(mean(Array.from(values, (value) => (value - centre) ** 2)));
};
const digest = (values: ArrayLike<number>) =>
  Array.from(new Uint32Array(Float64Array.from(values).buffer)).reduce(
    (hash, word) => (Math.imul(hash, 31) + word) | 0,
    0,
  );

describe('KeySketch', () => {
  it.each([
    [64, 1, 0.78],
    [64, 2, 0.39],
    [128, 3, 0.2],
    [256, 4, 0.11],
    [40, 4, 0.11],
    [100, 2, 0.38],
  ])('estimates scores in dim %i with %i bits', (dim, bits, tolerance) => {
    const keys = keysLike(dim + bits, 1500, dim);
    const query = normals(1, dim);
    const sketch = new KeySketch({ dim, bits, seed: 5 });
    sketch.add(keys);
    const exact = exactScores(query, keys);
    const errors = sketch.scores(query).map((score, i) => score - exact[i]!);
    const spread = deviation(exact);
    // The relative error of a b-bit grid at its best step for normal coordinates is about 0.75, 0.37, 0.19, 0.1.
    expect(deviation(errors) / spread).toBeLessThan(
      tolerance * Math.sqrt(Math.max(1, dim / 2 ** Math.ceil(Math.log2(dim)))) * 1.06,
    );
    expect(Math.abs(mean(errors))).toBeLessThan((5 * deviation(errors)) / Math.sqrt(errors.length));
  });

  it('gives what it gave when it was written, on every engine', () => {
    // Scores, ids and files of all bits, dimensions that need padding, and more than one chunk of keys.
    const seen = [1, 2, 3, 4].map((bits) => {
      const dim = 48 + 16 * bits;
      const sketch = new KeySketch({ dim, bits, seed: 2 ** 40 + bits, heads: 2 });
      sketch.add(keysLike(bits, 1300, dim), 1);
      const query = normals(7, dim).map((value) => 1.5 * value);
      const { ids, error } = sketch.sample(query, { head: 1, step: 3 });
      return [digest(sketch.scores(query, 1)), digest(ids), digest([error]), digest(sketch.toBuffer())];
    });
    expect(seen).toEqual([
      [-690956951, -735228928, 899712147, 853630976],
      [77352101, -529965056, 1526556116, -584212480],
      [-295630874, 1005343744, -1594486848, -695648256],
      [2115406265, -117644288, 229254605, -1678524416],
    ]);
  });

  it.each([
    [4100, 1933754880, 1827208027],
    [17000, 750928576, -1231945160],
    [66000, -1556716976, -1924897849],
  ])('gives what it gave when it was written, where of %i keys not all are counted', (n, drawn, reported) => {
    const sketch = new KeySketch({ dim: 16, seed: 8 });
    sketch.add(keysLike(n, n, 16));
    const { ids, error } = sketch.sample(
      normals(7, 16).map((value) => 2 * value),
      { step: 4 },
    );
    expect([digest(ids), digest([error])]).toEqual([drawn, reported]);
  });

  it('draws by the words of Philox', () => {
    const dim = 16;
    const n = 300;
    const sketch = new KeySketch({ dim, heads: 3, seed: 2 ** 33 + 9, floor: 1e-6 });
    sketch.add(keysLike(3, n, dim), 2);
    const query = normals(4, dim).map((value) => 2 * value);
    const { ids, logProbabilities } = sketch.sample(query, { head: 2, step: 11, budget: { share: 0.3 } });
    const half = (id: number, domain: number) =>
      (philox([id >> 3, 2, 11, domain], [9, 2])[(id % 8) >> 1]! >>> (16 * (id % 2))) & 0xffff;
    const logUniform = (id: number) => Math.log((half(id, 3) * 2 ** 16 + half(id, 4) + 0.5) / 2 ** 32);
    // Probabilities follow e^(0.85 score) with 2 bits, in steps of a quarter: those left out are the ones whose words are above theirs.
    const exponents = sketch.scores(query, 2).map((score) => 0.85 * score);
    const offsets = Array.from(logProbabilities, (log, i) => (log < 0 ? log - exponents[ids[i]!]! : Number.NaN));
    const inner = offsets.filter((offset) => !Number.isNaN(offset));
    expect(inner.length).toBeGreaterThan(20);
    const offset = mean(inner);
    const drawn = new Map(Array.from(ids, (id, i) => [id, logProbabilities[i]!]));
    let certain = 0;
    for (let id = 0; id < n; id++) {
      const log = Math.min(exponents[id]! + offset, 0);
      const known = drawn.get(id);
      if (known === undefined) {
        expect(logUniform(id)).toBeGreaterThan(log - 0.2);
      } else {
        expect(Math.abs(known - log)).toBeLessThan(0.2);
        expect(logUniform(id)).toBeLessThan(known);
        certain += known === 0 ? 1 : 0;
      }
    }
    expect(certain).toBeGreaterThan(0);
  });

  it.each([1, 2, 4])('estimates sums without bias with %i bits', (bits) => {
    const dim = 32;
    const n = 400;
    const keys = keysLike(20 + bits, n, dim);
    const query = normals(6, dim).map((value) => 1.5 * value);
    const values = normals(8, n);
    const sketch = new KeySketch({ dim, bits, keepVectors: true, budget: { count: 40 } });
    sketch.add(keys);
    const exact = exactScores(query, keys);
    const steps = 1500;
    for (const weight of [() => 1, (id: number) => values[id]!]) {
      const expected = exact.reduce((sum, score, id) => sum + Math.exp(score) * weight(id), 0);
      const estimates = Array.from(
        { length: steps },
        (_, step) => sketch.estimate(query, (id, score) => Math.exp(score) * weight(id), { step }).sum,
      );
      expect(Math.abs(mean(estimates) - expected)).toBeLessThan((4 * deviation(estimates)) / Math.sqrt(steps));
    }
  });

  it('reads as many keys as the budget says, and reports the error', () => {
    const dim = 64;
    const n = 2000;
    const keys = keysLike(31, n, dim);
    const query = normals(9, dim).map((value) => 2 * value);
    const sketch = new KeySketch({ dim, bits: 4, keepVectors: true });
    sketch.add(keys);
    const expected = exactScores(query, keys).reduce((sum, score) => sum + Math.exp(score), 0);
    const run = (budget: ConstructorParameters<typeof KeySketch>[0]['budget']) => {
      const samples = Array.from({ length: 150 }, (_, step) =>
        sketch.estimate(query, (_id, score) => Math.exp(score) / expected, { step, budget }),
      );
      return {
        read: mean(samples.map(({ read }) => read)),
        true: deviation(samples.map(({ sum }) => sum)),
        estimated: mean(samples.map(({ error }) => error)),
      };
    };
    for (const share of [0.02, 0.2]) {
      expect(run({ share }).read / (share * n)).toBeCloseTo(1, 1);
      expect(run({ count: share * n }).read / (share * n)).toBeCloseTo(1, 1);
    }
    expect(sketch.sample(query, { budget: { share: 1 } }).ids.length).toBe(n);
    expect(Math.max(...sketch.sample(query, { budget: { count: n } }).logProbabilities)).toBe(0);
    for (const error of [0.1, 0.03]) {
      const reached = run({ error, min: 0.001, max: 1 });
      expect(reached.estimated).toBeCloseTo(error, 4);
      expect(reached.true / error).toBeGreaterThan(0.7);
      expect(reached.true / error).toBeLessThan(1.5);
    }
    expect(run({ error: 1e-6, max: 0.1 }).read / (0.1 * n)).toBeCloseTo(1, 1);
    expect(run({ error: 1, min: 0.1 }).read / (0.1 * n)).toBeCloseTo(1, 1);
  });

  it.each([1, 2, 3])('knows its own error with %i bits', (bits) => {
    const dim = 64;
    const n = 3000;
    const keys = keysLike(81, n, dim);
    const sketch = new KeySketch({ dim, bits, keepVectors: true, budget: { share: 0.05 } });
    sketch.add(keys);
    let within = 0;
    let all = 0;
    for (let i = 0; i < 20; i++) {
      const query = normals(100 + i, dim).map((value) => 1.5 * value);
      const expected = exactScores(query, keys).reduce((sum, score) => sum + Math.exp(score), 0);
      for (let step = 0; step < 15; step++, all++) {
        const { sum, error } = sketch.estimate(query, (_, score) => Math.exp(score), { step });
        if (Math.abs(sum / expected - 1) < 2 * error) within++;
      }
    }
    // 95% for a normal distribution.
    expect(within / all).toBeGreaterThan(0.9);
    expect(within / all).toBeLessThan(0.995);
  });

  it('finds the keys of largest score', () => {
    const dim = 64;
    const keys = keysLike(41, 3000, dim);
    const query = normals(10, dim);
    const sketch = new KeySketch({ dim, bits: 4, keepVectors: true, scale: 1 });
    sketch.add(keys);
    const exact = exactScores(query, keys, 1);
    const best = Array.from(exact.keys()).sort((a, b) => exact[b]! - exact[a]!);
    const { ids, scores } = sketch.topK(query, 10, { candidates: 100 });
    expect(Array.from(ids)).toEqual(best.slice(0, 10));
    ids.forEach((id, i) => {
      expect(scores[i]).toBeCloseTo(exact[id]!, 3);
    });
    const rough = sketch.topK(query, 10);
    const estimated = sketch.scores(query);
    const order = Array.from(estimated.keys()).sort((a, b) => estimated[b]! - estimated[a]!);
    expect(Array.from(rough.ids)).toEqual(order.slice(0, 10));
    expect(Array.from(rough.scores)).toEqual(order.slice(0, 10).map((id) => estimated[id]));
    expect(sketch.topK(query, 5000).ids.length).toBe(3000);
  });

  it('grows, shrinks and forks', () => {
    const dim = 64;
    const keys = keysLike(51, 2200, dim);
    const query = normals(11, dim);
    const whole = new KeySketch({ dim, center: 'none' });
    expect(whole.add(keys)).toBe(0);
    const bytes = whole.toBuffer();
    const pieces = new KeySketch({ dim, center: 'none', threads: 2, budget: { count: 7 } });
    pieces.add(keys.subarray(0, 3 * dim));
    expect(pieces.add(keys.subarray(3 * dim, 1999 * dim))).toBe(3);
    const alone = pieces.bytes;
    const fork = pieces.fork();
    const shared = pieces.bytes + fork.bytes;
    expect(shared).toBeGreaterThanOrEqual(alone);
    // Keys count once, but in TypeScript, where they are copied.
    expect(shared - alone).toBeLessThan(typescript ? 1.1 * alone : 2 * new KeySketch({ dim }).bytes);
    pieces.truncate(1500);
    pieces.add(keysLike(52, 100, dim));
    fork.add(keys.subarray(1999 * dim));
    expect(fork.toBuffer()).toEqual(bytes);
    expect(pieces.length()).toBe(1600);
    expect(fork.sample(query)).toEqual(whole.sample(query, { budget: { count: 7 } }));
    pieces[Symbol.dispose]();
    expect(fork.scores(query)).toEqual(whole.scores(query));
    fork.clear();
    expect(fork.length()).toBe(0);
    expect(fork.sample(query).ids.length).toBe(0);
    expect(fork.scores(query).length).toBe(0);
  });

  it('keeps heads apart, centres each, and forks what it keeps', () => {
    const dim = 24;
    const sketch = new KeySketch({ dim, heads: 3, keepVectors: true });
    const keys = keysLike(61, 50, dim);
    sketch.add(keys, 1);
    expect([0, 1, 2].map((head) => sketch.length(head))).toEqual([0, 50, 0]);
    const centre = sketch.centre(1);
    for (let i = 0; i < dim; i++) {
      expect(centre[i]).toBeCloseTo(mean(Array.from({ length: 50 }, (_, row) => keys[row * dim + i]!)), 5);
    }
    expect(Array.from(sketch.centre(2))).toEqual(new Array(dim).fill(0));
    const fork = sketch.fork();
    sketch.truncate(10, 1);
    sketch.add(keysLike(62, 40, dim), 1);
    const query = normals(12, dim);
    const expected = exactScores(query, keys).reduce((sum, score) => sum + Math.exp(score), 0);
    const { sum, read } = fork.estimate(query, (_, score) => Math.exp(score), { head: 1, budget: { share: 1 } });
    expect(read).toBe(50);
    expect(sum / expected).toBeCloseTo(1, 5);
    // The centre stays when keys go, in files too.
    expect(sketch.centre(1)).toEqual(centre);
    sketch.truncate(0, 1);
    expect(KeySketch.fromBuffer(sketch.toBuffer()).centre(1)).toEqual(centre);
    // A key that is the centre scores as it does.
    const same = new KeySketch({ dim });
    same.add(new Float32Array(dim).fill(3));
    expect(same.scores(query)[0]).toBeCloseTo(exactScores(query, new Float32Array(dim).fill(3))[0]!, 4);
  });

  it('is saved, loaded and viewed', () => {
    const dim = 80;
    const folder = mkdtempSync(join(tmpdir(), 'key-sketch-'));
    const path = join(folder, 'keys');
    const query = normals(13, dim);
    try {
      const sketch = new KeySketch({ dim, heads: 2, bits: 3, seed: 99 });
      sketch.add(keysLike(71, 1200, dim), 1);
      sketch.save(path);
      expect(new Uint8Array(readFileSync(path))).toEqual(sketch.toBuffer());
      for (const again of [KeySketch.load(path), KeySketch.view(path), KeySketch.fromBuffer(sketch.toBuffer())]) {
        expect([again.dim, again.heads, again.bits, again.seed, again.length(0), again.length(1)]).toEqual([
          dim,
          2,
          3,
          99,
          0,
          1200,
        ]);
        expect(again.sample(query, { head: 1 })).toEqual(sketch.sample(query, { head: 1 }));
        again.add(keysLike(72, 100, dim), 1);
        expect(again.length(1)).toBe(1300);
        again[Symbol.dispose]();
      }
      expect(new Uint8Array(readFileSync(path))).toEqual(sketch.toBuffer());
      const fewer = KeySketch.load(path, { budget: { count: 5 }, floor: 0.5, scale: 1 });
      expect(fewer.sample(query, { head: 1 }).ids.length).toBeLessThan(30);

      const bytes = sketch.toBuffer();
      for (const at of [3, 70, bytes.length - 1]) {
        const damaged = bytes.slice();
        damaged[at]! ^= 4;
        expect(() => KeySketch.fromBuffer(damaged)).toThrow(CorruptFileError);
      }
      expect(() => KeySketch.fromBuffer(bytes.subarray(0, 100))).toThrow(CorruptFileError);
      writeFileSync(path, 'something else');
      expect(() => KeySketch.load(path)).toThrow(CorruptFileError);
      expect(() => KeySketch.view(path)).toThrow(CorruptFileError);
      expect(() => KeySketch.load(join(folder, 'missing'))).toThrow(FileError);
      expect(() => KeySketch.view(join(folder, 'missing'))).toThrow(FileError);
      expect(() => sketch.save(join(folder, 'missing', 'file'))).toThrow(FileError);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('says what it takes', () => {
    const sketch = new KeySketch({ dim: 128, bits: 2 });
    const empty = sketch.bytes;
    sketch.add(normals(1, 4096 * 128));
    const said = KeySketch.bytesFor({ dim: 128, bits: 2, keys: 4096 });
    expect((sketch.bytes - empty) / said).toBeCloseTo(1, 1);
    expect(said / 4096).toBeLessThan((2 * 128) / 8 + 4);
    expect(KeySketch.bytesFor({ dim: 64, keys: 65536 }) / 65536).toBeLessThan((2 * 64) / 8 + 4);
  });

  it('refuses what it cannot do', () => {
    const dim = 8;
    const make = (options: object) => () => new KeySketch({ dim, ...options } as never);
    for (const options of [
      { dim: 0 },
      { dim: 257 },
      { dim: 1.5 },
      { heads: 0 },
      { bits: 0 },
      { bits: 5 },
      { bits: 2.5 },
      { seed: -1 },
      { scale: 0 },
      { scale: Number.NaN },
      { floor: 0 },
      { floor: 2 },
      { center: 'mean' },
      { threads: 0 },
      { threads: 1, pool: {} },
      { budget: 0.1 },
      { budget: 'all' },
      { budget: {} },
      { budget: { share: 0 } },
      { budget: { share: 1.1 } },
      { budget: { share: Number.NaN } },
      { budget: { count: 0 } },
      { budget: { count: 1.5 } },
      { budget: { share: 0.1, count: 3 } },
      { budget: { share: 0.1, min: 0.1 } },
      { budget: { error: 0 } },
      { budget: { error: 0.1, min: 0.5, max: 0.4 } },
      { budget: { error: 0.1, max: 2 } },
    ]) {
      expect(make(options), JSON.stringify(options)).toThrow(InvalidArgumentError);
    }
    if (!typescript) expect(make({ pool: {} })).toThrow(InvalidArgumentError);

    const sketch = new KeySketch({ dim, heads: 2 });
    sketch.add(normals(1, 10 * dim));
    const before = sketch.toBuffer();
    const query = normals(2, dim);
    const bad = (value: number, n = 1) => new Float32Array(n * dim).fill(value, 3, 4);
    expect(() => sketch.add(bad(Number.NaN, 5))).toThrow(NonFiniteError);
    expect(() => sketch.add(bad(Number.POSITIVE_INFINITY, 5))).toThrow(NonFiniteError);
    expect(() => sketch.add(bad(2 ** 61, 5))).toThrow(NonFiniteError);
    expect(() => sketch.add(new Float32Array(dim + 1))).toThrow(InvalidArgumentError);
    expect(() => sketch.add(new Float64Array(dim) as never)).toThrow(InvalidArgumentError);
    expect(() => sketch.add(query, 2)).toThrow(InvalidArgumentError);
    expect(() => sketch.scores(bad(Number.NaN))).toThrow(NonFiniteError);
    expect(() => sketch.scores(bad(2 ** 61))).toThrow(NonFiniteError);
    expect(() => sketch.scores(query, -1)).toThrow(InvalidArgumentError);
    expect(() => sketch.scores(normals(1, dim + 1))).toThrow(InvalidArgumentError);
    expect(() => sketch.sample(bad(Number.NaN))).toThrow(NonFiniteError);
    expect(() => sketch.sample(query, { step: -1 })).toThrow(InvalidArgumentError);
    expect(() => sketch.sample(query, { head: 2 })).toThrow(InvalidArgumentError);
    expect(() => sketch.sample(query, { budget: { share: 2 } })).toThrow(InvalidArgumentError);
    expect(() => sketch.estimate(query, () => 1)).toThrow(UnsupportedError);
    expect(() => sketch.topK(query, 0)).toThrow(InvalidArgumentError);
    expect(() => sketch.topK(query, 2, { candidates: 4 })).toThrow(UnsupportedError);
    expect(() => sketch.topK(query, 5, { candidates: 4 })).toThrow(InvalidArgumentError);
    expect(() => sketch.truncate(11)).toThrow(InvalidArgumentError);
    expect(() => sketch.save(3 as never)).toThrow(InvalidArgumentError);
    expect(() => KeySketch.load(3 as never)).toThrow(InvalidArgumentError);
    expect(() => KeySketch.fromBuffer('x' as never)).toThrow(InvalidArgumentError);
    expect(() => KeySketch.bytesFor({ dim, keys: -1 })).toThrow(InvalidArgumentError);
    if (typescript) expect(() => sketch.selector).toThrow(UnsupportedError);
    else expect(typeof sketch.selector).toBe('object');
    expect(sketch.stats).toEqual({ draws: 0, read: 0, keys: 0, meanError: 0, largestError: 0 });
    expect(sketch.toBuffer()).toEqual(before);

    sketch[Symbol.dispose]();
    sketch[Symbol.dispose]();
    expect(() => sketch.scores(query)).toThrow(DisposedError);
    expect(() => sketch.add(query)).toThrow(DisposedError);
    expect(() => sketch.fork()).toThrow(DisposedError);
  });
});
