import { describe, expect, it } from 'vitest';
import { CpuBackend } from '../src/index.js';
import { expectWithin, paths, poisoned, sameBits } from './helpers.js';

const ROWS = 400;
const COLS = 512;

function draw(options: {
  seed: number;
  std?: number;
  mean?: number;
  threads?: number;
  isa?: (typeof paths)[number];
}): Float32Array {
  using backend = new CpuBackend({ isa: options.isa, threads: options.threads ?? 2 });
  using weight = backend.weight(
    [{ type: 'random', rows: ROWS, cols: COLS, seed: options.seed, std: options.std ?? 1, mean: options.mean }],
    { format: 'f32' },
  );
  const out = poisoned(backend, ROWS * COLS);
  backend.embed(
    out,
    weight,
    Int32Array.from({ length: ROWS }, (_, i) => i),
  );
  return out.host;
}

/** Philox4x32-10 of the paper in big integers, and Box-Muller in double precision. */
function reference(seed: bigint, index: bigint): number[] {
  const mask = 0xffffffffn;
  let [c0, c1, c2, c3] = [index & mask, index >> 32n, 0n, 0n];
  let [k0, k1] = [seed & mask, seed >> 32n];
  for (let round = 0; round < 10; ++round) {
    const p0 = 0xd2511f53n * c0;
    const p1 = 0xcd9e8d57n * c2;
    [c0, c1, c2, c3] = [(p1 >> 32n) ^ c1 ^ k0, p1 & mask, (p0 >> 32n) ^ c3 ^ k1, p0 & mask];
    k0 = (k0 + 0x9e3779b9n) & mask;
    k1 = (k1 + 0xbb67ae85n) & mask;
  }
  return [
    [c0, c1],
    [c2, c3],
  ].flatMap(([a, b]) => {
    const radius = Math.sqrt(-2 * Math.log((Number(a! >> 8n) + 1) / 2 ** 24));
    const eighth = (Number((b! >> 2n) & 0x7fffffn) / 2 ** 22 - 1) * (Math.PI / 4);
    const angle = eighth + [0, -Math.PI / 2, Math.PI, Math.PI / 2][Number(b! & 3n)]!;
    return [radius * Math.cos(angle), radius * Math.sin(angle)];
  });
}

describe('random weights', () => {
  it('follow the published generator', () => {
    const seed = 2 ** 40 + 12345;
    const drawn = draw({ seed });
    for (const index of [0, 1, 2, 77, 1000, (ROWS * COLS) / 4 - 1]) {
      for (const [i, value] of reference(BigInt(seed), BigInt(index)).entries()) {
        expectWithin(drawn[index * 4 + i]!, value, 3e-6);
      }
    }
  });

  it('have the bits of every other path and any number of threads', () => {
    const expected = draw({ seed: 7, isa: 'portable', threads: 1 });
    for (const isa of paths) expect(sameBits(draw({ seed: 7, isa, threads: 3 }), expected), isa).toBe(true);
  });

  it('are normal: moments and tails', () => {
    const values = draw({ seed: 42 });
    const moment = (power: number) => values.reduce((sum, x) => sum + x ** power, 0) / values.length;
    const n = values.length;
    // Five standard errors of each moment of a normal sample.
    expect(Math.abs(moment(1))).toBeLessThan(5 * Math.sqrt(1 / n));
    expectWithin(moment(2), 1, 5 * Math.sqrt(2 / n));
    expect(Math.abs(moment(3))).toBeLessThan(5 * Math.sqrt(15 / n));
    expectWithin(moment(4), 3, 5 * Math.sqrt(96 / n));
    const beyond3 = values.filter((x) => Math.abs(x) > 3).length / n;
    expectWithin(beyond3, 0.0026998, 5 * Math.sqrt(0.0027 / n));
    // Neighbours, which share a transform, are uncorrelated.
    let correlation = 0;
    for (let i = 0; i + 1 < n; i += 2) correlation += values[i]! * values[i + 1]!;
    expect(Math.abs(correlation / (n / 2))).toBeLessThan(5 * Math.sqrt(2 / n));
  });

  it('scale and shift', () => {
    const standard = draw({ seed: 9 });
    const scaled = draw({ seed: 9, std: 0.5, mean: 2 });
    for (let i = 0; i < 100; ++i) expect(scaled[i]).toBeCloseTo(standard[i]! * 0.5 + 2, 6);
  });

  it('differ between seeds', () => {
    expect(sameBits(draw({ seed: 1 }), draw({ seed: 2 }))).toBe(false);
    expect(sameBits(draw({ seed: 1 }), draw({ seed: 1 + 2 ** 32 }))).toBe(false);
  });
});
