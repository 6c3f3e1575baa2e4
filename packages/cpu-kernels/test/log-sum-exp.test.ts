import { describe, expect, it } from 'vitest';
import { InvalidArgumentError, type Isa, logSumExp } from '../src/index.js';
import { paths, randomArray } from './helpers.js';

function reference(values: Float32Array): { largest: number; logSumExp: number } {
  const top = values.reduce((a, b) => Math.max(a, b));
  const sum = values.reduce((total, value) => total + Math.exp(value - top), 0);
  return { largest: values.indexOf(top), logSumExp: top + Math.log(sum) };
}

describe.each(paths)('logSumExp, %s', (isa) => {
  it.each([1, 3, 15, 16, 17, 127, 129, 1000, 49152])('of %i values is that of double precision', (length) => {
    for (const [scale, shift] of [
      [1, 0],
      [30, -50],
      [200, 1000],
    ] as const) {
      const values = randomArray(length, length).map((value) => scale * value + shift);
      const { largest, logSumExp: got } = logSumExp(values, isa);
      const expected = reference(values);
      expect(largest).toBe(expected.largest);
      expect(Math.abs(got - expected.logSumExp)).toBeLessThan(3e-7);
    }
  });

  it('takes the first among equals', () => {
    const values = new Float32Array(100);
    values[37] = values[20] = values[99] = 2;
    expect(logSumExp(values, isa).largest).toBe(20);
  });

  it('is not a number when a value is not finite, wherever it is', () => {
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      for (const at of [0, 40, 66]) {
        const values = randomArray(67, 1);
        values[at] = value;
        expect(logSumExp(values, isa).logSumExp).toBeNaN();
      }
    }
  });
});

it('refuses what it cannot take', () => {
  expect(() => logSumExp(new Float32Array(0))).toThrow(InvalidArgumentError);
  expect(() => logSumExp([1] as unknown as Float32Array)).toThrow(InvalidArgumentError);
  expect(() => logSumExp(new Float32Array(1), 'mmx' as Isa)).toThrow(/isa must be one of/);
});
