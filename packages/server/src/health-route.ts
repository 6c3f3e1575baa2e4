import type { AttentionOptions, LlamaModel } from '@magicpig/model-llama';
import type { FastifyInstance } from 'fastify';

export interface HealthOptions {
  /** The server's default, shown to clients. */
  attention: AttentionOptions | undefined;
  /** Milliseconds that the engine has to answer. */
  timeoutMs: number;
}

/** Adds `GET /health`: what is served and what runs; 503 with the reason when the engine does not answer. */
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
      const { running, waiting, cacheBytesUsed } = await withTimeout(model.stats(), options.timeoutMs);
      return { status: 'ok', ...about, running, waiting, cache_bytes_used: cacheBytesUsed };
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      return reply.status(503).send({ status: 'error', reason: `The engine does not answer: ${reason}`, ...about });
    }
  });
}

function withTimeout<T>(promise: Promise<T>, milliseconds: number): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no answer in ${milliseconds} ms`)), milliseconds);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
