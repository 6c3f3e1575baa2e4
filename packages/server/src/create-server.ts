import { createHash, timingSafeEqual } from 'node:crypto';
import cors from '@fastify/cors';
import type { AttentionOptions, LlamaModel } from '@magicpig/model-llama';
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyServerOptions, LogController } from 'fastify';
import { answerRequest } from './answer-request.js';
import { ApiError } from './api-error.js';
import { chatFormat } from './chat-format.js';
import { chatMessages } from './chat-messages.js';
import { completionFormat } from './completion-format.js';
import { completionPrompt } from './completion-prompt.js';
import { generateOptions, type SamplingDefaults } from './generate-options.js';
import { describeReport } from './report.js';
import {
  type ChatRequest,
  type CompletionRequest,
  chatRequestSchema,
  completionRequestSchema,
} from './request-schema.js';
import { ClientGoneError, RunningRequests } from './running-requests.js';
import { toApiError } from './to-api-error.js';
import { validationError } from './validation-error.js';
import { webPage } from './web-page.js';

export interface ServerOptions {
  /** A loaded model. The server uses it and never closes it. */
  model: LlamaModel;
  defaults?: {
    /** Attention of requests that name none, and the settings that a request's own start from. Default: the model's. */
    attention?: AttentionOptions;
    /** Sampling of requests that do not say. Default: greedy, as the model's own. */
    sampling?: SamplingDefaults;
  };
  /** When given, `/v1/*` wants `Authorization: Bearer <apiKey>`. */
  apiKey?: string;
  /** Origins whose pages may call the server: an origin, several, or `*`. Default none. */
  cors?: string | string[];
  /** Longest request body in bytes. Default 16 MiB. */
  bodyLimit?: number;
  /** Milliseconds that running generations get to finish when the server closes; then they end with an error. Default 5000. */
  graceMs?: number;
  /** Milliseconds `/health` waits for the engine before it calls it dead. Default 10,000. */
  healthTimeoutMs?: number;
  /** Fastify's logger option. Default no log. At level `info` there is one line a request. */
  logger?: FastifyServerOptions['logger'];
}

/**
 * An OpenAI-compatible HTTP server over a loaded model: `/v1/chat/completions`, `/v1/completions`, `/v1/models`,
 * `/health`, and a chat page at `/`.
 *
 * @returns a fastify instance that is not listening yet: `await server.listen({ port: 8080 })`. `server.close()` answers
 *   new requests with status 503, lets running ones finish for `graceMs`, and ends the others with an error event.
 */
