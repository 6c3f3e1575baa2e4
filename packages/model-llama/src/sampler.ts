import { logSumExp } from '@magicpig/cpu-kernels';
import type { GenerateOptions } from './api.js';
import { GenerationFailedError } from './engine-errors.js';
import { InvalidRequestError } from './errors.js';
import { expNegative, NEGLIGIBLE } from './exp-negative.js';
import { philox } from './philox.js';

/** The options of {@link GenerateOptions} that choose tokens. */
export type SamplingOptions = Pick<
  GenerateOptions,
  'temperature' | 'topP' | 'topK' | 'minP' | 'repetitionPenalty' | 'presencePenalty' | 'frequencyPenalty' | 'seed'
>;

export interface Choice {
  token: number;
  /** Natural logarithm of the probability the model gave the token, before penalties, temperature and filters. */
  logprob: number;
}

/** Candidates for top-p are sorted bucket by bucket, of this width in logits, until their mass is enough. */
const BUCKET_WIDTH = 0.25;
const BUCKETS = NEGLIGIBLE / BUCKET_WIDTH;

/**
 * Chooses the tokens of one request. In order, as in Hugging Face's `generate`:
 *
 * 1. repetition penalty over prompt and answer (positive logits divided, negative ones multiplied; CTRL, arXiv
 *    1909.05858), then presence and frequency penalties over the answer (subtracted; OpenAI's API),
 * 2. temperature; 0 takes the largest logit, the lowest id among equals,
 * 3. top-k, 4. top-p on what is left, 5. min-p on what is left,
 * 6. one draw from what is left, by a counter-based generator keyed by seed and position: a draw does not depend on the
 *    draws before it.
 */
export class Sampler {
  readonly #temperature: number;
  readonly #topP: number;
  readonly #topK: number;
  readonly #minP: number;
  readonly #repetition: number;
  readonly #presence: number;
  readonly #frequency: number;
  readonly #key: [number, number];
  /** Tokens of prompt and answer, with their number in the answer. */
  readonly #seen = new Map<number, number>();
  readonly #penalised: boolean;
  #draws = 0;

