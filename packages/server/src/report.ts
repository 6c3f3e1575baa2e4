import type { GenerationEvent, TimeSplit } from '@magicpig/model-llama';

type EndEvent = Extract<GenerationEvent, { type: 'end' }>;

/** What a request's attention did and how fast it went: the `magicpig` object of every response. */
export interface Report {
  policy: string;
  /** Decode steps, and how many of them sampled: 0 while the context is shorter than `minContext`. */
  decodeSteps: number;
  sampledSteps: number;
  /** Tokens attended exactly in the layers that sample, mean over the sampled steps. */
  exactTokens: number;
  /** Share of the keys open to sampling that were drawn, mean over sampled steps, layers and query heads. */
  sampledShare: number;
  /** Share of all keys read in decode, dense layers and exact tokens included. */
  keysReadShare: number;
  /** With `sketch`: estimated relative standard error of the softmax's denominator over the sampled keys, mean as above. */
  samplingError?: number;
  /** Milliseconds waited for a place, spent on the prompt, spent on the answer. */
  queueMs: number;
  prefillMs: number;
  decodeMs: number;
  prefillTokensPerSecond: number;
  decodeTokensPerSecond: number;
  /** Where the time of the answer's steps went, other requests in the same steps included. */
  split: TimeSplit;
}

/** OpenAI's token counts. */
export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  /** Tokens of the prompt that were known from earlier requests. */
  prompt_tokens_details: { cached_tokens: number };
}

/** The `magicpig` object of a finished generation. */
export function reportOf(end: EndEvent): Report {
  return { ...end.attention, ...end.timing };
}

/** The `usage` object of a finished generation. */
export function usageOf({ usage }: EndEvent): Usage {
  return {
    prompt_tokens: usage.promptTokens,
    completion_tokens: usage.completionTokens,
    total_tokens: usage.promptTokens + usage.completionTokens,
    prompt_tokens_details: { cached_tokens: usage.cachedTokens },
  };
}

/** One line for people: tokens, speeds, and what the attention read. */
export function describeReport(report: Report, usage: Usage): string {
  const cached = usage.prompt_tokens_details.cached_tokens;
  const speeds =
    `${usage.prompt_tokens} prompt tokens ${cached > 0 ? `(${cached} cached) ` : ''}` +
    `at ${speed(report.prefillTokensPerSecond)}, ` +
    `${usage.completion_tokens} answered at ${speed(report.decodeTokensPerSecond)}`;
  if (report.policy === 'dense') return `${speeds}, dense`;
  const { policy, sampledSteps, keysReadShare, sampledShare, exactTokens, samplingError } = report;
  if (sampledSteps === 0) return `${speeds}, ${policy} (context too short to sample)`;
  const error = samplingError === undefined ? '' : `, estimated error ${percent(samplingError)}`;
  return (
    `${speeds}, ${policy} read ${percent(keysReadShare)} of the keys ` +
    `(${percent(sampledShare)} of the sampled part, ${Math.round(exactTokens)} tokens exactly${error})`
  );
}

function speed(tokensPerSecond: number): string {
  return `${tokensPerSecond >= 100 ? Math.round(tokensPerSecond) : tokensPerSecond.toFixed(1)} tok/s`;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)}%`;
}
