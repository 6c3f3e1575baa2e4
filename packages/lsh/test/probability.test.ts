import { describe, expect, it } from 'vitest';
import {
  collisionProbability,
  InvalidArgumentError,
  inclusionProbability,
  logInclusionTable,
  SimHashProjection,
} from '../src/index.js';
import { normals } from './reference.js';

describe('collisionProbability', () => {
  it('is 1 - theta / pi', () => {
    expect(collisionProbability(1)).toBe(1);
    expect(collisionProbability(-1)).toBe(0);
    expect(collisionProbability(0)).toBeCloseTo(0.5, 15);
    expect(collisionProbability(0.5)).toBeCloseTo(2 / 3, 14);
    expect(collisionProbability(1 + 1e-9)).toBe(1);
    expect(() => collisionProbability(Number.NaN)).toThrow(InvalidArgumentError);
  });
});

describe('inclusionProbability', () => {
  it.each([
    [10, 150],
    [9, 120],
    [8, 75],
    [10, 300],
    [4, 10],
    [1, 2],
  ])('is the closed form of the paper for K=%i, L=%i', (bits, tables) => {
    for (let cosine = -0.8; cosine <= 1; cosine += 0.05) {
      const q = collisionProbability(cosine) ** bits;
      const direct = 1 - (1 - q) ** tables - tables * q * (1 - q) ** (tables - 1);
      expect(Math.abs(inclusionProbability(cosine, { bits, tables }) - direct)).toBeLessThan(1e-12);
    }
  });

  it.each([1, 2, 3, 7, 40])('is the binomial tail at minCollisions %i', (minCollisions) => {
    // Pascal's triangle instead of logarithms.
    const tables = 40;
    let row = [1];
    for (let n = 0; n < tables; n++) row = [1, ...row.slice(1).map((c, i) => c + row[i]!), 1];
    for (const cosine of [-0.9, -0.3, 0, 0.4, 0.8, 0.97]) {
      const q = collisionProbability(cosine) ** 6;
      let tail = 0;
      for (let k = minCollisions; k <= tables; k++) tail += row[k]! * q ** k * (1 - q) ** (tables - k);
      const u = inclusionProbability(cosine, { bits: 6, tables, minCollisions });
      expect(Math.abs(u - tail)).toBeLessThan(1e-12 + 1e-10 * tail);
    }
  });

  // Any L tables of one projection are a draw of L tables, so 4,096 of them are many draws at once.
  it.each([1, 4, 8, 10, 12, 16])('is how often pairs at an angle collide, %i bits', (bits) => {
    const dim = 12;
    const projections = Array.from(
      { length: 16 },
      (_, i) => new SimHashProjection({ dim, bits, tables: 4096, seed: 1000 * bits + i }),
    );
    for (const cosine of [-0.6, 0, 0.3, 0.6, 0.9, 0.99]) {
      const collided = projections.flatMap((projection, i) => {
        const codes = projection.hash(pairAt(cosine, normals(i, dim), normals(i + 5000, dim)));
        return Array.from(codes.subarray(4096), (code, t) => code === codes[t]);
      });
      for (const tables of [1, 2, 16, 75, 150]) {
        for (const minCollisions of [1, 2, 5]) {
          if (minCollisions > tables) continue;
          const trials = Math.floor(collided.length / tables);
          let returned = 0;
          for (let trial = 0; trial < trials; trial++) {
            let count = 0;
            for (let t = 0; t < tables; t++) if (collided[trial * tables + t]) count++;
            if (count >= minCollisions) returned++;
          }
          const u = inclusionProbability(cosine, { bits, tables, minCollisions });
          // Where u is tiny, one return among the trials must not count as too many.
          const error = Math.sqrt((u * (1 - u)) / trials) + 1 / trials;
          expect(
            Math.abs(returned / trials - u),
            `L ${tables}, at least ${minCollisions}, cosine ${cosine}`,
          ).toBeLessThan(4.5 * error);
        }
      }
    }
  });

  it('keeps its digits where the closed form cancels', () => {
    // q = (0.0143...)^16: u is L (L - 1) / 2 q^2 to first order.
    const q = collisionProbability(-0.999) ** 16;
    const u = inclusionProbability(-0.999, { bits: 16, tables: 100 });
    expect(u / ((100 * 99 * q * q) / 2)).toBeCloseTo(1, 9);
  });

  it.each([
    [{ bits: 0, tables: 10 }],
    [{ bits: 17, tables: 10 }],
    [{ bits: 4, tables: 0 }],
    [{ bits: 4, tables: 4097 }],
    [{ bits: 4, tables: 10, minCollisions: 11 }],
    [{ bits: 4.5, tables: 10 }],
  ])('refuses %o', (options) => {
    expect(() => inclusionProbability(0, options)).toThrow(InvalidArgumentError);
  });
});

/** Two vectors of the given cosine, in the plane of two others. */
function pairAt(cosine: number, a: Float32Array, b: Float32Array): Float32Array {
  const dot = (x: Float32Array, y: Float32Array) => x.reduce((sum, value, i) => sum + value * y[i]!, 0);
  const orthogonal = b.map((value, i) => value - (dot(a, b) / dot(a, a)) * a[i]!);
  const scale = Math.sqrt(dot(a, a) / dot(orthogonal, orthogonal));
  const other = a.map((value, i) => cosine * value + Math.sqrt(1 - cosine ** 2) * scale * orthogonal[i]!);
  return Float32Array.of(...a, ...other);
}

describe('logInclusionTable', () => {
  it('interpolates -log u, floored', () => {
    const options = { bits: 10, tables: 150, minProbability: 1e-4 };
    const table = logInclusionTable(options);
    expect(table.length).toBe(4097);
    for (let cosine = -1; cosine <= 1; cosine += 0.00137) {
      const at = ((cosine + 1) / 2) * 4096;
      const i = Math.min(4095, Math.floor(at));
      const value = table[i]! + (at - i) * (table[i + 1]! - table[i]!);
      const exact = -Math.log(Math.max(1e-4, inclusionProbability(cosine, options)));
      expect(Math.abs(value - exact)).toBeLessThan(2e-3);
    }
    expect(Math.max(...table)).toBeCloseTo(-Math.log(1e-4), 5);
  });

  it('refuses a floor of zero', () => {
    expect(() => logInclusionTable({ bits: 4, tables: 10, minProbability: 0 })).toThrow(InvalidArgumentError);
  });
});
