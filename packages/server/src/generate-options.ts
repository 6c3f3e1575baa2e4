import type { AttentionOptions, GenerateOptions } from '@magicpig/model-llama';
import { ApiError } from './api-error.js';
import type { AttentionRequest, CommonRequest } from './request-schema.js';

/** Sampling of requests that do not say. */
export type SamplingDefaults = Pick<GenerateOptions, 'temperature' | 'topP' | 'topK' | 'minP' | 'repetitionPenalty'>;

/** What a server fills in where requests do not say. */
export interface GenerationDefaults {
  sampling: SamplingDefaults;
  attention: AttentionOptions | undefined;
}

/** Names of request fields by the names of the model's options. */
const FIELDS: Record<string, string> = {
  maxTokens: 'max_tokens',
  temperature: 'temperature',
  topP: 'top_p',
  topK: 'top_k',
  minP: 'min_p',
  repetitionPenalty: 'repetition_penalty',
  presencePenalty: 'presence_penalty',
  frequencyPenalty: 'frequency_penalty',
  seed: 'seed',
  stop: 'stop',
};

/** The request field behind an option of the model, for error messages. */
export function paramOfOption(option: string, promptField: string | null): string {
  if (option === 'prompt' || option === 'messages') return promptField ?? option;
  return FIELDS[option] ?? option.replace(/^attention\b/, 'magicpig');
}

/** The model's options for a request's fields. Absent and null fields take the server's defaults, then the model's. */
export function generateOptions(
  body: CommonRequest,
  maxTokens: number | undefined,
  defaults: GenerationDefaults,
): GenerateOptions {
  if (body.stream_options && !body.stream) {
    throw new ApiError(400, "'stream_options' is only allowed when 'stream' is true.", {
      code: 'invalid_value',
      param: 'stream_options',
    });
  }
  const { sampling } = defaults;
  return withoutUndefined<GenerateOptions>({
    maxTokens,
    temperature: body.temperature ?? sampling.temperature,
    topP: body.top_p ?? sampling.topP,
    topK: body.top_k ?? sampling.topK,
    minP: body.min_p ?? sampling.minP,
    repetitionPenalty: body.repetition_penalty ?? sampling.repetitionPenalty,
    presencePenalty: body.presence_penalty ?? undefined,
    frequencyPenalty: body.frequency_penalty ?? undefined,
    seed: body.seed ?? undefined,
    stop: body.stop == null ? undefined : [body.stop].flat(),
    ignoreEos: body.ignore_eos ?? undefined,
    attention: mergeAttention(body.magicpig ?? undefined, defaults.attention),
  });
}

/**
 * A request's `magicpig` object over the server's default. Settings without a policy mean the server's, or `magicpig` when
 * that has no settings, and start from the server's settings when they are of the same policy.
 */
export function mergeAttention(
  request: AttentionRequest | undefined,
  fallback: AttentionOptions | undefined,
): AttentionOptions | undefined {
  if (request === undefined || Object.keys(request).length === 0) return fallback;
  const { policy = fallback?.policy === 'sketch' ? 'sketch' : 'magicpig', ...settings } = request;
  if (policy !== 'dense') {
    return { ...(fallback?.policy === policy ? fallback : {}), ...settings, policy } as AttentionOptions;
  }
  const [extra] = Object.keys(settings);
  if (extra !== undefined) {
    throw new ApiError(400, `'magicpig.${extra}' is a setting of other policies; the policy "dense" has none.`, {
      code: 'invalid_value',
      param: `magicpig.${extra}`,
    });
  }
  return { policy };
}

function withoutUndefined<T extends object>(options: { [Key in keyof T]: T[Key] | undefined }): T {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as T;
}
