import { expect, test } from 'vitest';
import { collect, startServer } from './start-server.js';

const TEXT = 'The answer is forty-two.';
const messages = [{ role: 'user' as const, content: 'What is the answer?' }];
const model = 'fake/model';

const REPORT = {
  policy: 'magicpig',
  decodeSteps: 7,
  sampledSteps: 7,
  exactTokens: 68,
  sampledShare: 0.02,
  keysReadShare: 0.11,
  queueMs: 1,
  prefillMs: 20,
  decodeMs: 30,
  prefillTokensPerSecond: 900,
  decodeTokensPerSecond: 41.25,
};
const USAGE = {
  prompt_tokens: 4,
  completion_tokens: 7,
  total_tokens: 11,
  prompt_tokens_details: { cached_tokens: 2 },
};

test('answers whole, with usage and what the attention did', async () => {
  const { client } = await startServer();
  const response = await client.chat.completions.create({ model, messages });
  expect(response).toMatchObject({
    object: 'chat.completion',
    model,
    choices: [
      { index: 0, message: { role: 'assistant', content: TEXT, refusal: null }, finish_reason: 'stop', logprobs: null },
    ],
    usage: USAGE,
    magicpig: REPORT,
  });
  expect(response.id).toMatch(/^chatcmpl-[0-9a-f]{32}$/);
  expect(Math.abs(response.created - Date.now() / 1000)).toBeLessThan(5);
});

test('streams: a role, pieces, a reason; the report is on the last chunk', async () => {
  const { client } = await startServer();
  const chunks = await collect(await client.chat.completions.create({ model, messages, stream: true }));
  expect(chunks[0]!.choices[0]!.delta).toEqual({ role: 'assistant', content: '' });
  expect(chunks.map((chunk) => chunk.choices[0]!.delta.content ?? '').join('')).toBe(TEXT);
  expect(chunks.map((chunk) => chunk.choices[0]!.finish_reason)).toEqual([...Array(8).fill(null), 'stop']);
  expect(new Set(chunks.map(({ id }) => id)).size).toBe(1);
  expect(chunks.at(-1)).toMatchObject({ object: 'chat.completion.chunk', magicpig: REPORT });
  expect(chunks.slice(0, -1).some((chunk) => 'magicpig' in chunk || 'usage' in chunk)).toBe(false);
});

test('stream_options.include_usage adds a last chunk without choices', async () => {
  const { client } = await startServer();
  const chunks = await collect(
    await client.chat.completions.create({ model, messages, stream: true, stream_options: { include_usage: true } }),
  );
  expect(chunks.at(-1)).toMatchObject({ choices: [], usage: USAGE, magicpig: REPORT });
  expect(chunks.slice(0, -1).every((chunk) => chunk.usage === null && !('magicpig' in chunk))).toBe(true);
  expect(chunks.at(-2)!.choices[0]!.finish_reason).toBe('stop');
});

test("the client's own stream helper puts the pieces together", async () => {
  const { client } = await startServer();
  const stream = client.chat.completions.stream({ model, messages });
  expect(await stream.finalContent()).toBe(TEXT);
});

test('the raw stream tells how far the prompt is, and ends with [DONE]', async () => {
  const { url } = await startServer();
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ messages, stream: true }),
  });
  expect(response.headers.get('content-type')).toBe('text/event-stream; charset=utf-8');
  expect(response.headers.get('cache-control')).toBe('no-cache');
  const text = await response.text();
  expect(text.startsWith(': prefill 2/4\n\n: prefill 4/4\n\ndata: {')).toBe(true);
  expect(text.endsWith('\n\ndata: [DONE]\n\n')).toBe(true);
});

