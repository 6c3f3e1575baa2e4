import { describe, expect, it } from 'vitest';
import { collisionProbability, InvalidArgumentError, inclusionProbability, logInclusionTable } from '../src/index.js';

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
