import { existsSync, readFileSync } from 'node:fs';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { LoadProgress } from '../../src/api.js';
import { downloadFile } from '../../src/checkpoint/download-file.js';
import { parseHubModel } from '../../src/checkpoint/hub.js';
import { locateModel } from '../../src/checkpoint/locate-model.js';
import { openCheckpoint } from '../../src/checkpoint/open-checkpoint.js';
import { ModelNotFoundError } from '../../src/errors.js';
import { COMMIT, type FakeHub, fakeHub } from './fake-hub.js';
import { temporaryDirectory } from './temporary-directory.js';
import { tinyGguf } from './tiny-model.js';

const ID = 'owner/tiny-model';
const WEIGHTS = Buffer.from(Uint8Array.from({ length: 300_000 }, (_, i) => (i * 7) % 251));
const FILES: Record<string, Buffer> = {
  '.gitattributes': Buffer.from('* text'),
  'README.md': Buffer.from('# a model'),
  'config.json': Buffer.from('{}'),
  'chat_template.jinja': Buffer.from(''),
  'tokenizer.json': Buffer.from('{"model":{}}'),
  'model.safetensors': WEIGHTS,
};

let scratch: ReturnType<typeof temporaryDirectory>;
let hub: FakeHub;
const start = async (files = FILES, id = ID) => {
  hub = await fakeHub(id, files);
  vi.stubEnv('HF_ENDPOINT', hub.url);
};
const locate = (source = ID, options: Parameters<typeof locateModel>[1] = {}) =>
  locateModel(source, { cacheDir: scratch.path, ...options });
const part = (name = 'model.safetensors') =>
  join(scratch.path, 'hub', `owner--tiny-model@main.${COMMIT.slice(0, 12)}.partial`, `${name}.part`);

beforeEach(() => {
  scratch = temporaryDirectory();
  vi.stubEnv('HF_TOKEN', undefined);
  vi.stubEnv('HF_HUB_OFFLINE', undefined);
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await hub?.[Symbol.asyncDispose]();
  scratch[Symbol.dispose]();
});

describe('a hub id', () => {
  it('may have a revision or a file', () => {
    expect(parseHubModel('a/b')).toEqual({ id: 'a/b', revision: 'main', file: undefined });
    expect(parseHubModel('a/b@v1.0')).toEqual({ id: 'a/b', revision: 'v1.0', file: undefined });
    expect(parseHubModel('a/b.c/x-Q4_K_M.gguf')).toEqual({ id: 'a/b.c', revision: 'main', file: 'x-Q4_K_M.gguf' });
    expect(parseHubModel('a/b@r/sub/x.gguf')).toEqual({ id: 'a/b', revision: 'r', file: 'sub/x.gguf' });
    for (const bad of ['a', './a/b', 'a/b/c', '../b', 'a/..', '/a/b', 'a/b/../x.gguf', 'a/b/.x.gguf', 'a b/c', '']) {
      expect(parseHubModel(bad), bad).toBeUndefined();
    }
  });
});

