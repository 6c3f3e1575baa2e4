import { createHash, timingSafeEqual } from 'node:crypto';
import cors from '@fastify/cors';
import type { AttentionOptions, LlamaModel } from '@magicpig/model-llama';
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyServerOptions, LogController } from 'fastify';
import { ApiError } from './api-error.js';
import type { SamplingDefaults } from './generate-options.js';
import { addHealthRoute } from './health-route.js';
import { Metrics } from './metrics.js';
import { addOpenAiRoutes } from './openai-routes.js';
import { describeReport } from './report.js';
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
  /** Milliseconds that the engine may be at one step before `/health` calls it dead. Default 60,000. */
  healthTimeoutMs?: number;
  /** Fastify's logger option. Default no log. At level `info` there is one line for each request that generates or fails. */
  logger?: FastifyServerOptions['logger'];
}

/**
 * An OpenAI-compatible HTTP server over a loaded model: `/v1/chat/completions`, `/v1/completions`, `/v1/models`,
 * `/health`, `/metrics` for Prometheus, and a chat page at `/`.
 *
 * @returns a fastify instance that is not listening yet: `await server.listen({ port: 8080 })`. `server.close()` answers
 *   new requests with status 503, lets running ones finish for `graceMs`, and ends the others with an error event.
 */
export function createServer(options: ServerOptions): FastifyInstance {
  const { model, defaults = {}, apiKey, graceMs = 5000, healthTimeoutMs = 60_000 } = options;
  const running = new RunningRequests();
  const metrics = new Metrics(model);
  const app = Fastify({
    logger: options.logger ?? false,
    logController: new LogController({ disableRequestLogging: true }), // logRequests says it in one line
    bodyLimit: options.bodyLimit ?? 16 * 2 ** 20,
    forceCloseConnections: true, // once preClose has waited for the answers
    return503OnClosing: false, // refuseWhenClosing answers in OpenAI's shape
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

  if (options.cors !== undefined) app.register(cors, { origin: options.cors });
  refuseWhenClosing(app);
  logRequests(app);
  app.addHook('preClose', () => running.end(shuttingDown(), { graceMs, abortMs: ABORT_MS }));
  app.setNotFoundHandler(async (request) => {
    throw new ApiError(404, `Unknown request URL: ${request.method} ${request.url}.`, { code: 'unknown_url' });
  });
  app.setErrorHandler(async (error, request, reply) => {
    if (error instanceof ClientGoneError) return reply.status(499).send(); // nobody reads it
    const apiError = toApiError(error);
    if (apiError.status === 500) request.log.error(error, 'request failed');
    if (apiError.status === 429) reply.header('retry-after', '1');
    return reply.status(apiError.status).send(apiError.toBody());
  });

  app.register(
    async (v1) => {
      if (apiKey !== undefined) requireApiKey(v1, apiKey);
      addOpenAiRoutes(v1, {
        model,
        running,
        metrics,
        defaults: { sampling: defaults.sampling ?? {}, attention: defaults.attention },
      });
    },
    { prefix: '/v1' },
  );
  addHealthRoute(app, model, { attention: defaults.attention, timeoutMs: healthTimeoutMs });
  app.get('/metrics', async (_request, reply) => reply.type(metrics.contentType).send(await metrics.text()));
  app.get('/', async (_request, reply) => {
    reply.header('content-security-policy', webPage.contentSecurityPolicy);
    return reply.type('text/html; charset=utf-8').send(webPage.html);
  });
  return app;
}

/** A model frees an aborted generation within one step; this is longer than any. */
const ABORT_MS = 10_000;

function shuttingDown(): ApiError {
  return new ApiError(503, 'The server is shutting down.', { code: 'shutting_down' });
}

/** From the moment that the server is told to close, everything new is refused, health checks included. */
function refuseWhenClosing(app: FastifyInstance): void {
  let closing = false;
  app.addHook('preClose', async () => {
    closing = true;
  });
  app.addHook('preParsing', async () => {
    if (closing) throw shuttingDown();
  });
}

/** Checked before the body is read, but after onRequest, so that CORS headers let a page read the refusal. */
function requireApiKey(app: FastifyInstance, key: string): void {
  const digest = (text: string) => createHash('sha256').update(text).digest();
  const expected = digest(`Bearer ${key}`);
  app.addHook('preParsing', async ({ headers }) => {
    if (timingSafeEqual(digest(headers.authorization ?? ''), expected)) return;
    throw new ApiError(401, 'Wrong or missing API key: send the header Authorization: Bearer <key>.', {
      code: 'invalid_api_key',
    });
  });
}

/** One line a request that generates or fails, with tokens and speeds; health checks and the like only at level debug. */
function logRequests(app: FastifyInstance): void {
  app.decorateRequest('generation', null);
  app.addHook('onResponse', async ({ method, url, log, generation }, { statusCode, elapsedTime }) => {
    const took = `${method} ${url} ${statusCode} in ${(elapsedTime / 1000).toFixed(2)} s`;
    if (generation === null) {
      log[statusCode < 400 ? 'debug' : 'info']({ statusCode }, took);
    } else {
      const { usage, report } = generation;
      log.info({ statusCode, usage, magicpig: report }, `${took}: ${describeReport(report, usage)}`);
    }
  });
}
