import { describe, expect, it } from 'vitest';
import type { AttentionOptions } from '../src/api.js';
import type { EngineRequest } from '../src/engine.js';
import { CacheTooSmallError } from '../src/errors.js';
import type { ModelHost } from '../src/model-host.js';
import { random } from './checkpoint/seeded-random.js';
import {
  cachedTokensOf as cachedTokens,
  joinTokens as join,
  type Outcome,
  runOne as run,
  runAll,
  streamOf as stream,
  submit,
} from './collect.js';
import { hashedIntegers } from './hashed-values.js';
import { config, host } from './sampled-model.js';

const words = (name: string, tokens: number) => hashedIntegers(`prefix-reuse/${name}`, tokens, config.vocabSize);

const DENSE: AttentionOptions = { policy: 'dense' };
const SAMPLED: AttentionOptions = { policy: 'magicpig', K: 6, L: 40, minContext: 0, window: 16 };
const SKETCH: AttentionOptions = { policy: 'sketch', minContext: 0, window: 16 };
const request = (prompt: Int32Array, attention: AttentionOptions, maxTokens = 40): EngineRequest => ({
  prompt,
  attention,
  maxTokens,
  ignoreEos: true,
  temperature: 0.7,
});

/** What a request gets from an engine that has seen nothing before. */
async function fresh(one: EngineRequest): Promise<Outcome> {
  using parts = await host({ prefixCache: 'off' });
  return run(parts, one);
}

function bytesNeeded(refused: () => void): number {
  try {
    refused();
  } catch (error) {
    if (error instanceof CacheTooSmallError) return error.bytes;
  }
  throw new Error('it was not refused');
}

describe.each([
  ['dense', DENSE],
  ['magicpig', SAMPLED],
  ['sketch', SKETCH],
  ['magicpig with a sampled question', { ...SAMPLED, sampledPromptTokens: 70 } as AttentionOptions],
])('%s: reusing prompts changes nothing', (_, attention) => {
  it('for the same prompt again', async () => {
    using parts = await host({ prefixCache: 'prompts' });
    const one = request(words('again', 600), attention);
    const [first, second] = [run(parts, one), run(parts, one)];
    expect(stream(first)).toEqual(stream(await fresh(one)));
    expect(stream(second)).toEqual(stream(first));
    expect(second.end!.attention).toEqual(first.end!.attention);
    expect(cachedTokens(first)).toBe(0);
    expect(cachedTokens(second)).toBeGreaterThanOrEqual(512);
    expect(second.events[0]).toMatchObject({ type: 'prefill', total: 600 });
  });

  it('for other questions about the same document', async () => {
    using parts = await host({ prefixCache: 'prompts' });
    const document = words('document', 700);
    for (let question = 0; question < 4; question += 1) {
      const one = request(join(document, words(`question ${question}`, 30 + 50 * question)), attention);
      const outcome = run(parts, one);
      expect(stream(outcome)).toEqual(stream(await fresh(one)));
      expect(cachedTokens(outcome)).toBe(question === 0 ? 0 : 640);
    }
  });

  it('for an answer that becomes much longer than its prompt', async () => {
    using parts = await host({ prefixCache: 'prompts' });
    const one = request(words('long answer', 200), attention, 500);
    const [first, second] = [run(parts, one), run(parts, one)];
    expect(stream(first)).toEqual(stream(await fresh(one)));
    expect(stream(second)).toEqual(stream(first));
    const longer = request(join(one.prompt, first.tokens, words('more', 50)), attention);
    expect(stream(run(parts, longer))).toEqual(stream(await fresh(longer)));
  });

  it('for prompts of all lengths around a page', async () => {
    using parts = await host({ prefixCache: 'prompts' });
    run(parts, request(words('lengths', 200), attention, 1));
    for (const length of [63, 64, 65, 66, 67, 127, 128, 129, 130, 192, 193, 194]) {
      const one = request(words('lengths', 200).subarray(0, length), attention, 3);
      expect(stream(run(parts, one))).toEqual(stream(await fresh(one)));
    }
  });

  it('for requests that come at once', async () => {
    using parts = await host({ prefixCache: 'prompts', maxSequences: 4 });
    const document = words('crowd', 1500);
    const requests = [0, 1, 2, 3].map((i) => request(join(document, words(`crowd ${i}`, 20 + i)), attention, 20));
    const outcomes = runAll(parts.engine, requests);
    for (const [i, one] of requests.entries()) expect(stream(outcomes[i]!)).toEqual(stream(await fresh(one)));
    // One of them has read the document, the others followed at its heels.
    const sum = outcomes.reduce((all, outcome) => all + cachedTokens(outcome), 0);
    expect(sum).toBeGreaterThan(3 * 1300);
  });
});