describe('downloading from the hub', () => {
  it('brings the files a model needs, whole, and asks no more when they are there', async () => {
    await start();
    const seen: LoadProgress[] = [];
    const directory = await locate(ID, { onProgress: (progress) => seen.push({ ...progress }) });
    expect((await readdir(directory)).sort()).toEqual([
      'chat_template.jinja',
      'config.json',
      'model.safetensors',
      'tokenizer.json',
    ]);
    expect(readFileSync(join(directory, 'model.safetensors')).equals(WEIGHTS)).toBe(true);
    const total = WEIGHTS.length + FILES['config.json']!.length + FILES['tokenizer.json']!.length;
    expect(seen.at(-1)).toEqual({ stage: 'download', item: ID, done: total, total });
    expect(seen.every(({ done }, i) => i === 0 || done >= seen[i - 1]!.done)).toBe(true);
    expect(await readdir(join(scratch.path, 'hub'))).toEqual(['owner--tiny-model@main']);

    const count = hub.requests.length;
    expect(await locate()).toBe(directory);
    expect(hub.requests.length).toBe(count);
    expect(hub.tokens).toEqual(new Set([undefined]));
  });

  it('sends HF_TOKEN', async () => {
    vi.stubEnv('HF_TOKEN', 'hf_secret');
    await start();
    await locate();
    expect(hub.tokens).toEqual(new Set(['Bearer hf_secret']));
  });

  it('goes on where a connection broke', async () => {
    await start();
    hub.faults['model.safetensors'] = [{ breakAfter: 100_000 }, { breakAfter: 50_000 }];
    const directory = await locate();
    expect(readFileSync(join(directory, 'model.safetensors')).equals(WEIGHTS)).toBe(true);
    expect(hub.requests.filter((line) => line.includes('bytes=')).length).toBe(2);
  });

  it('goes on where an earlier run was aborted', async () => {
    await start();
    hub.faults['model.safetensors'] = [{ silentAfter: 120_000 }];
    const abort = new AbortController();
    const aborted = locate(ID, {
      signal: abort.signal,
      onProgress: ({ done }) => done > 120_000 && abort.abort(new Error('enough')),
    });
    await expect(aborted).rejects.toThrow('enough');
    expect(readFileSync(part()).length).toBe(120_000);
    await locate();
    expect(hub.requests.at(-1)).toContain('bytes=120000-');
  });

  it('clears away what was kept of another state of the repository', async () => {
    await start();
    const other = part().replaceAll(COMMIT.slice(0, 12), 'ffffffffffff');
    await mkdir(join(other, '..'), { recursive: true });
    await writeFile(other, 'old');
    await locate();
    expect(await readdir(join(scratch.path, 'hub'))).toEqual(['owner--tiny-model@main']);
  });

  it('begins again when a server ignores ranges, or what was kept is not of this file', async () => {
    await start();
    await mkdir(join(part(), '..'), { recursive: true });
    await writeFile(part(), WEIGHTS.subarray(0, 5_000));
    hub.faults['model.safetensors'] = [{ ignoreRange: true }];
    let directory = await locate();
    expect(readFileSync(join(directory, 'model.safetensors')).equals(WEIGHTS)).toBe(true);

    for (const kept of [Buffer.alloc(5_000), Buffer.alloc(WEIGHTS.length), Buffer.alloc(WEIGHTS.length + 9)]) {
      scratch[Symbol.dispose]();
      await mkdir(join(part(), '..'), { recursive: true });
      await writeFile(part(), kept);
      directory = await locate();
      expect(readFileSync(join(directory, 'model.safetensors')).equals(WEIGHTS)).toBe(true);
    }
  });

  it.each([
    ['large files (SHA-256)', 'model.safetensors'],
    ['small files (git)', 'config.json'],
  ])('refuses bytes with another checksum: %s', async (_, file) => {
    await start();
    hub.faults[file] = [{ corrupt: true }];
    await expect(locate()).rejects.toThrow('another checksum');
    expect(existsSync(join(scratch.path, 'hub', 'owner--tiny-model@main'))).toBe(false);
    await locate(); // and does better next time
  });

  it('tries again when the server is busy, and gives up when it stays so', async () => {
    await start();
    hub.faults['config.json'] = [{ status: 503 }, { status: 429 }];
    await locate();
    scratch[Symbol.dispose]();
    hub.faults['config.json'] = [{ status: 503 }, { status: 503 }, { status: 503 }];
    await expect(locate()).rejects.toThrow('the server answered 503');
    hub.faults['config.json'] = [{ status: 403 }];
    await expect(locate()).rejects.toThrow('your token may not read this model');
  });

  it('is shared by callers at the same time', async () => {
    await start();
    const paths = await Promise.all([locate(), locate(), locate()]);
    expect(new Set(paths).size).toBe(1);
    expect(hub.requests.filter((line) => line.includes('model.safetensors')).length).toBe(1);
  });

  it('takes the GGUF file where there are no safetensors, and asks which when there are several', async () => {
    const gguf = tinyGguf();
    await start({ 'README.md': Buffer.from('x'), 'tiny.gguf': gguf });
    {
      using checkpoint = await openCheckpoint(ID, { cacheDir: scratch.path });
      expect(checkpoint.config.layers).toBe(2);
    }
    await hub[Symbol.asyncDispose]();
    scratch[Symbol.dispose]();
    await start({ 'a-Q4_0.gguf': gguf, 'a-Q8_0.gguf': gguf });
    await expect(locate()).rejects.toThrow(`name one, as in ${ID}/FILE (a-Q4_0.gguf, a-Q8_0.gguf)`);
    expect(await locate(`${ID}/a-Q8_0.gguf`)).toMatch(/a-Q8_0\.gguf$/);
    await expect(locate(`${ID}/b.gguf`)).rejects.toThrow('has no file b.gguf (a-Q4_0.gguf');
  });

  it('brings all shards', async () => {
    const shards = {
      'model-00001-of-00002.safetensors': Buffer.from('one'),
      'model-00002-of-00002.safetensors': Buffer.from('two'),
    };
    await start({ 'config.json': Buffer.from('{}'), 'model.safetensors.index.json': Buffer.from('{}'), ...shards });
    expect((await readdir(await locate())).sort()).toEqual([
      'config.json',
      ...Object.keys(shards),
      'model.safetensors.index.json',
    ]);
  });
});

