import { expect, test } from 'vitest';
import { mergeAttention } from '../src/generate-options.js';
import { startServer } from './start-server.js';

const messages = [{ role: 'user', content: 'What?' }];

test('a request chooses its policy through the official client', async () => {
  const { client, model: fake } = await startServer(
    {},
    { defaults: { attention: { policy: 'magicpig', K: 8, L: 75 } } },
  );
  const ask = (magicpig?: object | null) =>
    client.chat.completions.create({
      model: 'fake/model',
      messages: [{ role: 'user', content: 'What?' }],
      ...{ magicpig },
    });
  const dense = await ask({ policy: 'dense' });
  expect(dense).toMatchObject({ magicpig: { policy: 'dense', keysReadShare: 1 } });
  await ask({ L: 150, denseLayers: [0, 1] });
  await ask();
  await ask(null);
  expect(fake.requests.map(({ options }) => options.attention)).toEqual([
    { policy: 'dense' },
    { policy: 'magicpig', K: 8, L: 150, denseLayers: [0, 1] },
    { policy: 'magicpig', K: 8, L: 75 },
    { policy: 'magicpig', K: 8, L: 75 },
  ]);
});

test.each([
  ['nothing said', undefined, undefined, undefined],
  ['the default alone', undefined, { policy: 'dense' }, { policy: 'dense' }],
  ['an empty object', {}, { policy: 'magicpig', K: 9 }, { policy: 'magicpig', K: 9 }],
  ['settings imply magicpig', { K: 9 }, { policy: 'dense' }, { policy: 'magicpig', K: 9 }],
  ['settings over defaults', { sink: 8 }, { policy: 'magicpig', K: 9 }, { policy: 'magicpig', K: 9, sink: 8 }],
  ['settings over sketch', { bits: 3 }, { policy: 'sketch', seed: 9 }, { policy: 'sketch', seed: 9, bits: 3 }],
  ['sketch over magicpig', { policy: 'sketch' }, { policy: 'magicpig', K: 9 }, { policy: 'sketch' }],
  ['dense over magicpig', { policy: 'dense' }, { policy: 'magicpig', K: 9 }, { policy: 'dense' }],
] as const)('policy of a request: %s', (_, request, fallback, expected) => {
  expect(mergeAttention(request && { ...request }, fallback)).toEqual(expected);
});

test.each([
  [{ policy: 'quest' }, 'magicpig.policy', /"dense", "magicpig" or "sketch"/],
  [{ policy: 'dense', K: 8 }, 'magicpig.K', /policy "dense" has none/],
  [{ policy: 'sketch', budget: 0.05 }, 'magicpig.budget', /object/],
  [{ policy: 'sketch', budget: { part: 1 } }, 'magicpig.budget.part', /Unknown parameter/],
  [{ policy: 'sketch', bits: '2' }, 'magicpig.bits', /integer/],
  [{ K: 'many' }, 'magicpig.K', /integer/],
  [{ K: 99 }, 'magicpig.K', /^magicpig\.K must .* 1\.\.16/],
  [{ denseLayers: [0.5] }, 'magicpig.denseLayers[0]', /integer/],
  [{ windw: 3 }, 'magicpig.windw', /Unknown parameter/],
  ['dense', 'magicpig', /object/],
])('refuses %j', async (magicpig, param, message) => {
  const { post } = await startServer();
  const { status, body } = await post('/v1/chat/completions', { messages, magicpig });
  expect(status).toBe(400);
  expect(body.error).toMatchObject({ type: 'invalid_request_error', param, message: expect.stringMatching(message) });
});