describe('a conversation', () => {
  const turns = async (parts: ModelHost, attention: AttentionOptions) => {
    const seen: { one: EngineRequest; outcome: Outcome }[] = [];
    let text = words('system', 300);
    for (let turn = 0; turn < 4; turn += 1) {
      text = join(text, words(`user ${turn}`, 50));
      const one = request(text, attention, 100);
      const outcome = run(parts, one);
      seen.push({ one, outcome });
      text = join(text, outcome.tokens);
    }
    return seen;
  };

  it('with prompts reused gets the same answers as without', async () => {
    using parts = await host({ prefixCache: 'prompts' });
    for (const { one, outcome } of await turns(parts, SAMPLED)) {
      expect(stream(outcome)).toEqual(stream(await fresh(one)));
    }
  });

  it.each([
    ['dense', DENSE],
    ['magicpig', SAMPLED],
    ['sketch', SKETCH],
  ])('goes on from its own answers: %s', async (_, attention) => {
    using parts = await host();
    const seen = await turns(parts, attention);
    expect(seen.map(({ outcome }) => cachedTokens(outcome))).toEqual([0, 448, 576, 704]);
    // Every token of it is in the cache once.
    using once = await host({ prefixCache: 'prompts' });
    const last = seen.at(-1)!.one;
    run(once, request(join(last.prompt, seen.at(-1)!.outcome.tokens), attention, 1));
    expect(parts.cache.bytes).toBe(once.cache.bytes);
  });

  it('does not go on from answers that another policy gave', async () => {
    using parts = await host();
    const prompt = words('policies', 300);
    const sampled = run(parts, request(prompt, SAMPLED, 200));
    const dense = request(join(prompt, sampled.tokens), DENSE);
    const outcome = run(parts, dense);
    expect(cachedTokens(outcome)).toBe(256);
    expect(stream(outcome)).toEqual(stream(await fresh(dense)));
    const other = request(join(prompt, sampled.tokens), { ...SAMPLED, seed: 1 } as AttentionOptions);
    expect(stream(run(parts, other))).toEqual(stream(await fresh(other)));
  });
});

describe('tables', () => {
  /** Runs questions about one document at once; the keys that were indexed for them. */
  function indexing(parts: ModelHost, attention: AttentionOptions) {
    let indexed = 0;
    const readKeys = parts.cache.readKeys.bind(parts.cache);
    parts.cache.readKeys = (...[sequence, layer, head, begin, end, out]: Parameters<typeof readKeys>) => {
      indexed += end - begin;
      return readKeys(sequence, layer, head, begin, end, out);
    };
    const document = words('tables', 1500);
    return (...questions: string[]) => {
      indexed = 0;
      runAll(
        parts.engine,
        questions.map((question) => request(join(document, words(question, 20)), attention, 2)),
      );
      return indexed;
    };
  }

  const heads = 3 * config.kvHeads;
  const all = heads * (1520 - 4 - 16);
  // 1472 tokens are whole pages; the rest up to the window is added.
  const rest = heads * (1520 - 16 - 1472);

  it.each([
    ['magicpig', SAMPLED],
    ['sketch', SKETCH],
  ])('are gone on from, not built again: %s', async (_, attention) => {
    using parts = await host({ prefixCache: 'prompts' });
    const keys = indexing(parts, attention);
    expect(keys('first')).toBe(all);
    expect(keys('second')).toBe(rest);
    expect(keys('first')).toBe(rest);
  });

  it.each([
    ['magicpig', SAMPLED],
    ['sketch', SKETCH],
  ])('are shared by all that begin alike, also while they are being built: %s', async (_, attention) => {
    using parts = await host({ prefixCache: 'prompts' });
    const keys = indexing(parts, attention);
    expect(keys('first', 'second', 'third', 'fourth')).toBe(all + 3 * rest);
    expect(keys('fifth', 'sixth')).toBe(2 * rest);
  });

  it.each([
    ['magicpig', SAMPLED],
    ['sketch', SKETCH],
  ])(
    'of requests that run at the same time are there once, and give what each gets alone: %s',
    async (_, attention) => {
      const document = words('at once', 2400);
      const requests = [0, 1, 2, 3].map((i) => request(join(document, words(`at once ${i}`, 30)), attention, 40));
      const tableBytes = ({ engine, cache }: ModelHost) => engine.stats.cacheBytesUsed - cache.bytes;
      /** Runs until all have written some tokens. */
      const decode = (parts: ModelHost, outcomes: Outcome[]) => {
        while (outcomes.some(({ tokens }) => tokens.length < 5)) parts.engine.step();
      };
      const alone: { bytes: number; outcome: Outcome }[] = [];
      for (const one of requests) {
        using parts = await host({ prefixCache: 'prompts' });
        const { outcome } = submit(parts.engine, one);
        decode(parts, [outcome]);
        alone.push({ bytes: tableBytes(parts), outcome });
        while (parts.engine.step());
      }
      using parts = await host({ prefixCache: 'prompts', maxSequences: 4 });
      const first = submit(parts.engine, requests[0]!).outcome;
      const second = submit(parts.engine, requests[1]!).outcome;
      decode(parts, [first, second]);
      // Those that come later find what the others have.
      const outcomes = [
        first,
        second,
        submit(parts.engine, requests[2]!).outcome,
        submit(parts.engine, requests[3]!).outcome,
      ];
      decode(parts, outcomes);
      expect(parts.engine.stats.running).toBe(4);
      expect(tableBytes(parts)).toBeLessThan(2 * alone[0]!.bytes); // what each has alone is copied in part
      while (parts.engine.step());
      for (const [i, { outcome }] of alone.entries()) expect(stream(outcomes[i]!)).toEqual(stream(outcome));
    },
  );

  it('around different means are not shared', async () => {
    using parts = await host({ prefixCache: 'prompts' });
    const document = words('means', 1500);
    const requests = [20, 400].map((question) => request(join(document, words('means', question)), SAMPLED, 20));
    const outcomes = runAll(parts.engine, requests);
    for (const [i, one] of requests.entries()) expect(stream(outcomes[i]!)).toEqual(stream(await fresh(one)));
  });
});

