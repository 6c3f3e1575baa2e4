import { describe, expect, it } from 'vitest';
import { GenerationFailedError } from '../src/engine-errors.js';
import { InvalidRequestError } from '../src/errors.js';
import { Sampler, type SamplingOptions } from '../src/sampler.js';
import { hashedIntegers, hashedValues } from './hashed-values.js';

const VOCAB = 200;
const NO_PROMPT = new Int32Array(0);
const logits = (name: string, spread = 6) => hashedValues(name, VOCAB, spread);

/** Probabilities after penalties, temperature and filters, written as Hugging Face's processors are: on sorted arrays. */
function referenceDistribution(
  input: Float32Array,
  options: SamplingOptions,
  prompt: number[],
  answer: number[],
): number[] {
  const { temperature = 1, topK = 0, topP = 1, minP = 0 } = options;
  const { repetitionPenalty = 1, presencePenalty = 0, frequencyPenalty = 0 } = options;
  let scores = [...input];
  for (const token of new Set([...prompt, ...answer])) {
    scores[token] = scores[token]! > 0 ? scores[token]! / repetitionPenalty : scores[token]! * repetitionPenalty;
    const count = answer.filter((t) => t === token).length;
    scores[token]! -= (count > 0 ? presencePenalty : 0) + frequencyPenalty * count;
  }
  scores = scores.map((score) => score / temperature);
  const softmax = () => {
    const largest = Math.max(...scores);
    const weights = scores.map((score) => Math.exp(score - largest));
    const total = weights.reduce((a, b) => a + b, 0);
    return weights.map((weight) => weight / total);
  };
  const order = () => scores.map((_, i) => i).sort((a, b) => scores[b]! - scores[a]! || a - b);
  if (topK > 0) for (const token of order().slice(topK)) scores[token] = -Infinity;
  if (topP < 1) {
    const p = softmax();
    let before = 0;
    for (const [rank, token] of order().entries()) {
      if (rank > 0 && before >= topP) scores[token] = -Infinity;
      before += p[token]!;
    }
  }
  if (minP > 0) {
    const p = softmax();
    const bar = Math.max(...p) * minP;
    for (const [token, probability] of p.entries()) if (probability < bar) scores[token] = -Infinity;
  }
  return softmax();
}

describe('greedy', () => {
  it('takes the largest logit, the lowest id among equals', () => {
    expect(new Sampler(NO_PROMPT).sample(Float32Array.of(1, 3, 3, 2)).token).toBe(1);
  });

  it('reports the natural logarithm of the model’s own probability', () => {
    const input = logits('greedy');
    const expected = Math.log(Math.max(...referenceDistribution(input, {}, [], [])));
    expect(new Sampler(NO_PROMPT).sample(input).logprob).toBeCloseTo(expected, 6);
  });

  it('reports it without the penalties', () => {
    const input = logits('penalised');
    const p = referenceDistribution(input, {}, [], []);
    const { token, logprob } = new Sampler(Int32Array.of(3, 5), { repetitionPenalty: 1.5 }).sample(input);
    expect(logprob).toBeCloseTo(Math.log(p[token]!), 6);
  });
});