  /** @throws InvalidRequestError for a value out of range. */
  constructor(prompt: Int32Array, options: SamplingOptions = {}) {
    this.#temperature = inRange('temperature', options.temperature ?? 0, 0, 100);
    this.#topP = inRange('topP', options.topP ?? 1, 0, 1);
    this.#topK = wholeInRange('topK', options.topK ?? 0, 0, 2 ** 31 - 1);
    this.#minP = inRange('minP', options.minP ?? 0, 0, 1);
    this.#repetition = inRange('repetitionPenalty', options.repetitionPenalty ?? 1, 0.01, 100);
    this.#presence = inRange('presencePenalty', options.presencePenalty ?? 0, -100, 100);
    this.#frequency = inRange('frequencyPenalty', options.frequencyPenalty ?? 0, -100, 100);
    const seed = wholeInRange('seed', options.seed ?? 0, 0, Number.MAX_SAFE_INTEGER);
    this.#key = [seed >>> 0, Math.floor(seed / 2 ** 32)];
    this.#penalised = this.#repetition !== 1 || this.#presence !== 0 || this.#frequency !== 0;
    if (this.#penalised) for (const token of prompt) this.#seen.set(token, 0);
  }

  /**
   * The next token.
   *
   * @param logits [vocab]; penalties are applied in place.
   * @throws GenerationFailedError when a logit is not a number.
   */
  sample(logits: Float32Array): Choice {
    const model = summarize(logits);
    if (this.#penalised) {
      const before = new Map<number, number>();
      for (const [token, count] of this.#seen) {
        let logit = logits[token]!;
        before.set(token, logit);
        logit = logit > 0 ? logit / this.#repetition : logit * this.#repetition;
        if (count > 0) logit -= this.#presence + this.#frequency * count;
        logits[token] = logit;
      }
      const token = this.#temperature === 0 ? argmax(logits) : this.#draw(logits);
      this.#seen.set(token, (this.#seen.get(token) ?? 0) + 1);
      return { token, logprob: (before.get(token) ?? logits[token]!) - model.logSumExp };
    }
    const token = this.#temperature === 0 ? model.argmax : this.#draw(logits);
    return { token, logprob: logits[token]! - model.logSumExp };
  }

  #draw(logits: Float32Array): number {
    const inverse = 1 / this.#temperature;
    const largest = logits[argmax(logits)]!;
    /** Distance from the largest logit, on the scale of the temperature; not negative. */
    const distanceOf = (token: number) => (largest - logits[token]!) * inverse;

    // Mass by distance, so that only the candidates that matter need sorting.
    const mass = new Float64Array(BUCKETS);
    const count = new Uint32Array(BUCKETS);
    for (let token = 0; token < logits.length; token += 1) {
      const distance = distanceOf(token);
      if (distance >= NEGLIGIBLE) continue;
      const bucket = Math.floor(distance / BUCKET_WIDTH);
      mass[bucket]! += expNegative(-distance);
      count[bucket]! += 1;
    }
    const total = mass.reduce((sum, m) => sum + m, 0);
    const uniform = this.#uniform();

    if (this.#topK === 0 && this.#topP === 1 && this.#minP === 0) {
      let left = uniform * total;
      let last = 0;
      for (let token = 0; token < logits.length; token += 1) {
        const distance = distanceOf(token);
        if (distance >= NEGLIGIBLE) continue;
        left -= expNegative(-distance);
        if (left < 0) return token;
        last = token;
      }
      return last; // sums in another order may leave a rounding error
    }

    const lastBucket = this.#lastBucket(mass, count, total);
    let candidates: { token: number; weight: number }[] = [];
    const farthest = Math.min((lastBucket + 1) * BUCKET_WIDTH, NEGLIGIBLE);
    for (let token = 0; token < logits.length; token += 1) {
      const distance = distanceOf(token);
      if (distance < farthest) candidates.push({ token, weight: expNegative(-distance) });
    }
    candidates.sort((a, b) => b.weight - a.weight || a.token - b.token);
    if (this.#topK > 0) candidates = candidates.slice(0, this.#topK);
    if (this.#topP < 1) {
      const bar = this.#topP * (this.#topK > 0 ? sumOfWeights(candidates) : total);
      let sum = 0;
      let keep = 0;
      do sum += candidates[keep++]!.weight;
      while (keep < candidates.length && sum < bar);
      candidates.length = keep;
    }
    // The first candidate has weight 1, so min-p's bar is minP itself.
    if (this.#minP > 0) candidates = candidates.filter(({ weight }) => weight >= this.#minP);

    let left = uniform * sumOfWeights(candidates);
    for (const { token, weight } of candidates) {
      left -= weight;
      if (left < 0) return token;
    }
    return candidates.at(-1)!.token;
  }

  /** First bucket after which no token can pass top-k, top-p or min-p. */
  #lastBucket(mass: Float64Array, count: Uint32Array, total: number): number {
    let sum = 0;
    let tokens = 0;
    for (let bucket = 0; bucket < BUCKETS; bucket += 1) {
      sum += mass[bucket]!;
      tokens += count[bucket]!;
      if (this.#topK > 0 && tokens >= this.#topK) return bucket;
      // A little more than the mass asked for: sums in another order may round below it.
      if (this.#topK === 0 && this.#topP < 1 && sum >= this.#topP * total * (1 + 1e-9)) return bucket;
      if (this.#minP > 0 && Math.exp(-(bucket + 1) * BUCKET_WIDTH) < this.#minP && this.#topP === 1) return bucket;
    }
    return BUCKETS - 1;
  }

  /** Uniform in [0, 1), 53 bits. */
  #uniform(): number {
    const [high, low] = philox([this.#draws, 0, 0, 0], this.#key);
    this.#draws += 1;
    return (high * 2 ** 21 + (low >>> 11)) / 2 ** 53;
  }
}

function sumOfWeights(candidates: { weight: number }[]): number {
  return candidates.reduce((sum, { weight }) => sum + weight, 0);
}

function argmax(logits: Float32Array): number {
  let best = 0;
  for (let token = 1; token < logits.length; token += 1) if (logits[token]! > logits[best]!) best = token;
  return best;
}

/** Largest logit and log-sum-exp; refuses NaN and infinity, which would spread silently. */
function summarize(logits: Float32Array): { argmax: number; logSumExp: number } {
  const { largest: argmax, logSumExp: sum } = logSumExp(logits);
  if (Number.isFinite(sum)) return { argmax, logSumExp: sum };
  const token = logits.findIndex((logit) => !Number.isFinite(logit));
  throw new GenerationFailedError(
    `the model's output is not a finite number (logit ${logits[token]} of token ${token}); are the weights intact?`,
  );
}

function inRange(name: string, value: unknown, low: number, high: number): number {
  if (typeof value !== 'number' || !(value >= low && value <= high)) {
    throw new InvalidRequestError(`${name} must be a number in ${low}..${high}, not ${JSON.stringify(value)}`, name);
  }
  return value;
}

function wholeInRange(name: string, value: unknown, low: number, high: number): number {
  if (!Number.isInteger(value)) {
    throw new InvalidRequestError(`${name} must be an integer in ${low}..${high}, not ${JSON.stringify(value)}`, name);
  }
  return inRange(name, value, low, high);
}
