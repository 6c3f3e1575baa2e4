import { describe, expect, it } from 'vitest';
import { MOST_PREFILL_TOKENS, pairsOf, StepPace } from '../src/step-pace.js';

/** Of SmolLM2-135M. */
const OPERATIONS = { token: 2e8, pair: 7e4 };

/** Milliseconds of a step on a machine with these costs. */
function stepMs(begin: number, end: number, decoded: number, { token = 0.65, pair = 2.7e-4, decode = 9 } = {}): number {
  return (end - begin) * token + pairsOf(begin, end) * pair + decoded * decode;
}

function work(begin: number, end: number, decoded: number) {
  return { promptTokens: end - begin, pairs: pairsOf(begin, end), decoded };
}

/** Reads a prompt of so many tokens beside `decoding` others, steps of `limit` ms. @returns The steps' times. */
function read(pace: StepPace, tokens: number, decoding: number, limit: number, costs = {}): number[] {
  const times: number[] = [];
  for (let at = 0; at < tokens; ) {
    const end = Math.min(at + pace.prefill(limit, decoding).tokens(at), tokens);
    times.push(stepMs(at, end, decoding, costs));
    pace.took(work(at, end, decoding), times.at(-1)!);
    at = end;
  }
  return times;
}

describe('pace of steps', () => {
  it('keeps to the time while the context grows, and comes near it', () => {
    const pace = new StepPace(OPERATIONS);
    for (const tokens of [8000, 2000, 8000]) {
      const times = read(pace, tokens, 2, 250);
      expect(Math.max(...times)).toBeLessThanOrEqual(250);
      const usual = times.sort((a, b) => a - b)[times.length >> 1]!;
      expect(usual).toBeGreaterThan(175);
    }
  });

  it('tells a token from its attention: a prompt that goes on far behind takes smaller steps from the first', () => {
    const pace = new StepPace(OPERATIONS);
    read(pace, 8000, 1, 250);
    const begin = 60_000; // from a kept beginning
    const chunk = pace.prefill(250, 1).tokens(begin);
    expect(stepMs(begin, begin + chunk, 1)).toBeLessThan(250);
    const near = pace.prefill(250, 1).tokens(0);
    expect(near).toBeGreaterThan(8 * chunk);
    expect(stepMs(0, near, 1)).toBeLessThan(250);
  });

  it('leaves room for the worst that the machine added lately, and takes it back slowly', () => {
    const pace = new StepPace(OPERATIONS);
    const calm = (steps: number) => {
      for (let i = 0; i < steps; i += 1) pace.took(work(0, 128, 1), stepMs(0, 128, 1));
    };
    calm(80);
    const usual = pace.prefill(250, 1).tokens(0);
    pace.took(work(0, 128, 1), 2 * stepMs(0, 128, 1));
    calm(4); // costs are what they were again
    expect(pace.prefill(250, 1).tokens(0)).toBeLessThan(0.8 * usual);
    calm(80);
    expect(pace.prefill(250, 1).tokens(0)).toBe(usual);
  });

  it('shares what is left among prompts', () => {
    const pace = new StepPace(OPERATIONS);
    read(pace, 4000, 1, 250);
    const budget = pace.prefill(250, 1);
    const first = budget.tokens(1000);
    budget.take(1000, 1000 + first / 2);
    const second = budget.tokens(0);
    expect(second).toBeGreaterThan(first / 2);
    budget.take(0, second);
    expect(budget.tokens(0)).toBeLessThanOrEqual(16); // a rest too small for a product's rows
    const all = pace.prefill(1e6, 0);
    all.take(0, 200);
    expect(all.tokens(0)).toBe(MOST_PREFILL_TOKENS - 200);
  });

  it('always leaves some, and no more than a share of what decoding takes', () => {
    const pace = new StepPace(OPERATIONS);
    for (let i = 0; i < 20; i += 1) pace.took({ decoded: 1 }, 400);
    read(pace, 4000, 1, 250, { decode: 400 });
    const chunk = pace.prefill(250, 1).tokens(0);
    expect(chunk).toBeGreaterThanOrEqual(2);
    expect(stepMs(0, chunk, 0)).toBeLessThan(400 / 6);
    expect(pace.prefill(-50, 0).tokens(0)).toBe(2);
    expect(pace.indexKeys(-50)).toBe(1);
  });

  it('begins carefully with large models', () => {
    expect(new StepPace({ token: 16e9, pair: 5e5 }).prefill(1000, 0).tokens(0)).toBe(2);
    expect(new StepPace(OPERATIONS).prefill(1000, 0).tokens(0)).toBe(176);
  });

  it('follows the machine, but for accidents', () => {
    const pace = new StepPace(OPERATIONS);
    for (let i = 0; i < 80; i += 1) pace.took({ indexKeys: 1000 }, 10);
    expect(pace.indexKeys(60)).toBeCloseTo(5000, -1);
    pace.took({ indexKeys: 1000 }, 1e6); // the machine slept
    expect(pace.indexKeys(60)).toBeGreaterThan(400);
    for (let i = 0; i < 120; i += 1) pace.took({ indexKeys: 1000 }, 1);
    expect(pace.indexKeys(60)).toBeCloseTo(50_000, -3);
  });
});
