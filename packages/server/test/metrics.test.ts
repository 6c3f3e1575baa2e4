import { expect, test } from 'vitest';
import { collect, startServer, until } from './start-server.js';

const model = 'fake/model';

/** Values by name and labels, as Prometheus reads them. */
async function scrape(url: string): Promise<Record<string, number>> {
  const response = await fetch(`${url}/metrics`);
  expect(response.headers.get('content-type')).toMatch(/^text\/plain; version=0\.0\.4/);
  const lines = (await response.text()).split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return Object.fromEntries(
    lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.split(' ').at(-1))]),
  );
}

test('counts generations by how they ended, their tokens and their waits', async () => {
  const { url, client, post } = await startServer({ contextTokens: 100 });
  await client.completions.create({ model, prompt: 'one two three four', max_tokens: 3 });
  await collect(await client.completions.create({ model, prompt: 'one two', stream: true }));
  expect((await post('/v1/completions', { prompt: 'word '.repeat(200) })).status).toBe(400); // longer than the context
  expect((await post('/v1/completions', { prompt: 1 })).status).toBe(400); // never becomes a generation
  expect(await scrape(url)).toMatchObject({
    'magicpig_requests_total{outcome="length"}': 1,
    'magicpig_requests_total{outcome="stop"}': 1,
    'magicpig_requests_total{outcome="refused"}': 1,
    'magicpig_requests_total{outcome="aborted"}': 0,
    'magicpig_requests_total{outcome="error"}': 0,
    magicpig_prompt_tokens_total: 6,
    magicpig_cached_tokens_total: 3,
    magicpig_generated_tokens_total: 3 + 7,
    magicpig_first_token_seconds_count: 2,
    magicpig_token_gap_seconds_count: 2 + 6,
    'magicpig_token_gap_seconds_bucket{le="+Inf"}': 8,
  });
});

test('counts the tokens of generations that ended early', async () => {
  const aborted = await startServer({ tokenMs: 20 });
  const stop = new AbortController();
  const stream = await aborted.client.completions.create({ model, prompt: 'a', stream: true }, { signal: stop.signal });
  for await (const _ of stream) {
    stop.abort();
    break;
  }
  await until(() => aborted.model.endedEarly === 1, 'the generation ends');
  const counts = await scrape(aborted.url);
  expect(counts['magicpig_requests_total{outcome="aborted"}']).toBe(1);
  expect(counts.magicpig_generated_tokens_total).toBeGreaterThanOrEqual(1);

  const failing = await startServer({ failAt: { index: 2, error: new Error('out of paper') } });
  expect((await failing.post('/v1/completions', { prompt: 'a' })).status).toBe(500);
  expect(await scrape(failing.url)).toMatchObject({
    'magicpig_requests_total{outcome="error"}': 1,
    magicpig_generated_tokens_total: 2,
    magicpig_prompt_tokens_total: 0,
  });
});

test('shows what the engine is at and where its time went, as long as there is one', async () => {
  const { url, client, model: fake } = await startServer({ tokenMs: 20 });
  const answer = client.completions.create({ model, prompt: 'a' });
  await until(() => fake.running === 1, 'the generation starts');
  expect(await scrape(url)).toMatchObject({
    magicpig_running_requests: 1,
    magicpig_waiting_requests: 0,
    magicpig_cache_used_bytes: 1024,
    magicpig_prefix_cache_bytes: 512,
    magicpig_cache_bytes: 2 ** 30,
    'magicpig_step_seconds_total{part="dense"}': 2,
    'magicpig_step_seconds_total{part="attend"}': 0.7,
    'magicpig_step_seconds_total{part="index"}': 0.2,
    'magicpig_step_seconds_total{part="other"}': 0.1,
  });
  await answer;
  // On a GPU.
  const rest = { indexMs: 60, otherMs: 70 };
  fake.times = { gpuMs: 10, transferMs: 20, selectMs: 30, attendMs: 40, idleMs: 50, ...rest };
  const split = Object.entries(await scrape(url)).filter(([name]) => name.startsWith('magicpig_step_seconds'));
  expect(split).toEqual(
    ['gpu', 'transfer', 'select', 'attend', 'idle', 'index', 'other'].map((part, i) => [
      `magicpig_step_seconds_total{part="${part}"}`,
      (i + 1) / 100,
    ]),
  );
  fake.dead = new Error('worker exited with code 1');
  const after = await scrape(url);
  expect(Object.keys(after).filter((name) => name.startsWith('magicpig_step_seconds'))).toEqual([]);
  expect(after['magicpig_requests_total{outcome="length"}']).toBe(0);
  expect(after['magicpig_requests_total{outcome="stop"}']).toBe(1);
});
