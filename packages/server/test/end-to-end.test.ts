import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { collect, until } from './start-server.js';

// The built command in a process of its own, on a real model with random weights. What it says is noise; that every part
// works together, and repeats itself exactly, is not.

const BIN = fileURLToPath(new URL('../bin/magicpig.js', import.meta.url));
const MODEL = 'random:tiny';

interface Started {
  process: ChildProcess;
  output(): string;
}

function start(args: string[]): Started {
  const child = spawn(process.execPath, [BIN, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  const chunks: string[] = [];
  child.stdout.on('data', (chunk) => chunks.push(String(chunk)));
  child.stderr.on('data', (chunk) => chunks.push(String(chunk)));
  return { process: child, output: () => chunks.join('') };
}

async function serve(flags: string[] = []): Promise<Started & { url: string }> {
  const started = start(['serve', '--model', MODEL, '--port', '0', '--cache-gb', '256MB', ...flags]);
  const { process: child, output } = started;
  await until(() => output().includes('curl') || child.exitCode !== null, 'the server starts', 20_000);
  const [url] = /http:\/\/127\.0\.0\.1:\d+/.exec(output()) ?? [];
  if (url === undefined) throw new Error(`the server did not start: ${output()}`);
  return { ...started, url };
}

async function stop({ process: child }: Started): Promise<number | null> {
  if (child.exitCode !== null) return child.exitCode;
  child.kill('SIGINT');
  const [code] = (await once(child, 'exit')) as [number | null];
  return code;
}

describe('magicpig serve on a real model', () => {
  let server: Started & { url: string };
  let client: OpenAI;
  beforeAll(async () => {
    server = await serve();
    client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 });
  }, 30_000);
  afterAll(async () => {
    await stop(server);
  });

  const prompt = 'It was a dark and stormy night. '.repeat(40);
  const sampled = { policy: 'magicpig', K: 4, L: 20, minContext: 0, window: 16 };
  const ask = async (magicpig: object, extra: object = {}) =>
    (await client.completions.create({
      model: MODEL,
      prompt,
      max_tokens: 24,
      ...{ magicpig, ignore_eos: true },
      ...extra,
    })) as OpenAI.Completion & { magicpig: Record<string, number> };

  test('both policies answer and report what they read', async () => {
    const dense = await ask({ policy: 'dense' });
    expect(dense.usage!.completion_tokens).toBe(24);
    expect(dense.usage!.prompt_tokens).toBeGreaterThan(300);
    expect(dense.magicpig).toMatchObject({ policy: 'dense', sampledSteps: 0, keysReadShare: 1 });
    const magicpig = await ask(sampled);
    expect(magicpig.magicpig.sampledSteps).toBeGreaterThan(0);
    expect(magicpig.magicpig.keysReadShare).toBeGreaterThan(0);
    expect(magicpig.magicpig.keysReadShare).toBeLessThan(1);
    expect(magicpig.magicpig.exactTokens).toBeGreaterThanOrEqual(20);
    expect(magicpig.magicpig.decodeTokensPerSecond).toBeGreaterThan(0);
  });

  test('the same request gives the same answer, alone or among others, whole or streamed', async () => {
    const extra = { temperature: 0.8, seed: 3 };
    const alone = await ask(sampled, extra);
    const [among] = await Promise.all([
      ask(sampled, extra),
      ask({ policy: 'dense' }, { prompt: 'Once' }),
      ask(sampled, { prompt: prompt.slice(50), seed: 9, temperature: 1 }),
    ]);
    expect(among!.choices[0]!.text).toBe(alone.choices[0]!.text);
    const stream = await client.completions.create({
      model: MODEL,
      prompt,
      max_tokens: 24,
      stream: true,
      ...{ magicpig: sampled, ignore_eos: true },
      ...extra,
    });
    expect((await collect(stream)).map(({ choices }) => choices[0]!.text).join('')).toBe(alone.choices[0]!.text);
  });

  test("the model's own refusals name the request's fields", async () => {
    await expect(ask({ K: 17 })).rejects.toMatchObject({ status: 400, param: 'magicpig.K' });
    await expect(ask({ denseLayers: [99] })).rejects.toMatchObject({ status: 400, param: 'magicpig.denseLayers' });
    await expect(ask(sampled, { prompt: [1, 2, 2_000_000] })).rejects.toMatchObject({ status: 400, param: 'prompt' });
    await expect(ask(sampled, { prompt: prompt.repeat(40) })).rejects.toMatchObject({
      status: 400,
      param: 'prompt',
      code: 'context_length_exceeded',
    });
  });

  test('a client that goes away gives its memory back', async () => {
    const health = async () => (await (await fetch(`${server.url}/health`)).json()) as Record<string, number>;
    const inUse = async () => {
      const { cache_bytes_used, prefix_cache_bytes } = await health();
      return cache_bytes_used! - prefix_cache_bytes!;
    };
    const stream = await client.completions.create({
      model: MODEL,
      prompt,
      max_tokens: 3000,
      stream: true,
      ...{ ignore_eos: true },
    });
    for await (const _ of stream) break;
    await expect.poll(async () => (await health()).running).toBe(0);
    expect(await inUse()).toBe(0);
  });
});

