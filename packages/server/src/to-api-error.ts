import { ApiError } from './api-error.js';
import { paramOfOption } from './generate-options.js';

/** Errors of the model and of fastify, by their `code`: status, code for the client. */
const KNOWN: Record<string, { status: number; code: string; type?: string }> = {
  INVALID_REQUEST: { status: 400, code: 'invalid_value' },
  CHAT_TEMPLATE: { status: 400, code: 'invalid_messages' },
  CONTEXT_TOO_LONG: { status: 400, code: 'context_length_exceeded' },
  CACHE_TOO_SMALL: { status: 400, code: 'kv_cache_too_small' },
  ENGINE_BUSY: { status: 429, code: 'engine_busy', type: 'rate_limit_error' },
  MODEL_CLOSED: { status: 503, code: 'engine_unavailable' },
  WORKER_CRASHED: { status: 503, code: 'engine_unavailable' },
  GENERATION_FAILED: { status: 500, code: 'generation_failed' },
  FST_ERR_CTP_BODY_TOO_LARGE: { status: 413, code: 'request_too_large' },
  FST_ERR_CTP_INVALID_MEDIA_TYPE: { status: 415, code: 'unsupported_media_type' },
  FST_ERR_CTP_EMPTY_JSON_BODY: { status: 400, code: 'invalid_json' },
  FST_ERR_CTP_INVALID_JSON_BODY: { status: 400, code: 'invalid_json' },
};

const MESSAGES: Record<string, string> = {
  unsupported_media_type: 'The request body must be JSON: send the header Content-Type: application/json.',
  invalid_json: 'The request body is not valid JSON.',
};

/**
 * What the client is told about an error. Errors that nobody foresaw become a 500 whose details stay in the log.
 * @param promptField `messages` or `prompt`, to name when the prompt is at fault.
 */
export function toApiError(error: unknown, promptField: string | null = null): ApiError {
  if (error instanceof ApiError) return error;
  const { code, message, statusCode, option } = error as {
    code?: unknown;
    message?: string;
    statusCode?: number;
    option?: string;
  };
  const known = typeof code === 'string' ? KNOWN[code] : undefined;
  if (known) {
    const promptAtFault = code === 'CONTEXT_TOO_LONG' || code === 'CACHE_TOO_SMALL' || code === 'CHAT_TEMPLATE';
    // The model's options for attention are the request's object `magicpig`.
    const said = option?.startsWith('attention') ? message?.replace(/^attention\b/, 'magicpig') : message;
    return new ApiError(known.status, MESSAGES[known.code] ?? said ?? 'unknown error', {
      code: known.code,
      ...(known.type === undefined ? {} : { type: known.type }),
      param: promptAtFault ? promptField : option === undefined ? null : paramOfOption(option, promptField),
      cause: error,
    });
  }
  // Client errors of fastify itself: a malformed URL, a header it refuses.
  if (statusCode !== undefined && statusCode >= 400 && statusCode < 500) {
    return new ApiError(statusCode, message ?? 'bad request', { code: 'invalid_request', cause: error });
  }
  return new ApiError(500, 'The server failed while answering; its log says why.', {
    code: 'internal_error',
    cause: error,
  });
}
