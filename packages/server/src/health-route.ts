import type { AttentionOptions, LlamaModel } from '@magicpig/model-llama';
import type { FastifyInstance } from 'fastify';

export interface HealthOptions {
  /** The server's default, shown to clients. */
  attention: AttentionOptions | undefined;
  /** Milliseconds that the engine's step may take. */
  timeoutMs: number;
}

/** Adds `GET /health`: what is served and what runs; 503 with the reason when the engine has ended or hangs. Answers at once,
 * whatever the engine is at. */
export function addHealthRoute(app: FastifyInstance, model: LlamaModel, options: HealthOptions): void {
  const { info } = model;
  const about = {
    model: info.name,
    backend: info.backend,
    description: info.description,
    context_tokens: info.contextTokens,
    cache_bytes: info.cacheBytes,
    attention: options.attention ?? null,
  };
  app.get('/health', async (_request, reply) => {
    try {
      const { running, waiting, cacheBytesUsed, prefixBytes, stepMs, failure } = model.status();
      if (failure !== undefined) return reply.status(503).send({ status: 'error', reason: failure, ...about });
      if (stepMs > options.timeoutMs) throw new Error(`it is at one step for ${Math.round(stepMs / 1000)} s`);
      return {
        status: 'ok',
        ...about,
        running,
        waiting,
        cache_bytes_used: cacheBytesUsed,
        prefix_cache_bytes: prefixBytes,
      };
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      return reply.status(503).send({ status: 'error', reason: `The engine does not answer: ${reason}`, ...about });
    }
  });
}
