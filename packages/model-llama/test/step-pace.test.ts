import { describe, expect, it } from 'vitest';
import { MOST_PREFILL_TOKENS, StepPace } from '../src/step-pace.js';

describe('pace of steps', () => {
  it('fits prompt tokens into what decoding leaves of the time', () => {
    const pace = new StepPace(1e9);
    for (let i = 0; i < 20; i += 1) {
      pace.stepped(0, 4, 20); // 5 ms a decoded token
      pace.stepped(64, 4, 20 + 64 * 2); // 2 ms a prompt token
    }
    expect(pace.prefillTokens(250, 0)).toBe(112); // 125, in sixteens
    expect(pace.prefillTokens(250, 4)).toBe(112); // 115
    expect(pace.prefillTokens(250, 10)).toBe(96); // 100
    expect(pace.prefillTokens(10_000, 1)).toBe(MOST_PREFILL_TOKENS);
  });

  it('always leaves some', () => {
    const pace = new StepPace(1e9);
    pace.stepped(0, 1, 1000);
    expect(pace.prefillTokens(250, 1)).toBe(32);
    expect(pace.prefillTokens(-50, 1)).toBe(32);
    expect(pace.indexKeys(-50)).toBe(1);
  });

  it('begins carefully with large models', () => {
    expect(new StepPace(16e9).prefillTokens(1000, 0)).toBe(32);
    expect(new StepPace(0.2e9).prefillTokens(1000, 0)).toBe(240);
  });

  it('follows the machine', () => {
    const pace = new StepPace(1e9);
    for (let i = 0; i < 20; i += 1) pace.indexed(1000, 10);
    expect(pace.indexKeys(50)).toBeCloseTo(5000, -1);
    for (let i = 0; i < 20; i += 1) pace.indexed(1000, 1);
    expect(pace.indexKeys(50)).toBeCloseTo(50_000, -2);
  });
});
