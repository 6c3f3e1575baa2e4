import { expect, it } from 'vitest';
import { expNegative, NEGLIGIBLE } from '../src/exp-negative.js';

it('expNegative is e^x to nine digits', () => {
  for (let i = 0; i <= 100_000; i += 1) {
    const x = (-NEGLIGIBLE * i) / 100_000;
    expect(Math.abs(expNegative(x) / Math.exp(x) - 1)).toBeLessThan(3e-9);
  }
});