describe('filters and penalties', () => {
  const cases: SamplingOptions[] = [
    { temperature: 1 },
    { temperature: 0.4 },
    { temperature: 2.5 },
    { temperature: 1, topK: 5 },
    { temperature: 1, topK: 1 },
    { temperature: 1, topK: 10_000 },
    { temperature: 0.8, topP: 0.5 },
    { temperature: 1.3, topP: 0.95 },
    { temperature: 1, topP: 0 },
    { temperature: 1, minP: 0.05 },
    { temperature: 1.5, minP: 0.3 },
    { temperature: 1, topK: 20, topP: 0.7, minP: 0.1 },
    { temperature: 0.9, topP: 0.9, minP: 0.02 },
    { temperature: 1, repetitionPenalty: 1.3 },
    { temperature: 1, presencePenalty: 1.5, frequencyPenalty: 0.5, topK: 30 },
    { temperature: 0.7, repetitionPenalty: 1.1, presencePenalty: -0.5, frequencyPenalty: 0.2, topP: 0.8 },
  ];
  const prompt = [3, 17, 17, 40];

  // Draws of one position over many seeds: a chi-squared statistic against the reference distribution.
  it.each(cases)('draw from the reference distribution: %j', (options) => {
    const input = logits('filters');
    const DRAWS = 4000;
    const expected = referenceDistribution(input, options, prompt, []);
    const counts = new Array<number>(VOCAB).fill(0);
    for (let seed = 0; seed < DRAWS; seed += 1) {
      counts[new Sampler(Int32Array.from(prompt), { ...options, seed }).sample(input.slice()).token]! += 1;
    }
    let statistic = 0;
    let freedom = -1;
    let rareExpected = 0;
    let rareCount = 0;
    for (const [token, p] of expected.entries()) {
      if (p === 0) expect(counts[token]).toBe(0);
      if (p * DRAWS >= 5) {
        statistic += (counts[token]! - p * DRAWS) ** 2 / (p * DRAWS);
        freedom += 1;
      } else {
        rareExpected += p * DRAWS;
        rareCount += counts[token]!;
      }
    }
    if (rareExpected >= 5) {
      statistic += (rareCount - rareExpected) ** 2 / rareExpected;
      freedom += 1;
    }
    // Mean + 5 standard deviations of the chi-squared distribution.
    expect(statistic).toBeLessThanOrEqual(freedom + 5 * Math.sqrt(2 * freedom) + 1e-9);
  });

  it('penalise what the answer repeats', () => {
    const options = { repetitionPenalty: 1.2, presencePenalty: 0.8, frequencyPenalty: 0.6 };
    const sampler = new Sampler(Int32Array.from(prompt), options);
    const answer: number[] = [];
    for (let step = 0; step < 40; step += 1) {
      const input = logits('answer', 2);
      const p = referenceDistribution(input, options, prompt, answer);
      const { token } = sampler.sample(input);
      expect(p[token]).toBeCloseTo(Math.max(...p), 9);
      answer.push(token);
    }
    expect(new Set(answer).size).toBeGreaterThan(10);
  });
});

describe('seeds', () => {
  const draw = (seed: number, steps: number) => {
    const sampler = new Sampler(NO_PROMPT, { temperature: 1, seed });
    return Array.from({ length: steps }, (_, i) => sampler.sample(logits(`step ${i}`)).token);
  };

  it('decide the draws', () => {
    expect(draw(7, 50)).toEqual(draw(7, 50));
    expect(draw(7, 50)).not.toEqual(draw(8, 50));
    expect(draw(2 ** 40, 50)).not.toEqual(draw(0, 50));
  });
});

describe('bad input', () => {
  it.each([Number.NaN, Number.POSITIVE_INFINITY])('refuses a logit of %d', (bad) => {
    for (const temperature of [0, 1]) {
      const input = logits('bad');
      input[hashedIntegers('bad', 1, VOCAB)[0]!] = bad;
      expect(() => new Sampler(NO_PROMPT, { temperature }).sample(input)).toThrow(GenerationFailedError);
    }
  });

  it.each([
    { temperature: -1 },
    { temperature: Number.NaN },
    { topP: 1.1 },
    { topK: 2.5 },
    { topK: -1 },
    { minP: 2 },
    { repetitionPenalty: 0 },
    { presencePenalty: Number.POSITIVE_INFINITY },
    { frequencyPenalty: '1' as unknown as number },
    { seed: 0.5 },
    { seed: -1 },
  ])('refuses %j, naming the option', (options) => {
    const name = Object.keys(options)[0]!;
    expect(() => new Sampler(NO_PROMPT, options)).toThrow(InvalidRequestError);
    expect(() => new Sampler(NO_PROMPT, options)).toThrow(new RegExp(`^${name} must be`));
  });
});