describe('a hub that is not there', () => {
  const failure = async (source = ID): Promise<ModelNotFoundError> => {
    const error = await locate(source).catch((error: unknown) => error);
    expect(error).toBeInstanceOf(ModelNotFoundError);
    return error as ModelNotFoundError;
  };

  it('is a reason in the error, which says what else to pass', async () => {
    vi.stubEnv('HF_ENDPOINT', 'http://127.0.0.1:9');
    const error = await failure();
    expect(error.attempts.map(({ source }) => source)).toEqual([`path ${ID}`, `hub ${ID}`]);
    expect(error.message).toMatch(/hub owner\/tiny-model: http:\/\/127\.0\.0\.1:9: .+/);
    expect(error.message).toContain('random:llama-3.2-1b');
  });

  it('does not know the model', async () => {
    await start();
    expect((await failure('owner/other')).message).toContain('there is no such model or file');
  });

  it('is not asked when HF_HUB_OFFLINE is set', async () => {
    await start();
    vi.stubEnv('HF_HUB_OFFLINE', '1');
    expect((await failure()).message).toContain('HF_HUB_OFFLINE is set');
    expect(hub.requests).toEqual([]);
  });

  it('costs seconds when it accepts connections and says nothing', async () => {
    const silent = createServer(() => {});
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    vi.stubEnv('HF_ENDPOINT', `http://127.0.0.1:${(silent.address() as { port: number }).port}`);
    const began = performance.now();
    expect((await failure()).message).toContain('did not answer within 5 s');
    expect(performance.now() - began).toBeLessThan(9_000);
    silent.close();
  });

  it('is a dead connection when nothing arrives for long', async () => {
    await start();
    hub.faults['model.safetensors'] = [10, 0, 0, 0].map((silentAfter) => ({ silentAfter }));
    const path = join(scratch.path, 'file');
    const request = { url: `${hub.url}/${ID}/resolve/${COMMIT}/model.safetensors`, headers: {}, path, stallMs: 100 };
    await expect(downloadFile(request)).rejects.toThrow('no data for 0.1 s');
  });

  it('is not asked by an aborted call', async () => {
    await start();
    await expect(locate(ID, { signal: AbortSignal.abort(new Error('no')) })).rejects.toThrow('no');
    expect(hub.requests).toEqual([]);
  });

  it('is not asked for a path', async () => {
    await start();
    const error = await failure('./models/nothing');
    expect(error.attempts.map(({ source }) => source)).toEqual(['path ./models/nothing', 'name ./models/nothing']);
    expect(hub.requests).toEqual([]);
  });
});
