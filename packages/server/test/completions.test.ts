import { expect, test } from 'vitest';
import { collect, startServer } from './start-server.js';

const model = 'fake/model';

test('answers whole', async () => {
  const { client } = await startServer();
  const response = await client.completions.create({ model, prompt: 'Once upon a time', logprobs: 0 });
  expect(response).toMatchObject({
    object: 'text_completion',
    model,
    choices: [
      {
        index: 0,
        text: 'The answer is forty-two.',
        finish_reason: 'stop',
        logprobs: {
          tokens: ['The', ' answer', ' is', ' forty', '-', 'two', '.'],
          token_logprobs: [1, 2, 3, 4, 5, 6, 7].map((i) => -i / 8),
          text_offset: [0, 3, 10, 13, 19, 20, 23],
          top_logprobs: null,
        },
      },
    ],
    usage: { prompt_tokens: 4, completion_tokens: 7, total_tokens: 11, prompt_tokens_details: { cached_tokens: 2 } },
    magicpig: { policy: 'magicpig', keysReadShare: 0.11 },
  });
  expect(response.id).toMatch(/^cmpl-/);
});

test('streams the same pieces, offsets going on from chunk to chunk', async () => {
  const { client } = await startServer();
  const chunks = await collect(await client.completions.create({ model, prompt: 'Once', stream: true, logprobs: 0 }));
  expect(chunks.map(({ choices }) => choices[0]!.text).join('')).toBe('The answer is forty-two.');
  expect(chunks.flatMap(({ choices }) => choices[0]!.logprobs?.text_offset)).toEqual([
    0,
    3,
    10,
    13,
    19,
    20,
    23,
    undefined,
  ]);
  expect(chunks.at(-1)).toMatchObject({ choices: [{ finish_reason: 'stop' }], magicpig: { policy: 'magicpig' } });
});

test.each([
  ['a string', 'Once upon', 'Once upon'],
  ['an array of one string', ['Once upon'], 'Once upon'],
  ['token ids', [1, 2, 3], Int32Array.of(1, 2, 3)],
  ['an array of one array of token ids', [[1, 2, 3]], Int32Array.of(1, 2, 3)],
])('takes %s', async (_, prompt, expected) => {
  const { client, model: fake } = await startServer();
  await client.completions.create({ model, prompt });
  expect(fake.requests[0]!.prompt).toEqual(expected);
});

test('writes 16 tokens unless told otherwise, as OpenAI does', async () => {
  const { client, model: fake } = await startServer({ answer: Array(30).fill('x') });
  const [short, long] = await Promise.all([
    client.completions.create({ model, prompt: 'a' }),
    client.completions.create({ model, prompt: 'a', max_tokens: 20 }),
  ]);
  expect(short.choices[0]).toMatchObject({ text: 'x'.repeat(16), finish_reason: 'length' });
  expect(long.choices[0]!.text).toHaveLength(20);
  expect(fake.requests).toHaveLength(2);
});

test.each([
  [{}, 'prompt', 'missing_required_parameter'],
  [{ prompt: 5 }, 'prompt', 'invalid_value'],
  [{ prompt: ['a', 'b'] }, 'prompt', 'invalid_value'],
  [{ prompt: [] }, 'prompt', 'invalid_value'],
  [{ prompt: [1, 2.5] }, 'prompt', 'invalid_value'],
  [{ prompt: 'a', echo: true }, 'echo', 'invalid_value'],
  [{ prompt: 'a', suffix: 'b' }, 'suffix', 'invalid_value'],
  [{ prompt: 'a', best_of: 2 }, 'best_of', 'invalid_value'],
  [{ prompt: 'a', logprobs: 3 }, 'logprobs', 'invalid_value'],
])('refuses %j', async (request, param, code) => {
  const { post } = await startServer();
  const { status, body } = await post('/v1/completions', request);
  expect(status).toBe(400);
  expect(body.error).toMatchObject({ type: 'invalid_request_error', param, code });
});
