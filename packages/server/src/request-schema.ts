import { type Static, type TProperties, type TSchema, Type } from '@sinclair/typebox';

// What a request may say, once: the JSON schemas validate, the TypeScript types follow from them, and the `description`s
// are what an error tells the client ("`prompt` must be a string, ..."). Fields that are not listed are ignored, as
// OpenAI's server does; inside our own `magicpig` object they are refused.

/** A field that may be absent or null, as in OpenAI's schema. */
function optional<T extends TSchema>(schema: T) {
  return Type.Optional(Type.Unsafe<Static<T> | null>({ ...schema, type: [schema.type, 'null'] }));
}

/** A field of OpenAI's that is accepted only with the value that changes nothing. */
function only<T extends string | number | boolean>(value: T, description: string) {
  return Type.Optional(Type.Unsafe<T | null>({ enum: [value, null], description }));
}

/** Accepted when empty: the feature behind it is missing, and ignoring it would give wrong answers. */
function empty(type: 'object' | 'array', description: string) {
  const limit = type === 'object' ? { maxProperties: 0 } : { maxItems: 0 };
  return Type.Optional(Type.Unsafe<unknown>({ type: [type, 'null'], ...limit, description }));
}

const tokenId = Type.Integer({ minimum: 0, maximum: 2 ** 31 - 1 });

/** The `magicpig` object: how the request's decoded tokens attend to its context. The model knows the ranges and checks them. */
export const attentionSchema = Type.Object(
  {
    policy: Type.Optional(
      Type.Union([Type.Literal('dense'), Type.Literal('magicpig'), Type.Literal('sketch')], {
        description: '"dense", "magicpig" or "sketch"',
      }),
    ),
    K: Type.Optional(Type.Integer()),
    L: Type.Optional(Type.Integer()),
    bits: Type.Optional(Type.Integer()),
    budget: Type.Optional(
      Type.Object(
        {
          share: Type.Optional(Type.Number()),
          count: Type.Optional(Type.Integer()),
          error: Type.Optional(Type.Number()),
          min: Type.Optional(Type.Number()),
          max: Type.Optional(Type.Number()),
        },
        { additionalProperties: false },
      ),
    ),
    floor: Type.Optional(Type.Number()),
    sink: Type.Optional(Type.Integer()),
    window: Type.Optional(Type.Integer()),
    denseLayers: Type.Optional(Type.Array(Type.Integer())),
    minContext: Type.Optional(Type.Integer()),
    seed: Type.Optional(Type.Integer()),
    sampledPromptTokens: Type.Optional(Type.Integer()),
  },
  { additionalProperties: false },
);

export type AttentionRequest = Static<typeof attentionSchema>;

const commonFields = {
  model: Type.Optional(Type.String()),
  stream: optional(Type.Boolean()),
  stream_options: optional(Type.Object({ include_usage: optional(Type.Boolean()) })),
  n: only(1, '1: several choices a request are not supported, send several requests'),
  max_tokens: optional(Type.Integer({ minimum: 1 })),
  temperature: optional(Type.Number({ minimum: 0, maximum: 2 })),
  top_p: optional(Type.Number({ minimum: 0, maximum: 1 })),
  top_k: optional(Type.Integer({ minimum: 0 })),
  min_p: optional(Type.Number({ minimum: 0, maximum: 1 })),
  repetition_penalty: optional(Type.Number({ exclusiveMinimum: 0 })),
  presence_penalty: optional(Type.Number({ minimum: -2, maximum: 2 })),
  frequency_penalty: optional(Type.Number({ minimum: -2, maximum: 2 })),
  seed: optional(Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER })),
  stop: Type.Optional(
    Type.Union(
      [Type.String({ minLength: 1 }), Type.Array(Type.String({ minLength: 1 }), { maxItems: 16 }), Type.Null()],
      {
        description: 'a string or an array of at most 16 strings, none of them empty',
      },
    ),
  ),
  ignore_eos: optional(Type.Boolean()),
  logit_bias: empty('object', 'empty: logit_bias is not supported'),
  magicpig: optional(attentionSchema),
} satisfies TProperties;

const message = Type.Object({
  role: Type.Union(
    ['system', 'developer', 'user', 'assistant', 'tool', 'function'].map((role) => Type.Literal(role)),
    { description: 'one of "system", "developer", "user", "assistant", "tool", "function"' },
  ),
  content: Type.Optional(
    Type.Union(
      [Type.String(), Type.Array(Type.Object({ type: Type.Literal('text'), text: Type.String() })), Type.Null()],
      { description: 'a string or an array of {"type": "text", "text": ...} parts; the models served read text only' },
    ),
  ),
});

/** Body of `POST /v1/chat/completions`. */
export const chatRequestSchema = Type.Object({
  messages: Type.Array(message, { minItems: 1 }),
  max_completion_tokens: optional(Type.Integer({ minimum: 1 })),
  logprobs: optional(Type.Boolean()),
  top_logprobs: only(0, '0: only the chosen token has a log-probability here'),
  tools: optional(Type.Array(Type.Object({}))),
  tool_choice: Type.Optional(
    Type.Unsafe<'auto' | 'none' | null>({
      enum: ['auto', 'none', null],
      description: '"auto" or "none": a tool call cannot be forced here',
    }),
  ),
  response_format: optional(
    Type.Object({
      type: Type.Unsafe<'text'>({ enum: ['text'], description: '"text": constrained output is not supported' }),
    }),
  ),
  ...commonFields,
});

export type ChatRequest = Static<typeof chatRequestSchema>;

/** Body of `POST /v1/completions`. */
export const completionRequestSchema = Type.Object({
  prompt: Type.Union(
    [
      Type.String(),
      Type.Array(Type.String(), { minItems: 1, maxItems: 1 }),
      Type.Array(tokenId, { minItems: 1 }),
      Type.Array(Type.Array(tokenId, { minItems: 1 }), { minItems: 1, maxItems: 1 }),
    ],
    { description: 'a string, an array of token ids, or an array holding one of these; send one request a prompt' },
  ),
  logprobs: only(0, '0 (log-probability of the chosen token) or absent: alternatives are not reported here'),
  best_of: only(1, '1: several candidates a request are not supported'),
  echo: only(false, 'false: echoing the prompt is not supported'),
  suffix: only('', 'empty: filling in before a suffix is not supported'),
  ...commonFields,
});

export type CompletionRequest = Static<typeof completionRequestSchema>;

/** Fields that both kinds of request share. */
export type CommonRequest = Pick<ChatRequest, keyof typeof commonFields>;
