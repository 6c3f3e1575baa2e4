import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { modelError } from './fake-model.js';
import { runCommand } from './run-command.js';
import { until } from './start-server.js';

const TEXT = 'The answer is forty-two.';

async function textFile(text: string): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'magicpig-'));
  onTestFinished(() => rm(folder, { recursive: true }));
  const path = join(folder, 'book.txt');
  await writeFile(path, text);
  return path;
}

/** A port that some other program listens on. */
async function takenPort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  onTestFinished(() => void server.close());
  const address = server.address();
  return typeof address === 'object' && address !== null ? address.port : 0;
}

describe('serve', () => {
  test('says what it serves and where, answers, and ends on Ctrl-C', async () => {
    const run = runCommand(['serve', '--port', '0', '--model', 'some/model', '--k', '8', '--temperature', '0.5']);
    await until(() => run.stdout().includes('curl'), 'the banner');
    const banner = run.stdout();
    const [, url] = /MagicPIG listens on (http:\/\/127\.0\.0\.1:\d+)\n/.exec(banner)!;
    for (const part of [
      'fake/model: llama, 2 layers, 4 query heads over 2 KV heads of 16',
      'context    1000 tokens',
      'backend    fake: a script, 1 thread',
      'threads    1',
      'policy     magicpig (K=8)',
      'KV memory  1.0 GiB',
      `curl ${url}/v1/chat/completions -H 'Content-Type: application/json'`,
    ]) {
      expect(banner).toContain(part);
    }
    const response = await fetch(`${url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{"prompt": "a"}',
    });
    expect(await response.json()).toMatchObject({ choices: [{ text: TEXT }] });
    const [{ source, model }] = run.loaded as [(typeof run.loaded)[0]];
    expect(source).toBe('some/model');
    expect(model.requests[0]!.options).toMatchObject({ attention: { policy: 'magicpig', K: 8 }, temperature: 0.5 });

    run.interrupt();
    expect(await run.exitCode).toBe(0);
    expect(model.closed).toBe(true);
    await expect(fetch(url!)).rejects.toThrow();
    const line = JSON.parse(run.stdout().trim().split('\n').at(-1)!) as { msg: string };
    expect(line.msg).toMatch(/^POST \/v1\/completions 200 in .* 7 answered at 41\.3 tok\/s/);
  });

  test('the curl line works as printed', async () => {
    const run = runCommand(['serve', '--port', '0', '--log-level', 'silent']);
    await until(() => run.stdout().includes('curl'), 'the banner');
    const command = run.stdout().slice(run.stdout().indexOf('curl'));
    const { promisify } = await import('node:util');
    const { execFile } = await import('node:child_process');
    const { stdout } = await promisify(execFile)('sh', ['-c', `${command.trim().replace('curl', 'curl -s')}`]);
    expect(JSON.parse(stdout)).toMatchObject({ choices: [{ message: { content: TEXT } }] });
  });

  test('log lines are for people on a terminal', async () => {
    const run = runCommand(['serve', '--port', '0'], { isTTY: true });
    await until(() => run.stdout().includes('curl'), 'the banner');
    const [url] = /http:\/\/127\.0\.0\.1:\d+/.exec(run.stdout())!;
    await fetch(`${url}/v1/nothing`);
    await until(() => /\n\d\d:\d\d:\d\d GET \/v1\/nothing 404 in \d/.test(run.stdout()), 'the line');
    expect(run.stdout()).not.toContain('Server listening');
  });

  test('--profile prints where the time went, at the end', async () => {
    const run = runCommand(['serve', '--port', '0', '--log-level', 'silent', '--profile']);
    await until(() => run.stdout().includes('curl'), 'the banner');
    expect(run.stderr()).not.toContain('Profile of');
    run.interrupt();
    expect(await run.exitCode).toBe(0);
    expect(run.loaded[0]!.options.profile).toBe(true);
    expect(run.stderr()).toMatch(/ends it at once\.\n\nProfile of 0 requests\n$/);
  });

  test('a port in use is found before the model is loaded', async () => {
    const port = await takenPort();
    const run = runCommand(['serve', '--port', String(port)]);
    expect(await run.exitCode).toBe(1);
    expect(run.loaded).toHaveLength(0);
    expect(run.stderr()).toBe(
      `magicpig: Port ${port} on 127.0.0.1 is in use by another program. Pass another one, as --port ${port + 1}, or 0 for any that is free.\n`,
    );
  });

  test('an address of another machine is refused', async () => {
    const run = runCommand(['serve', '--host', '192.0.2.1', '--port', '0']);
    expect(await run.exitCode).toBe(1);
    expect(run.stderr()).toMatch(/192\.0\.2\.1 is not an address of this machine\. Pass --host 127\.0\.0\.1/);
  });

  test('memory for everything can be given instead of memory for the cache', async () => {
    const run = runCommand(['serve', '--port', '0', '--memory-gb', '3']);
    await until(() => run.loaded.length === 1, 'the load');
    expect(run.loaded[0]!.options).toMatchObject({ memoryBytes: 3 * 2 ** 30 });
    expect(run.loaded[0]!.options).not.toHaveProperty('cacheBytes');
  });

  test('every flag reaches the loader', async () => {
    const run = runCommand([
      ...['serve', '--port', '0', '--threads', '3', '--weights', 'f32', '--context', '4096', '--cache-gb', '512MB'],
      ...[
        '--max-sequences',
        '4',
        '--max-queue',
        '9',
        '--cache-dir',
        '/tmp/x',
        '--random-seed',
        '5',
        '--k',
        '9',
        '--l',
        '120',
      ],
      ...['--sink', '8', '--window', '32', '--dense-layers', '0,1', '--min-context', '100', '--attention-seed', '3'],
      ...['--sampled-prompt-tokens', '16', '--max-stall', '80', '--prefix-cache', 'prompts'],
      ...['--snapshot-dir', '/tmp/snapshots', '--snapshot-gb', '1'],
    ]);
    await until(() => run.loaded.length === 1, 'the load');
    const { signal: _, onProgress: __, ...options } = run.loaded[0]!.options;
    expect(options).toEqual({
      maxStallMs: 80,
      prefixCache: 'prompts',
      snapshotDir: '/tmp/snapshots',
      snapshotBytes: 2 ** 30,
      backend: 'cpu',
      threads: 3,
      weights: 'f32',
      contextTokens: 4096,
      cacheBytes: 512 * 2 ** 20,
      maxSequences: 4,
      maxQueue: 9,
      cacheDir: '/tmp/x',
      randomSeed: 5,
      attention: {
        policy: 'magicpig',
        K: 9,
        L: 120,
        sink: 8,
        window: 32,
        denseLayers: [0, 1],
        minContext: 100,
        seed: 3,
        sampledPromptTokens: 16,
      },
    });
  });

  test('a GPU and a cap on its memory too', async () => {
    const run = runCommand(['serve', '--port', '0', '--backend', 'cuda', '--vram', '24']);
    await until(() => run.loaded.length === 1, 'the load');
    expect(run.loaded[0]!.options).toMatchObject({ backend: 'cuda', vramBytes: 24 * 2 ** 30 });
  });

  test.each([
    ['5%', { share: 0.05 }],
    ['400', { count: 400 }],
    ['error=5%', { error: 0.05 }],
    ['error=0.05,max=25%,min=0.01', { error: 0.05, min: 0.01, max: 0.25 }],
  ])('sketch with the budget %s', async (text, budget) => {
    const flags = ['--policy', 'sketch', '--bits', '3', '--floor', '0.1', '--budget', text, '--window', '32'];
    const run = runCommand(['serve', '--port', '0', ...flags, '--attention-seed', '4']);
    await until(() => run.stdout().includes('policy'), 'the banner');
    expect(run.stdout()).toContain(`budget=${JSON.stringify(budget)}`);
    const attention = { policy: 'sketch', bits: 3, floor: 0.1, budget, window: 32, seed: 4 };
    expect(run.loaded[0]!.options.attention).toEqual(attention);
  });

  test.each([
    [['--port', '70000'], /whole number from 0 to 65535/],
    [['--policy', 'quest'], /Allowed choices are magicpig, sketch, dense/],
    [['--policy', 'dense', '--k', '8'], /"dense" has no settings: leave K out/],
    [['--policy', 'sketch', '--k', '8'], /"sketch" has no setting K/],
    [['--bits', '2'], /"magicpig" has no setting bits/],
    [['--policy', 'sketch', '--bits', '5'], /whole number from 1 to 4/],
    [['--policy', 'sketch', '--budget', 'all'], /whole number of at least 1/],
    [['--policy', 'sketch', '--budget', '101%'], /number from 0 to 100/],
    [['--policy', 'sketch', '--budget', 'error=0.05,least=1%'], /like 5%, 400 or error=0\.05/],
    [['--cache-gb', 'lots'], /'lots' is not a size: write 4 \(GiB\), 512MB/],
    [['--threads', '1.5'], /whole number from 1 to 1024/],
    [['--polcy', 'dense'], /unknown option '--polcy'[\s\S]*Did you mean --policy/],
  ])('refuses %j', async (flags, message) => {
    const run = runCommand(['serve', '--port', '0', ...flags]);
    expect(await run.exitCode).toBe(1);
    expect(run.stderr()).toMatch(message);
    expect(run.loaded).toHaveLength(0);
  });

  test('errors of loading are printed without a stack, others with one', async () => {
    const missing = runCommand(['serve', '--port', '0'], {
      loadError: modelError('MODEL_NOT_FOUND', "Model 'x' was not found."),
    });
    expect(await missing.exitCode).toBe(1);
    expect(missing.stderr()).toMatch(/\nmagicpig: Model 'x' was not found\.\n$/);
    const broken = runCommand(['serve', '--port', '0'], { loadError: new TypeError('x is undefined') });
    expect(await broken.exitCode).toBe(1);
    expect(broken.stderr()).toMatch(/TypeError: x is undefined\n\s+at /);
  });
});

describe('generate', () => {
  test('streams the answer to stdout; progress and numbers go to stderr', async () => {
    const book = await textFile('Once upon a time there was a pig.\n');
    const run = runCommand([
      'generate',
      '--prompt-file',
      book,
      'Who was there?',
      '--system',
      'Be brief.',
      '--max-tokens',
      '50',
    ]);
    expect(await run.exitCode).toBe(0);
    expect(run.stdout()).toBe(`${TEXT}\n`);
    expect(run.stderr()).toBe(
      [
        'Fetching smollm2 (weights.gguf): 1.0 MiB of 4.0 MiB (25%)',
        'Fetching smollm2 (weights.gguf): 2.0 MiB of 4.0 MiB (50%)',
        'Fetching smollm2 (weights.gguf): 3.0 MiB of 4.0 MiB (75%)',
        'Fetching smollm2 (weights.gguf): 4.0 MiB of 4.0 MiB (100%)',
        'Loading smollm2: 272 of 272 (100%)',
        'Reading the prompt: 6 of 13 (46%)',
        'Reading the prompt: 13 of 13 (100%)',
        '13 prompt tokens (6 cached) at 900 tok/s, 7 answered at 41.3 tok/s, magicpig read 11.0% of the keys (2.0% of the sampled part, 68 tokens exactly)',
        '',
      ].join('\n'),
    );
    const [{ model }] = run.loaded as [(typeof run.loaded)[0]];
    expect(model.requests[0]).toMatchObject({
      prompt: {
        messages: [
          { role: 'system', content: 'Be brief.' },
          { role: 'user', content: 'Once upon a time there was a pig.\n\nWho was there?' },
        ],
      },
      options: { maxTokens: 50 },
    });
    expect(model.closed).toBe(true);
  });

  test('--profile prints where the time went, after the numbers', async () => {
    const run = runCommand(['generate', 'Why?', '--profile']);
    expect(await run.exitCode).toBe(0);
    expect(run.loaded[0]!.options.profile).toBe(true);
    expect(run.stderr()).toMatch(/tokens exactly\)\n\nProfile of 1 requests\n$/);
  });

  test('draws bars on a terminal, and none after the answer has begun', async () => {
    const run = runCommand(['generate', 'Why?'], { isTTY: true, model: { prefillMs: 120 } });
    expect(await run.exitCode).toBe(0);
    expect(run.stdout()).toBe(`${TEXT}\n`);
    expect(run.stderr()).toContain('Reading the prompt');
    expect(run.stderr()).toContain('\u2588');
  });

  test.each([
    [['generate'], 'From stdin.\n', 'From stdin.'],
    [['generate', '-f', '-', 'What?'], 'From stdin.\n', 'From stdin.\n\nWhat?'],
    [['generate', 'What?'], 'not read', 'What?'],
  ])('%j reads standard input when it should', async (args, stdin, content) => {
    const run = runCommand(args, { stdin });
    expect(await run.exitCode).toBe(0);
    expect(run.loaded[0]!.model.requests[0]!.prompt).toEqual({ messages: [{ role: 'user', content }] });
  });

  test('--raw leaves the chat template out', async () => {
    const run = runCommand([
      'generate',
      '--raw',
      'Once upon',
      '--policy',
      'dense',
      '--seed',
      '4',
      '--top-k',
      '5',
      '--stop',
      'END',
    ]);
    expect(await run.exitCode).toBe(0);
    const [{ prompt, options }] = run.loaded[0]!.model.requests as [{ prompt: unknown; options: object }];
    expect(prompt).toBe('Once upon');
    expect(options).toMatchObject({ seed: 4, topK: 5, stop: ['END'] });
    expect(run.loaded[0]!.options.attention).toEqual({ policy: 'dense' });
  });

  test('Ctrl-C ends it in the middle of a line, with the exit code that shells expect', async () => {
    const run = runCommand(['generate', 'Why?'], { model: { tokenMs: 30 } });
    await until(() => run.stdout().includes('answer'), 'some of the answer');
    run.interrupt();
    expect(await run.exitCode).toBe(130);
    expect(run.stdout()).toMatch(/^The answer.*\n$/);
    expect(run.loaded[0]!.model).toMatchObject({ closed: true, running: 0 });
  });

  test.each([
    [['generate', '-f', '/no/such/book', 'What?'], /Cannot read the prompt file '\/no\/such\/book': ENOENT/],
    [['generate', ''], /the prompt is empty/],
    [['generate', '--raw', '--system', 'x', 'y'], /--system belongs to the chat template/],
  ])('refuses %j', async (args, message) => {
    const run = runCommand(args);
    expect(await run.exitCode).toBe(1);
    expect(run.stderr()).toMatch(message);
    expect(run.loaded).toHaveLength(0);
  });

  test('a prompt that is too long is said in one line', async () => {
    const run = runCommand(['generate', 'one two three four'], { model: { contextTokens: 3 } });
    expect(await run.exitCode).toBe(1);
    expect(run.stderr()).toMatch(/\nmagicpig: The prompt has 4 tokens, the context 3\.\n$/);
  });
});

describe('help', () => {
  test('lists the commands and their flags', async () => {
    const all = runCommand(['--help']);
    expect(await all.exitCode).toBe(0);
    for (const name of ['serve', 'generate', 'doctor']) expect(all.stdout()).toContain(name);
    const serve = runCommand(['serve', '--help']);
    expect(await serve.exitCode).toBe(0);
    expect(serve.stdout()).toContain('--cache-gb <size>');
  });

  test('the version is the package\u2019s', async () => {
    const run = runCommand(['--version']);
    expect(await run.exitCode).toBe(0);
    expect(run.stdout()).toMatch(/^\d+\.\d+\.\d+\n$/);
  });
});