test('a prompt is read once, also across restarts', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'magicpig-test-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const ask = async (url: string) => {
    const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 });
    const prompt = 'It was a dark and stormy night. '.repeat(40);
    const { choices, usage } = await client.completions.create({ model: MODEL, prompt, max_tokens: 8 });
    return { text: choices[0]!.text, cached: usage!.prompt_tokens_details!.cached_tokens!, all: usage!.prompt_tokens };
  };
  const flags = ['--snapshot-dir', folder, '--prefix-cache', 'prompts'];
  const first = await serve(flags);
  const [unknown, known] = [await ask(first.url), await ask(first.url)];
  expect(await stop(first)).toBe(0);
  const second = await serve(flags);
  onTestFinished(async () => void (await stop(second)));
  const restored = await ask(second.url);
  expect(unknown.cached).toBe(0);
  expect(known.cached).toBeGreaterThan(known.all - 70);
  expect(restored).toEqual(known);
  expect(known.text).toBe(unknown.text);
}, 60_000);

test('SIGTERM in the middle of a stream ends it with an error event, and the process with code 0', async () => {
  const server = await serve(['--grace', '0']);
  onTestFinished(async () => void (await stop(server)));
  const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 });
  const stream = await client.completions.create({
    model: MODEL,
    prompt: 'a',
    max_tokens: 4000,
    stream: true,
    ...{ ignore_eos: true },
  });
  const read = async () => {
    for await (const _ of stream) if (!server.process.killed) server.process.kill('SIGTERM');
  };
  const exited = once(server.process, 'exit');
  await expect(read()).rejects.toMatchObject({ code: 'shutting_down' });
  expect((await exited)[0]).toBe(0);
}, 30_000);

test('a port in use ends the process with code 1', async () => {
  const other = createServer().listen(0, '127.0.0.1');
  await once(other, 'listening');
  onTestFinished(() => void other.close());
  const { port } = other.address() as { port: number };
  const started = start(['serve', '--model', MODEL, '--port', String(port)]);
  expect((await once(started.process, 'exit'))[0]).toBe(1);
  expect(started.output()).toContain(`Port ${port} on 127.0.0.1 is in use`);
}, 30_000);

test('magicpig generate answers', async () => {
  const started = start([
    'generate',
    '--model',
    MODEL,
    '--raw',
    '--max-tokens',
    '5',
    '--cache-gb',
    '256MB',
    'Once upon a time',
  ]);
  const [code] = (await once(started.process, 'exit')) as [number];
  expect(started.output()).toMatch(/prompt tokens at .* tok\/s, 5 answered at/);
  expect(code).toBe(0);
}, 30_000);