export function createServer(options: ServerOptions): FastifyInstance {
  const { model, defaults = {}, apiKey, graceMs = 5000, healthTimeoutMs = 10_000 } = options;
  const generationDefaults = { sampling: defaults.sampling ?? {}, attention: defaults.attention };
  const running = new RunningRequests();
  const created = Math.floor(Date.now() / 1000);
  let closing = false;

  const app = Fastify({
    logger: options.logger ?? false,
    logController: new LogController({ disableRequestLogging: true }), // the onResponse hook below says it in one line
    bodyLimit: options.bodyLimit ?? 16 * 2 ** 20,
    forceCloseConnections: true, // once preClose has waited for the answers
    return503OnClosing: false, // the preParsing hook below answers in OpenAI's shape
    routerOptions: { ignoreTrailingSlash: true },
    schemaErrorFormatter: validationError,
    frameworkErrors: (error, _request, reply: FastifyReply) => {
      const apiError = toApiError(error); // a URL that cannot be decoded, before any route is known
      reply.status(apiError.status).send(apiError.toBody());
    },
    ajv: {
      // A wrong type is refused, not converted; `verbose` lets errors show the value.
      customOptions: { coerceTypes: false, removeAdditional: false, useDefaults: false, verbose: true },
    },
  });
  app.decorateRequest('generation', null);

  if (options.cors !== undefined) app.register(cors, { origin: options.cors });

  // After onRequest, so that CORS headers are there already; before the body is read.
  app.addHook('preParsing', async (request, reply) => {
    if (closing) {
      reply.header('connection', 'close');
      throw new ApiError(503, 'The server is shutting down.', { code: 'shutting_down' });
    }
    if (apiKey !== undefined && request.url.startsWith('/v1/')) {
      if (!isBearer(request.headers.authorization, apiKey)) {
        throw new ApiError(401, 'Wrong or missing API key: send the header Authorization: Bearer <key>.', {
          code: 'invalid_api_key',
        });
      }
    }
  });
  app.addHook('onResponse', async (request, reply) => {
    const took = `${request.method} ${request.url} ${reply.statusCode} in ${(reply.elapsedTime / 1000).toFixed(2)} s`;
    const { generation } = request;
    const { statusCode } = reply;
    if (generation === null) request.log.info({ statusCode }, took);
    else {
      const { usage, report } = generation;
      request.log.info({ statusCode, usage, magicpig: report }, `${took}: ${describeReport(report, usage)}`);
    }
  });
  app.addHook('preClose', async () => {
    closing = true;
    const reason = new ApiError(503, 'The server is shutting down.', { code: 'shutting_down' });
    await running.end(reason, { graceMs, abortMs: ABORT_MS });
  });

  app.setNotFoundHandler(async (request) => {
    throw new ApiError(404, `Unknown request URL: ${request.method} ${request.url}.`, { code: 'unknown_url' });
  });
  app.setErrorHandler(async (error, request, reply) => {
    if (error instanceof ClientGoneError) {
      request.log.info(`${request.method} ${request.url}: the client went away`);
      return reply.status(499).send();
    }
    const apiError = toApiError(error);
    if (apiError.status === 500) request.log.error(error, 'request failed');
    if (apiError.status === 429) reply.header('retry-after', '1');
    return reply.status(apiError.status).send(apiError.toBody());
  });

  const requireModel = (name: string | undefined): void => {
    if (name === undefined || name === model.info.name) return;
    throw new ApiError(404, `The model '${name}' does not exist here; this server has '${model.info.name}'.`, {
      code: 'model_not_found',
      param: 'model',
    });
  };

  app.post<{ Body: ChatRequest }>(
    '/v1/chat/completions',
    { schema: { body: chatRequestSchema } },
    async (request, reply) => {
      const { body } = request;
      requireModel(body.model);
      const maxTokens = body.max_completion_tokens ?? body.max_tokens ?? undefined;
      return answerRequest(model, running, request, reply, {
        prompt: { messages: chatMessages(body), ...(body.tools?.length ? { tools: body.tools } : {}) },
        options: generateOptions(body, maxTokens, generationDefaults),
        format: chatFormat({ logprobs: body.logprobs ?? false }),
        idPrefix: 'chatcmpl',
        stream: body.stream ?? false,
        includeUsage: body.stream_options?.include_usage ?? false,
      });
    },
  );

  app.post<{ Body: CompletionRequest }>(
    '/v1/completions',
    { schema: { body: completionRequestSchema } },
    async (request, reply) => {
      const { body } = request;
      requireModel(body.model);
      return answerRequest(model, running, request, reply, {
        prompt: completionPrompt(body),
        options: generateOptions(body, body.max_tokens ?? DEFAULT_COMPLETION_TOKENS, generationDefaults),
        format: completionFormat({ logprobs: body.logprobs === 0 }),
        idPrefix: 'cmpl',
        stream: body.stream ?? false,
        includeUsage: body.stream_options?.include_usage ?? false,
      });
    },
  );

  const modelObject = {
    id: model.info.name,
    object: 'model',
    created,
    owned_by: 'magicpig',
    context_length: model.info.contextTokens,
  };
  app.get('/v1/models', async () => ({ object: 'list', data: [modelObject] }));
  // A wildcard, since ids may be paths or hub ids with slashes.
  app.get<{ Params: { '*': string } }>('/v1/models/*', async (request) => {
    requireModel(request.params['*']);
    return modelObject;
  });

  app.get('/health', async (_request, reply) => {
    const { info } = model;
    const about = {
      model: info.name,
      backend: info.backend,
      description: info.description,
      context_tokens: info.contextTokens,
      cache_bytes: info.cacheBytes,
      attention: defaults.attention ?? null,
    };
    try {
      const stats = await withTimeout(model.stats(), healthTimeoutMs);
      return {
        status: 'ok',
        ...about,
        running: stats.running,
        waiting: stats.waiting,
        cache_bytes_used: stats.cacheBytesUsed,
      };
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      return reply.status(503).send({ status: 'error', reason: `The engine does not answer: ${reason}`, ...about });
    }
  });

  app.get('/', async (_request, reply) => {
    reply.header('content-security-policy', webPage.contentSecurityPolicy);
    return reply.type('text/html; charset=utf-8').send(webPage.html);
  });

  return app;
}

/** OpenAI's default for the completions endpoint; chats may go on until the context is full. */
const DEFAULT_COMPLETION_TOKENS = 16;

/** A model frees an aborted generation within one step; this is longer than any. */
const ABORT_MS = 10_000;

function isBearer(header: string | undefined, key: string): boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(header ?? ''), digest(`Bearer ${key}`));
}

function withTimeout<T>(promise: Promise<T>, milliseconds: number): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no answer in ${milliseconds} ms`)), milliseconds);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
