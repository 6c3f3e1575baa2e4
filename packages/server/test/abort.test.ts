import { expect, test } from 'vitest';
import { startServer, until } from './start-server.js';

const model = 'fake/model';
const messages = [{ role: 'user' as const, content: 'What is the answer?' }];
const endless = { answer: Array<string>(10_000).fill('x'), contextTokens: 20_000, tokenMs: 2 };

/** A logger, and the lines that it gets. */
function logged() {
  const lines: { level: number; msg: string }[] = [];
  return { lines, logger: { level: 'info', stream: { write: (line: string) => void lines.push(JSON.parse(line)) } } };
}

test('leaving a stream ends its generation', async () => {
  const { lines, logger } = logged();
  const { client, model: fake } = await startServer(endless, { logger });
  const stream = await client.chat.completions.create({ model, messages, stream: true });
  let pieces = 0;
  for await (const _ of stream) {
    pieces += 1;
    if (pieces === 5) break; // the client's iterator aborts the request
  }
  await until(() => fake.running === 0, 'the generation ends');
  expect(fake.endedEarly).toBe(1);
  await new Promise(setImmediate);
  expect(lines.filter(({ level }) => level > 30)).toEqual([]); // no error
});

test('a client that gives up on a whole answer ends its generation', async () => {
  const { client, model: fake } = await startServer(endless);
  const controller = new AbortController();
  const answer = client.chat.completions.create({ model, messages }, { signal: controller.signal });
  await until(() => fake.running === 1, 'the generation starts');
  controller.abort();
  await expect(answer).rejects.toThrow(/aborted/);
  await until(() => fake.running === 0, 'the generation ends');
  expect(fake.endedEarly).toBe(1);
});

test('a client that leaves while its prompt is read ends its generation', async () => {
  const { lines, logger } = logged();
  const { client, model: fake } = await startServer({ prefillMs: 60_000 }, { logger });
  const controller = new AbortController();
  const answer = client.chat.completions.create({ model, messages, stream: true }, { signal: controller.signal });
  await until(() => fake.running === 1, 'the generation starts');
  controller.abort();
  await expect(answer).rejects.toThrow(/aborted/);
  await until(() => fake.running === 0, 'the generation ends');
  expect(fake.endedEarly).toBe(1);
  const ended = { level: 30, msg: 'POST /v1/chat/completions ended early: The client went away.' };
  expect(lines.slice(1)).toEqual([expect.objectContaining(ended)]); // information, no error
});

test('one client leaving does not disturb another', async () => {
  const { client, model: fake } = await startServer({ tokenMs: 20 });
  const controller = new AbortController();
  const leaving = client.completions.create({ model, prompt: 'a' }, { signal: controller.signal }).catch((e) => e);
  const staying = client.completions.create({ model, prompt: 'b' });
  await until(() => fake.running === 2, 'both run');
  controller.abort();
  await leaving;
  expect((await staying).choices[0]!.text).toBe('The answer is forty-two.');
  expect(fake.endedEarly).toBe(1);
});

test('connections that are kept open do not pile up listeners or generations', async () => {
  const { client, model: fake } = await startServer();
  for (let i = 0; i < 30; i += 1) await client.completions.create({ model, prompt: 'a' });
  expect(fake.running).toBe(0);
  expect(fake.endedEarly).toBe(0);
  expect(fake.requests.every(({ options }) => options.signal!.aborted === false)).toBe(true);
});

test('a reader that is slow holds the generation back instead of filling memory', async () => {
  const answer = Array<string>(3000).fill('x'.repeat(4000));
  const { url, model: fake } = await startServer({ answer, contextTokens: 20_000 });
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ messages, stream: true }),
  });
  await new Promise((resolve) => setTimeout(resolve, 500));
  expect(fake.running).toBe(1); // 12 MB do not fit into the sockets' buffers
  expect((await response.text()).length).toBeGreaterThan(12e6);
  await until(() => fake.running === 0, 'the generation ends');
  expect(fake.endedEarly).toBe(0);
});