describe('memory', () => {
  it('that is kept gives way to requests, oldest first', async () => {
    using sizes = await host();
    const page = sizes.cache.bytesFor(1);
    using parts = await host({ cacheBytes: 20 * page, prefixCache: 'all' });
    const one = (name: string, pages: number) => request(words(name, pages * 64 - 10), DENSE, 10);
    for (const name of ['a', 'b', 'c']) run(parts, one(name, 6));
    expect(parts.engine.stats.prefixBytes).toBe(15 * page); // whole pages
    expect(cachedTokens(run(parts, one('a', 6)))).toBe(5 * 64);
    run(parts, one('d', 10)); // takes the place of b
    expect(parts.engine.stats.cacheBytesUsed).toBeLessThanOrEqual(20 * page);
    expect(cachedTokens(run(parts, one('a', 6)))).toBe(5 * 64);
    expect(cachedTokens(run(parts, one('b', 6)))).toBe(0);
  });

  it('is all there for a request that needs it, even what it would go on from', async () => {
    const larger = request(words('all of it', 64 * 9), SAMPLED, 64);
    using tiny = await host({ cacheBytes: 2 ** 17 });
    const cacheBytes = bytesNeeded(() => submit(tiny.engine, larger));
    // It fits, but not beside the tables of a shorter one.
    using parts = await host({ cacheBytes });
    run(parts, { ...larger, maxTokens: 2 });
    expect(parts.engine.stats.prefixBytes).toBeGreaterThan(cacheBytes / 4);
    expect(run(parts, larger).tokens.length).toBe(64);
  });

  it('of an aborted request is kept', async () => {
    using parts = await host();
    const one = request(words('aborted', 1500), DENSE);
    const { id } = submit(parts.engine, one);
    parts.engine.step();
    const { prefixBytes } = parts.engine.stats;
    parts.engine.abort(id);
    expect(parts.engine.stats).toMatchObject({ running: 0, cacheBytesUsed: prefixBytes, prefixBytes });
    expect(cachedTokens(run(parts, one))).toBe((prefixBytes / parts.cache.bytesFor(64)) * 64);
  });

  it('is in use no longer than its requests with the cache off', async () => {
    using parts = await host({ prefixCache: 'off' });
    run(parts, request(words('off', 300), SAMPLED));
    expect(parts.engine.stats).toMatchObject({ cacheBytesUsed: 0, prefixBytes: 0 });
  });
});

describe('many requests in little memory', () => {
  it('keep within it, get what they would get alone, and leave nothing behind', async () => {
    using sizes = await host();
    const cacheBytes = sizes.cache.bytesFor(64) * 60 + 2 ** 21;
    using parts = await host({ cacheBytes, prefixCache: 'prompts', maxSequences: 5 });
    const { engine } = parts;
    const next = random(7);
    const texts = [0, 1, 2].map((i) => words(`family ${i}`, 700));
    const policies: AttentionOptions[] = [DENSE, SAMPLED, { ...SAMPLED, sampledPromptTokens: 40 } as AttentionOptions];
    const sent: { one: EngineRequest; id: number; outcome: Outcome; aborted: boolean }[] = [];
    while (sent.length < 60 || !engine.idle) {
      if (sent.length < 60 && next(3) === 0) {
        const shared = texts[next(3)]!.subarray(0, 1 + next(700));
        const prompt = join(shared, words(`own ${sent.length}`, next(80)));
        const one = request(prompt, policies[next(3)]!, 1 + next(60));
        sent.push({ one, ...submit(engine, one), aborted: false });
      }
      if (next(20) === 0 && sent.length > 0) {
        const unlucky = sent[next(sent.length)]!;
        unlucky.aborted ||= !unlucky.outcome.end;
        engine.abort(unlucky.id);
      }
      engine.step();
      expect(engine.stats.cacheBytesUsed).toBeLessThanOrEqual(cacheBytes);
    }
    const { cacheBytesUsed, prefixBytes } = engine.stats;
    expect(cacheBytesUsed).toBe(prefixBytes);
    expect(sent.filter(({ aborted }) => aborted).length).toBeGreaterThan(5);
    using alone = await host({ prefixCache: 'off' });
    for (const { one, outcome, aborted } of sent) {
      expect(outcome.error).toBeUndefined();
      if (!aborted) expect(stream(outcome)).toEqual(stream(run(alone, one)));
    }
    expect(sent.some(({ outcome }) => outcome.end && cachedTokens(outcome) > 0)).toBe(true);
  });
});
