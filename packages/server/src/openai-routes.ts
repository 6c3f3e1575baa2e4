import type { FastifyInstance } from 'fastify';
import { answerRequest, type JobContext } from './answer-request.js';
import { ApiError } from './api-error.js';
import { chatFormat } from './chat-format.js';
import { chatMessages } from './chat-messages.js';
import { completionFormat } from './completion-format.js';
import { completionPrompt } from './completion-prompt.js';
import { type GenerationDefaults, generateOptions } from './generate-options.js';
import {
  type ChatRequest,
  type CompletionRequest,
  chatRequestSchema,
  completionRequestSchema,
} from './request-schema.js';

/** OpenAI's default for the completions endpoint; chats may go on until the context is full. */
const DEFAULT_COMPLETION_TOKENS = 16;

/** What the routes work with. */
export interface RouteContext extends JobContext {
  defaults: GenerationDefaults;
}

/** Adds the routes of OpenAI's API, without their prefix `/v1`. */
export function addOpenAiRoutes(app: FastifyInstance, { defaults, ...context }: RouteContext): void {
  const { model } = context;
  const modelObject = {
    id: model.info.name,
    object: 'model',
    created: Math.floor(Date.now() / 1000),
    owned_by: 'magicpig',
    context_length: model.info.contextTokens,
  };
  const requireModel = (name: string | undefined): void => {
    if (name === undefined || name === modelObject.id) return;
    throw new ApiError(404, `The model '${name}' does not exist here; this server has '${modelObject.id}'.`, {
      code: 'model_not_found',
      param: 'model',
    });
  };

  app.post<{ Body: ChatRequest }>(
    '/chat/completions',
    { schema: { body: chatRequestSchema } },
    async (request, reply) => {
      const { body } = request;
      requireModel(body.model);
      const maxTokens = body.max_completion_tokens ?? body.max_tokens ?? undefined;
      return answerRequest(context, request, reply, {
        prompt: { messages: chatMessages(body), ...(body.tools?.length ? { tools: body.tools } : {}) },
        options: generateOptions(body, maxTokens, defaults),
        format: chatFormat({ logprobs: body.logprobs ?? false }),
        idPrefix: 'chatcmpl',
        stream: body.stream ?? false,
        includeUsage: body.stream_options?.include_usage ?? false,
      });
    },
  );

  app.post<{ Body: CompletionRequest }>(
    '/completions',
    { schema: { body: completionRequestSchema } },
    async (request, reply) => {
      const { body } = request;
      requireModel(body.model);
      return answerRequest(context, request, reply, {
        prompt: completionPrompt(body),
        options: generateOptions(body, body.max_tokens ?? DEFAULT_COMPLETION_TOKENS, defaults),
        format: completionFormat({ logprobs: body.logprobs === 0 }),
        idPrefix: 'cmpl',
        stream: body.stream ?? false,
        includeUsage: body.stream_options?.include_usage ?? false,
      });
    },
  );

  app.get('/models', async () => ({ object: 'list', data: [modelObject] }));
  // A wildcard, since ids may be paths or hub ids with slashes.
  app.get<{ Params: { '*': string } }>('/models/*', async (request) => {
    requireModel(request.params['*']);
    return modelObject;
  });
}
