import { existsSync, readdirSync, readFileSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { AttentionOptions, LoadOptions } from '../src/api.js';
import type { EngineRequest } from '../src/engine.js';
import { KeptIndexes } from '../src/kept-indexes.js';
import { createModelHost } from '../src/model-host.js';
import { temporaryDirectory } from './checkpoint/temporary-directory.js';
import {
  cachedTokensOf as cachedTokens,
  joinTokens,
  type Outcome,
  runOne as run,
  streamOf as stream,
} from './collect.js';
import { hashedIntegers } from './hashed-values.js';
import { randomCheckpoint, tensorShapes } from './random-checkpoint.js';
import { config, host as sampledHost } from './sampled-model.js';

const SAMPLED: AttentionOptions = { policy: 'magicpig', K: 6, L: 40, minContext: 0, window: 16 };
const words = (name: string, tokens: number) => hashedIntegers(`snapshots/${name}`, tokens, config.vocabSize);
const request = (prompt: Int32Array, attention: AttentionOptions = SAMPLED): EngineRequest => ({
  prompt,
  attention,
  maxTokens: 30,
  ignoreEos: true,
});

let temporary: { path: string } & Disposable;
let directory: string;
let warnings: string[];

beforeEach(() => {
  temporary = temporaryDirectory();
  directory = temporary.path;
  warnings = [];
  vi.spyOn(process, 'emitWarning').mockImplementation((message) => void warnings.push(String(message)));
});
afterEach(() => {
  vi.restoreAllMocks();
  temporary[Symbol.dispose]();
});

const host = (options: LoadOptions = {}) => sampledHost({ snapshotDir: directory, ...options });
const files = (ending: string) => readdirSync(directory).filter((name) => name.endsWith(ending));

/** Runs requests in a model that then ends as a closed one does. */
async function session(requests: EngineRequest[], options: LoadOptions = {}): Promise<Outcome[]> {
  using parts = await host(options);
  const outcomes = requests.map((one) => run(parts, one));
  while (parts.engine.saveSnapshot());
  return outcomes;
}

describe('snapshots', () => {
  it.each([
    ['dense', { policy: 'dense' }],
    ['magicpig', SAMPLED],
    ['sketch', { policy: 'sketch', minContext: 0, window: 16 }],
  ] as [string, AttentionOptions][])('bring prompts back after a restart, bit for bit: %s', async (_, attention) => {
    const prefixCache = 'prompts';
    const document = words('document', 700);
    const one = request(joinTokens(document, words('question', 40)), attention);
    const other = request(joinTokens(document, words('another question', 60)), attention);
    const [before] = await session([one], { prefixCache });
    const [again, another] = await session([one, other], { prefixCache });
    expect(cachedTokens(again!)).toBe(704);
    expect(stream(again!)).toEqual(stream(before!));
    using fresh = await host({ prefixCache: 'off' });
    expect(cachedTokens(another!)).toBe(640);
    expect(stream(another!)).toEqual(stream(run(fresh, other)));
    expect(warnings).toEqual([]);
  });

  it('bring hash tables back, which are not built again', async () => {
    const one = request(words('tables', 1500));
    await session([one], { prefixCache: 'prompts' });
    using parts = await host({ prefixCache: 'prompts' });
    let indexed = 0;
    const readKeys = parts.cache.readKeys.bind(parts.cache);
    parts.cache.readKeys = (...[sequence, layer, head, begin, end, out]: Parameters<typeof readKeys>) => {
      indexed += end - begin;
      return readKeys(sequence, layer, head, begin, end, out);
    };
    run(parts, { ...one, maxTokens: 2 });
    // 1472 tokens are whole pages; the rest up to the window is added, in 3 layers of 2 KV heads.
    expect(indexed).toBe(6 * (1500 - 16 - 1472));
  });

  it('go on with a conversation, in one file', async () => {
    const prompt = words('system', 400);
    const [first] = await session([request(prompt)]);
    const longer = joinTokens(prompt, first!.tokens, words('more', 300));
    expect(files('.kv').length).toBe(1);
    const [second] = await session([request(longer)]);
    expect(cachedTokens(second!)).toBe(384);
    expect(files('.kv').length).toBe(1);
    expect(files('.json').length).toBe(1);
    const [third] = await session([request(joinTokens(longer, second!.tokens, words('end', 10)))]);
    expect(cachedTokens(third!)).toBe(704);
  });

  it('are not written again when nothing is new, nor for what is short', async () => {
    using parts = await host();
    run(parts, request(words('short', 120)));
    expect(parts.engine.saveSnapshot()).toBe(false);
    run(parts, request(words('long', 500)));
    expect(parts.engine.saveSnapshot()).toBe(true);
    expect(parts.engine.saveSnapshot()).toBe(false);
    run(parts, request(words('long', 400)));
    run(parts, request(words('long', 500)));
    expect(parts.engine.saveSnapshot()).toBe(false);
    expect(files('.kv').length).toBe(1);
  });

  it('of answers are of use to their own policy only', async () => {
    const prompt = words('policies', 300);
    const [first] = await session([request(prompt)]);
    const longer = joinTokens(prompt, first!.tokens, words('more', 100));
    const dense = request(longer, { policy: 'dense' });
    const [other] = await session([dense]);
    expect(cachedTokens(other!)).toBe(256);
    using fresh = await host({ prefixCache: 'off' });
    expect(stream(other!)).toEqual(stream(run(fresh, dense)));
  });

  it('stay within their bytes: the least recently used go, and other files stay', async () => {
    const texts = ['a', 'b', 'c'].map((name) => request(words(name, 600), { policy: 'dense' }));
    writeFileSync(join(directory, 'notes.txt'), 'mine');
    await session([texts[0]!]);
    const bytes = readdirSync(directory).reduce((sum, name) => sum + statSync(join(directory, name)).size, 0);
    const [a] = files('.json');
    await session([texts[1]!]);
    // As if a had been used last.
    utimesSync(join(directory, a!), new Date(), new Date(Date.now() + 5000));
    await session([texts[2]!], { snapshotBytes: Math.floor(bytes * 2.5) });
    expect(files('.kv').length).toBe(2);
    expect(existsSync(join(directory, a!))).toBe(true);
    const again = await session(texts, { snapshotBytes: Math.floor(bytes * 2.5) });
    expect(again.map(cachedTokens)).toEqual([576, 0, 576]);
    expect(readFileSync(join(directory, 'notes.txt'), 'utf8')).toBe('mine');
  });

  it('that would fill the directory alone are not written', async () => {
    await session([request(words('large', 600))], { snapshotBytes: 100_000 });
    expect(files('')).toEqual([]);
    expect(warnings).toEqual([]);
  });
});

describe('files of no use', () => {
  const one = request(words('damaged', 600));

  it.each([
    ['a damaged cache', '.kv', (bytes: Buffer) => bytes.fill(0x55, bytes.length >> 1, (bytes.length >> 1) + 1)],
    ['half a cache', '.kv', (bytes: Buffer) => bytes.subarray(0, bytes.length >> 1)],
    ['an empty cache', '.kv', () => Buffer.alloc(0)],
    ['a damaged description', '.json', (bytes: Buffer) => bytes.fill('9', 200, 201)],
    ['half a description', '.json', (bytes: Buffer) => bytes.subarray(0, bytes.length >> 1)],
    ['another JSON file', '.json', () => Buffer.from('{"tokens": 1}')],
    ['no JSON at all', '.json', () => Buffer.from('null')],
  ])('are removed with a warning: %s', async (_, ending, damage) => {
    const [before] = await session([one]);
    const path = join(directory, files(ending)[0]!);
    writeFileSync(path, damage(readFileSync(path)));
    using parts = await host();
    const outcome = run(parts, one);
    expect(cachedTokens(outcome)).toBe(0);
    expect(stream(outcome)).toEqual(stream(before!));
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toContain(path.slice(0, path.lastIndexOf('.')));
    expect(files('')).toEqual([]);
    // And the next snapshot takes their place.
    expect(parts.engine.saveSnapshot()).toBe(true);
    expect(files('.kv').length).toBe(1);
  });

  it('are removed: the cache of another description', async () => {
    await session([one, request(words('other', 600))]);
    const [a, b] = files('.kv').map((name) => join(directory, name));
    const swapped = readFileSync(a!);
    writeFileSync(a!, readFileSync(b!));
    writeFileSync(b!, swapped);
    const [outcome] = await session([one]);
    expect(cachedTokens(outcome!)).toBe(0);
    expect(warnings[0]).toMatch(/not the cache that its description is of/);
  });

  it('of another model or format are left alone', async () => {
    await session([one]);
    const other = randomCheckpoint({ name: 'another model', config, tensors: tensorShapes(config) });
    using parts = await createModelHost(other, { cacheBytes: 2 ** 28, snapshotDir: directory });
    expect(cachedTokens(run(parts, one))).toBe(0);
    using float32 = await host({ weights: 'f32' });
    expect(cachedTokens(run(float32, one))).toBe(0);
    expect(files('.kv').length).toBe(1);
    expect(warnings).toEqual([]);
  });

  it('lose only their tables when those cannot be read', async () => {
    const long = request(words('tables', 1500));
    const [before] = await session([long]);
    vi.spyOn(KeptIndexes, 'load').mockImplementation(() => {
      throw new Error('tables of another version');
    });
    const [outcome] = await session([long]);
    expect(cachedTokens(outcome!)).toBeGreaterThan(1400);
    expect(stream(outcome!)).toEqual(stream(before!));
    expect(warnings).toEqual([expect.stringMatching(/of no use and is removed: tables of another version/)]);
  });

  it('are of no interest to a model that keeps nothing', async () => {
    const [outcome] = await session([one, one], { prefixCache: 'off' });
    expect(outcome!.end).toBeDefined();
    expect(files('')).toEqual([]);
  });

  it('that an interrupted process left are cleared away after a while', async () => {
    const old = new Date(Date.now() - 3_600_000);
    const left = ['0123456789abcdef-0123456789abcdef.kv.tmp-7-0', '0123456789abcdef-0123456789abcdef.json.tmp'];
    for (const name of left) writeFileSync(join(directory, name), 'half');
    (await host())[Symbol.dispose]();
    expect(files('').length).toBe(2);
    for (const name of left) utimesSync(join(directory, name), old, old);
    (await host())[Symbol.dispose]();
    expect(files('')).toEqual([]);
  });

  it('cannot be written: a warning, once, and requests go on', async () => {
    using parts = await host();
    const outcome = run(parts, one);
    vi.spyOn(parts.cache as unknown as { save(): void }, 'save').mockImplementation(() => {
      throw new Error('no space left on device');
    });
    expect(parts.engine.saveSnapshot()).toBe(true);
    expect(parts.engine.saveSnapshot()).toBe(false);
    expect(warnings).toEqual([expect.stringMatching(/cannot be written: no space left on device/)]);
    expect(cachedTokens(run(parts, one))).toBeGreaterThan(0);
    expect(outcome.end).toBeDefined();
  });
});

it('a folder that cannot be used is refused', async () => {
  const file = join(directory, 'file');
  writeFileSync(file, '');
  await expect(host({ snapshotDir: file })).rejects.toMatchObject({ option: 'snapshotDir' });
});
