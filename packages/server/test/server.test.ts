import { expect, test } from 'vitest';
import { createServer } from '../src/index.js';
import { FakeModel } from './fake-model.js';
import { collect, startServer, until } from './start-server.js';

const model = 'fake/model';
const messages = [{ role: 'user' as const, content: 'What is the answer?' }];

test('lists its model, whose id may hold slashes', async () => {
  const { client, url } = await startServer();
  const { data } = await client.models.list();
  expect(data).toEqual([
    { id: model, object: 'model', created: expect.any(Number), owned_by: 'magicpig', context_length: 1000 },
  ]);
  expect(await client.models.retrieve(model)).toEqual(data[0]);
  expect(await (await fetch(`${url}/v1/models/${model}`)).json()).toEqual(data[0]);
  await expect(client.models.retrieve('gpt-9')).rejects.toMatchObject({ status: 404, code: 'model_not_found' });
});

test('health tells what runs, and 503 with the reason once the engine has died', async () => {
  const attention = { policy: 'dense' } as const;
  const { url, client, model: fake } = await startServer({ tokenMs: 20 }, { defaults: { attention } });
  const health = async () => {
    const response = await fetch(`${url}/health`);
    return { code: response.status, ...((await response.json()) as object) };
  };
  const about = { model, backend: 'fake', description: 'a script, 1 thread', context_tokens: 1000, attention };
  const answer = client.completions.create({ model, prompt: 'a' });
  await until(() => fake.running === 1, 'the generation starts');
  expect(await health()).toEqual({
    code: 200,
    status: 'ok',
    ...about,
    running: 1,
    waiting: 0,
    cache_bytes: 2 ** 30,
    cache_bytes_used: 1024,
    prefix_cache_bytes: 512,
  });
  await answer;
  fake.dead = new Error('worker exited with code 1');
  expect(await health()).toMatchObject({
    code: 503,
    status: 'error',
    reason: expect.stringContaining('worker exited'),
  });
});

test('a device that was lost makes health say so, and the server stays up', async () => {
  const { url, model: fake } = await startServer();
  fake.failure = 'waiting for an event failed on a GPU: an illegal memory access was encountered.';
  const response = await fetch(`${url}/health`);
  expect(response.status).toBe(503);
  expect(await response.json()).toMatchObject({ status: 'error', reason: fake.failure, model });
  expect((await fetch(`${url}/v1/models`)).status).toBe(200);
});

test('an engine that hangs is called dead after a while', async () => {
  const { url, model: fake } = await startServer({}, { healthTimeoutMs: 5000 });
  fake.stats = () => new Promise(() => {}); // as while a step runs, and nobody waits for it
  fake.stepMs = 5000;
  expect((await fetch(`${url}/health`)).status).toBe(200);
  fake.stepMs = 5001;
  const response = await fetch(`${url}/health`);
  expect(response.status).toBe(503);
  expect(await response.text()).toContain('at one step for 5 s');
});

