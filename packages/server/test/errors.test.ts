import OpenAI from 'openai';
import { describe, expect, test } from 'vitest';
import { modelError } from './fake-model.js';
import { startServer } from './start-server.js';

const model = 'fake/model';
const messages = [{ role: 'user' as const, content: 'What is the answer?' }];

describe('what the official client sees', () => {
  test('an unknown model', async () => {
    const { client } = await startServer();
    const error = await client.chat.completions.create({ model: 'gpt-9', messages }).catch((e) => e);
    expect(error).toBeInstanceOf(OpenAI.NotFoundError);
    expect(error).toMatchObject({ code: 'model_not_found', param: 'model', type: 'invalid_request_error' });
    expect(error.message).toContain("this server has 'fake/model'");
  });

  test.each([true, false])(
    'a prompt that is too long (stream: %s) is refused before anything is sent',
    async (stream) => {
      const { client } = await startServer({ contextTokens: 3 });
      const error = await client.chat.completions.create({ model, messages, stream }).catch((e) => e);
      expect(error).toBeInstanceOf(OpenAI.BadRequestError);
      expect(error).toMatchObject({ code: 'context_length_exceeded', param: 'messages' });
    },
  );

  test('a full queue', async () => {
    const { client } = await startServer({ maxRequests: 0 });
    const error = await client.completions.create({ model, prompt: 'a' }).catch((e) => e);
    expect(error).toBeInstanceOf(OpenAI.RateLimitError);
    expect(error).toMatchObject({ code: 'engine_busy', type: 'rate_limit_error' });
    expect(error.headers.get('retry-after')).toBe('1');
  });

  test('a model that has been closed', async () => {
    const { client, model: fake } = await startServer();
    await fake.close();
    const error = await client.completions.create({ model, prompt: 'a' }).catch((e) => e);
    expect(error).toMatchObject({ status: 503, code: 'engine_unavailable', type: 'server_error' });
  });

  test('an error that nobody foresaw keeps its details in the log', async () => {
    const lines: string[] = [];
    const { client } = await startServer(
      { failAt: { index: 2, error: new Error('secret detail') } },
      { logger: { level: 'error', stream: { write: (line: string) => void lines.push(line) } } },
    );
    const error = await client.chat.completions.create({ model, messages }).catch((e) => e);
    expect(error).toBeInstanceOf(OpenAI.InternalServerError);
    expect(error.message).not.toContain('secret detail');
    expect(lines.join('')).toContain('secret detail');
  });

  test('an error in the middle of a stream comes as its last event, and there is no [DONE]', async () => {
    const failAt = { index: 2, error: modelError('GENERATION_FAILED', 'Generation failed: not a number') };
    const { client, url } = await startServer({ failAt });
    const received: string[] = [];
    const read = async () => {
      const stream = await client.chat.completions.create({ model, messages, stream: true });
      for await (const chunk of stream) received.push(chunk.choices[0]!.delta.content ?? '');
    };
    const error = await read().catch((e) => e);
    expect(error).toBeInstanceOf(OpenAI.APIError);
    expect(error).toMatchObject({ code: 'generation_failed', type: 'server_error' });
    expect(received.join('')).toBe('The answer');
    const raw = await fetch(`${url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ messages, stream: true }),
    });
    expect(await raw.text()).not.toContain('[DONE]');
  });

  test('a wrong key', async () => {
    const { url, client } = await startServer({}, { apiKey: 'right' });
    expect((await client.models.list()).data).toHaveLength(1);
    const stranger = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'wrong', maxRetries: 0 });
    const error = await stranger.chat.completions.create({ model, messages }).catch((e) => e);
    expect(error).toBeInstanceOf(OpenAI.AuthenticationError);
    expect(error.code).toBe('invalid_api_key');
    expect((await fetch(`${url}/v1/models`)).status).toBe(401);
    expect((await fetch(`${url}/%76%31/models`)).status).toBe(401);
    expect((await fetch(`${url}/health`)).status).toBe(200);
    expect((await fetch(`${url}/`)).status).toBe(200);
  });
});

describe('bodies that are refused, field by field', () => {
  test.each([
    [{ messages: [] }, 'messages', 'invalid_value'],
    [{ messages: 'hi' }, 'messages', 'invalid_type'],
    [{}, 'messages', 'missing_required_parameter'],
    [{ messages: [{ content: 'x' }] }, 'messages[0].role', 'missing_required_parameter'],
    [{ messages: [{ role: 'wizard', content: 'x' }] }, 'messages[0].role', 'invalid_value'],
    [{ messages: [{ role: 'user', content: 5 }] }, 'messages[0].content', 'invalid_value'],
    [
      { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'x' } }] }] },
      'messages[0].content',
      'invalid_value',
    ],
    [{ messages, n: 2 }, 'n', 'invalid_value'],
    [{ messages, temperature: 'hot' }, 'temperature', 'invalid_type'],
    [{ messages, temperature: '0.5' }, 'temperature', 'invalid_type'],
    [{ messages, temperature: 2.5 }, 'temperature', 'invalid_value'],
    [{ messages, top_p: 1.5 }, 'top_p', 'invalid_value'],
    [{ messages, top_k: 1.5 }, 'top_k', 'invalid_type'],
    [{ messages, min_p: -1 }, 'min_p', 'invalid_value'],
    [{ messages, repetition_penalty: 0 }, 'repetition_penalty', 'invalid_value'],
    [{ messages, presence_penalty: 3 }, 'presence_penalty', 'invalid_value'],
    [{ messages, frequency_penalty: -3 }, 'frequency_penalty', 'invalid_value'],
    [{ messages, seed: 'x' }, 'seed', 'invalid_type'],
    [{ messages, max_tokens: 0 }, 'max_tokens', 'invalid_value'],
    [{ messages, max_completion_tokens: 1.5 }, 'max_completion_tokens', 'invalid_type'],
    [{ messages, stop: [''] }, 'stop', 'invalid_value'],
    [{ messages, stop: 5 }, 'stop', 'invalid_value'],
    [{ messages, stream: 'yes' }, 'stream', 'invalid_type'],
    [{ messages, stream_options: { include_usage: true } }, 'stream_options', 'invalid_value'],
    [{ messages, top_logprobs: 5 }, 'top_logprobs', 'invalid_value'],
    [{ messages, logit_bias: { 50: 1 } }, 'logit_bias', 'invalid_value'],
    [{ messages, response_format: { type: 'json_object' } }, 'response_format.type', 'invalid_value'],
    [{ messages, tool_choice: 'required' }, 'tool_choice', 'invalid_value'],
    [{ messages, model: 5 }, 'model', 'invalid_type'],
    [[], null, 'invalid_type'],
  ])('%j', async (request, param, code) => {
    const { post, model: fake } = await startServer();
    const { status, body } = await post('/v1/chat/completions', request);
    expect(status).toBe(400);
    expect(body).toEqual({ error: { message: expect.any(String), type: 'invalid_request_error', param, code } });
    expect(fake.requests).toHaveLength(0);
  });

  test('a message names the field, the rule and the value', async () => {
    const { post } = await startServer();
    const { body } = await post('/v1/chat/completions', { messages, temperature: 2.5 });
    expect(body.error.message).toBe("Invalid value for 'temperature': must be <= 2; got 2.5.");
  });

  test('unknown fields and fields at their neutral value are accepted', async () => {
    const { post } = await startServer();
    const request = { messages, n: 1, user: 'me', metadata: { a: 1 }, logit_bias: {}, top_logprobs: 0, tools: [] };
    const { status } = await post('/v1/chat/completions', { ...request, response_format: { type: 'text' } });
    expect(status).toBe(200);
  });
});

describe('requests that never reach a schema', () => {
  const send = async (url: string, init: RequestInit) => {
    const response = await fetch(url, { method: 'POST', ...init });
    return { status: response.status, error: ((await response.json()) as { error: unknown }).error };
  };
  const json = { 'content-type': 'application/json' };

  test('bad JSON, none at all, or another type', async () => {
    const { url } = await startServer();
    const path = `${url}/v1/chat/completions`;
    const invalid = { status: 400, error: { code: 'invalid_json', type: 'invalid_request_error' } };
    expect(await send(path, { headers: json, body: '{"messages": [' })).toMatchObject(invalid);
    expect(await send(path, { headers: json, body: '' })).toMatchObject(invalid);
    expect(await send(path, { body: new URLSearchParams('a=b') })).toMatchObject({
      status: 415,
      error: { message: expect.stringContaining('Content-Type: application/json') },
    });
  });

  test('a body over the limit', async () => {
    const { url } = await startServer({}, { bodyLimit: 1000 });
    const body = JSON.stringify({ prompt: 'a'.repeat(2000) });
    expect(await send(`${url}/v1/completions`, { headers: json, body })).toMatchObject({
      status: 413,
      error: { code: 'request_too_large' },
    });
  });

  test('a URL that does not exist', async () => {
    const { url } = await startServer();
    expect(await send(`${url}/v1/embeddings`, { headers: json, body: '{}' })).toMatchObject({
      status: 404,
      error: {
        message: 'Unknown request URL: POST /v1/embeddings.',
        type: 'invalid_request_error',
        code: 'unknown_url',
      },
    });
  });
});