test('sampling fields reach the model under its names', async () => {
  const { client, model: fake } = await startServer();
  await client.chat.completions.create({
    model,
    messages,
    temperature: 0.7,
    top_p: 0.9,
    presence_penalty: 0.5,
    frequency_penalty: -0.5,
    seed: 7,
    stop: ['END', 'STOP'],
    max_completion_tokens: 3,
    ...{ top_k: 40, min_p: 0.05, repetition_penalty: 1.1, ignore_eos: true },
  });
  const { signal, ...options } = fake.requests[0]!.options;
  expect(options).toEqual({
    temperature: 0.7,
    topP: 0.9,
    topK: 40,
    minP: 0.05,
    repetitionPenalty: 1.1,
    presencePenalty: 0.5,
    frequencyPenalty: -0.5,
    seed: 7,
    stop: ['END', 'STOP'],
    maxTokens: 3,
    ignoreEos: true,
  });
  expect(signal).toBeInstanceOf(AbortSignal);
});

test('absent and null fields leave the choice to the server, then to the model', async () => {
  const { post, model: fake } = await startServer({}, { defaults: { sampling: { temperature: 0.6, topK: 50 } } });
  await post('/v1/chat/completions', { messages, temperature: null, stop: null, max_tokens: null, top_k: 10 });
  const { signal: _, ...options } = fake.requests[0]!.options;
  expect(options).toEqual({ temperature: 0.6, topK: 10 });
});

test('max_tokens cuts the answer and says so', async () => {
  const { client } = await startServer();
  const response = await client.chat.completions.create({ model, messages, max_tokens: 2 });
  expect(response.choices[0]).toMatchObject({ message: { content: 'The answer' }, finish_reason: 'length' });
  expect(response.usage!.completion_tokens).toBe(2);
});

test('stop takes one string too', async () => {
  const { client } = await startServer();
  const response = await client.chat.completions.create({ model, messages, stop: 'forty' });
  expect(response.choices[0]).toMatchObject({ message: { content: 'The answer is' }, finish_reason: 'stop' });
});

test('log-probabilities of the chosen tokens, whole and streamed', async () => {
  const { client } = await startServer({ answer: ['Gr', '', '\u00fc\u00dfe'] });
  const request = { model, messages, logprobs: true };
  const expected = [
    { token: 'Gr', logprob: -0.125, bytes: [71, 114], top_logprobs: [] },
    { token: '', logprob: -0.25, bytes: [], top_logprobs: [] },
    { token: '\u00fc\u00dfe', logprob: -0.375, bytes: [195, 188, 195, 159, 101], top_logprobs: [] },
  ];
  const whole = await client.chat.completions.create(request);
  expect(whole.choices[0]!.logprobs!.content).toEqual(expected);
  const chunks = await collect(await client.chat.completions.create({ ...request, stream: true }));
  expect(chunks.flatMap((chunk) => chunk.choices[0]!.logprobs?.content ?? [])).toEqual(expected);
});

test('messages reach the template in one text each, the developer role as system, other fields untouched', async () => {
  const { client, model: fake } = await startServer();
  await client.chat.completions.create({
    model,
    messages: [
      { role: 'developer', content: 'Be brief.' },
      {
        role: 'user',
        content: [
          { type: 'text', text: 'One ' },
          { type: 'text', text: 'two' },
        ],
        name: 'Ada',
      },
      { role: 'assistant', content: null, tool_calls: [] },
      { role: 'tool', content: '3', tool_call_id: 'x' },
    ],
    tools: [{ type: 'function', function: { name: 'add' } }],
  });
  expect(fake.requests[0]!.prompt).toEqual({
    messages: [
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: 'One two', name: 'Ada' },
      { role: 'assistant', content: '', tool_calls: [] },
      { role: 'tool', content: '3', tool_call_id: 'x' },
    ],
    tools: [{ type: 'function', function: { name: 'add' } }],
  });
});

test('several requests run at once', async () => {
  const { client, model: fake } = await startServer({ tokenMs: 10 });
  const answers = Promise.all([1, 2, 3].map(() => client.chat.completions.create({ model, messages })));
  await expect.poll(() => fake.running).toBe(3);
  for (const { choices } of await answers) expect(choices[0]!.message.content).toBe(TEXT);
});