test('the page is one file whose policy allows its own script and style only', async () => {
  const { url } = await startServer();
  const response = await fetch(url);
  const policy = response.headers.get('content-security-policy')!;
  const html = await response.text();
  expect(response.headers.get('content-type')).toBe('text/html; charset=utf-8');
  expect(policy).toMatch(/script-src 'sha256-[\w+/=]+'; style-src 'sha256-[\w+/=]+'/);
  expect(html).toContain('v1/chat/completions');
  expect(html).not.toMatch(/(src|href)="(?!data:)/);
});

test('URLs that cannot be decoded get an error in the same shape', async () => {
  const { url } = await startServer();
  const response = await fetch(`${url}/v1/models/%zz`);
  expect(response.status).toBe(400);
  expect(await response.json()).toMatchObject({ error: { type: 'invalid_request_error', param: null } });
});

test('no other origin may call the server unless it is named', async () => {
  const origin = 'https://example.org';
  const preflight = async (url: string) => {
    const headers = {
      origin,
      'access-control-request-method': 'POST',
      'access-control-request-headers': 'authorization',
    };
    return await fetch(`${url}/v1/chat/completions`, { method: 'OPTIONS', headers });
  };
  const { url: closed } = await startServer();
  expect((await preflight(closed)).headers.get('access-control-allow-origin')).toBeNull();
  const { url: open } = await startServer({}, { cors: [origin], apiKey: 'right' });
  const allowed = await preflight(open);
  expect(allowed.status).toBe(204);
  expect(allowed.headers.get('access-control-allow-origin')).toBe(origin);
  const refused = await fetch(`${open}/v1/models`, { headers: { origin } });
  expect(refused.status).toBe(401); // and readable by the page that asked:
  expect(refused.headers.get('access-control-allow-origin')).toBe(origin);
});

test('one line a request goes to the log, with tokens and speeds', async () => {
  const lines: { msg: string; usage?: object; magicpig?: object }[] = [];
  const stream = { write: (line: string) => void lines.push(JSON.parse(line)) };
  const { client, url } = await startServer({ tokenMs: 5 }, { logger: { level: 'info', stream } });
  await client.chat.completions.create({ model, messages });
  await collect(await client.chat.completions.create({ model, messages, stream: true }));
  await fetch(`${url}/v1/nothing`);
  await until(() => lines.filter(({ msg }) => !msg.startsWith('Server listening')).length === 3, 'three lines');
  const said = lines.filter(({ msg }) => !msg.startsWith('Server listening'));
  for (const line of said.slice(0, 2)) {
    expect(line.msg).toMatch(
      /^POST \/v1\/chat\/completions 200 in \d+\.\d\d s: 4 prompt tokens \(2 cached\) at 900 tok\/s, 7 answered at 41\.3 tok\/s, magicpig read 11\.0% of the keys \(2\.0% of the sampled part, 68 tokens exactly\)$/,
    );
    expect(line).toMatchObject({ usage: { total_tokens: 11 }, magicpig: { keysReadShare: 0.11 } });
  }
  expect(said[2]!.msg).toMatch(/^GET \/v1\/nothing 404 in /);

  const left = await client.chat.completions.create({ model, messages, stream: true });
  for await (const _ of left) break;
  await until(
    () => lines.some(({ msg }) => msg.endsWith('ended early: The client went away.')),
    'the line of the abort',
  );
});

test('closing lets running answers finish and refuses new ones', async () => {
  const { client, server, model: fake } = await startServer({ tokenMs: 30 }, { graceMs: 5000 });
  const answer = client.chat.completions.create({ model, messages });
  await until(() => fake.running === 1, 'the generation starts');
  const started = performance.now();
  const closed = server.close();
  const late = await client.chat.completions.create({ model, messages }).catch((e) => e);
  expect(late).toMatchObject({ status: 503, code: 'shutting_down' });
  expect((await answer).choices[0]!.finish_reason).toBe('stop');
  await closed;
  expect(performance.now() - started).toBeLessThan(2000);
  expect(fake.requests).toHaveLength(1);
});

test('after the grace time, streams end with an error event and whole answers with status 503', async () => {
  const { client, server, model: fake } = await startServer({ tokenMs: 60_000 }, { graceMs: 50 });
  const stream = client.chat.completions
    .create({ model, messages, stream: true })
    .then(collect)
    .catch((e) => e);
  const whole = client.chat.completions.create({ model, messages }).catch((e) => e);
  await until(() => fake.running === 2, 'both run');
  const started = performance.now();
  await server.close();
  expect(performance.now() - started).toBeLessThan(2000);
  expect(await stream).toMatchObject({ code: 'shutting_down', type: 'server_error' });
  expect(await whole).toMatchObject({ status: 503, code: 'shutting_down' });
  expect(fake.running).toBe(0);
  expect(fake.closed).toBe(false); // the model belongs to the caller
});

test('works without a socket, for tests of those who embed it', async () => {
  const server = createServer({ model: new FakeModel() });
  const response = await server.inject({ method: 'POST', url: '/v1/completions', payload: { prompt: 'a' } });
  expect(response.json().choices[0].text).toBe('The answer is forty-two.');
  await server.close();
});
