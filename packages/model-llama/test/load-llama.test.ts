// The worker is the built one (dist/worker.js): build the package before running these.
import { Worker } from 'node:worker_threads';
import { afterEach, describe, expect, it, vi } from 'vitest';
import type { AttentionOptions, GenerationEvent, LlamaModel, LoadOptions, LoadProgress } from '../src/api.js';
import { WorkerCrashedError } from '../src/engine-errors.js';
import {
  CacheTooSmallError,
  ContextTooLongError,
  EngineBusyError,
  InvalidRequestError,
  ModelClosedError,
  ModelNotFoundError,
} from '../src/errors.js';
import { loadLlama } from '../src/load-llama.js';

const open: LlamaModel[] = [];

async function load(options: LoadOptions = {}): Promise<LlamaModel> {
  const model = await loadLlama('random:tiny', { cacheBytes: 2 ** 26, threads: 1, ...options });
  open.push(model);
  return model;
}

afterEach(async () => {
  for (const model of open.splice(0)) await model.close();
});

const FOREVER = { maxTokens: 3000, ignoreEos: true };

async function collect(events: AsyncIterable<GenerationEvent>): Promise<GenerationEvent[]> {
  const all: GenerationEvent[] = [];
  for await (const event of events) all.push(event);
  return all;
}

/** Waits until nothing runs and the model's memory is free, but for what is kept. */
async function freed(model: LlamaModel): Promise<void> {
  await vi.waitFor(async () => {
    const { prefixBytes, ...stats } = await model.stats();
    expect(stats).toMatchObject({ running: 0, waiting: 0, cacheBytesUsed: prefixBytes });
  });
}

describe('loading', () => {
  it('tells what was loaded, and how it goes', async () => {
    const progress: LoadProgress[] = [];
    const model = await load({ onProgress: (event) => progress.push(event), contextTokens: 1000, weights: 'f32' });
    expect(model.info).toMatchObject({
      name: 'random:tiny',
      backend: 'cpu',
      threads: 1,
      weights: 'f32',
      contextTokens: 1000,
      cacheBytes: 2 ** 26,
      config: { layers: 3 },
    });
    const last = progress.at(-1)!;
    expect(last.stage).toBe('load');
    expect(last.done).toBe(last.total);
    expect(progress.map(({ done }) => done)).toEqual(Array.from({ length: last.total }, (_, i) => i + 1));
  });

  it.each([
    [ModelNotFoundError, 'random:nothing', {}],
    [InvalidRequestError, 'random:tiny', { threads: 0 }],
    [InvalidRequestError, 'random:tiny', { weights: 'int3' as 'f32' }],
    [InvalidRequestError, 'random:tiny', { backend: 'tpu' as 'cpu' }],
    [InvalidRequestError, 'random:tiny', { maxSequences: 0 }],
    [InvalidRequestError, 'random:tiny', { contextTokens: 1 }],
    [InvalidRequestError, 'random:tiny', { maxStallMs: 0 }],
    [InvalidRequestError, 'random:tiny', { prefixCache: 'some' as 'all' }],
    [InvalidRequestError, 'random:tiny', { attention: { policy: 'magicpig', denseLayers: [3] } as AttentionOptions }],
  ])('fails with %o for %s %j', async (error, source, options) => {
    await expect(loadLlama(source, options)).rejects.toThrow(error);
  });

  it('can be aborted', async () => {
    const reason = new Error('changed my mind');
    await expect(loadLlama('random:tiny', { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    const controller = new AbortController();
    const loading = loadLlama('random:smollm2-135m', {
      signal: controller.signal,
      onProgress: () => controller.abort(reason),
    });
    await expect(loading).rejects.toBe(reason);
  });
});

describe('generation in a worker', () => {
  it('streams events and ends', async () => {
    const model = await load();
    const events = await collect(model.generate('Hello', { maxTokens: 5, ignoreEos: true }));
    expect(events.map(({ type }) => type)).toEqual(['prefill', ...Array<string>(5).fill('token'), 'end']);
    const tokens = events.flatMap((event) => (event.type === 'token' ? [event.token] : []));
    const text = events.map((event) => (event.type === 'prefill' ? '' : event.text)).join('');
    expect(await model.detokenize(tokens)).toBe(text);
  });

  it('takes a conversation', async () => {
    const model = await load();
    const conversation = { messages: [{ role: 'user', content: 'Hi' }] };
    const ids = await model.tokenize(conversation);
    const events = await collect(model.generate(conversation, { maxTokens: 1, ignoreEos: true }));
    expect(events[0]).toEqual({ type: 'prefill', done: ids.length, total: ids.length });
  });

  it('takes token ids, and gives the same for the same', async () => {
    const model = await load();
    const ids = await model.tokenize('Hello');
    expect(ids).toBeInstanceOf(Int32Array);
    const options = { maxTokens: 20, ignoreEos: true, temperature: 1, seed: 5 };
    const tokens = async (prompt: string | Int32Array) =>
      (await collect(model.generate(prompt, options))).flatMap((event) =>
        event.type === 'token' ? [event.token] : [],
      );
    const [a, b, c] = await Promise.all([tokens('Hello'), tokens(ids), tokens('Hello')]);
    expect(a!.length).toBe(20);
    expect(b).toEqual(a);
    expect(c).toEqual(a);
  });

  it('fails one request with the error it met', async () => {
    const model = await load({ contextTokens: 100 });
    const fail = (...[prompt, options]: Parameters<LlamaModel['generate']>) => collect(model.generate(prompt, options));
    await expect(fail('Hello', { topP: 2 })).rejects.toThrow(InvalidRequestError);
    await expect(fail('x'.repeat(200))).rejects.toThrow(ContextTooLongError);
    await expect(fail('x'.repeat(200))).rejects.toMatchObject({ code: 'CONTEXT_TOO_LONG', limit: 100 });
    await expect(fail(42 as unknown as string)).rejects.toThrow(InvalidRequestError);
    expect((await fail('Hello', { maxTokens: 1 })).at(-1)!.type).toBe('end');
  });

  it('refuses more than the queue holds', async () => {
    const model = await load({ maxSequences: 1, maxQueue: 0 });
    const first = model.generate('Hello', FOREVER)[Symbol.asyncIterator]();
    await first.next();
    await expect(collect(model.generate('Hello', FOREVER))).rejects.toThrow(EngineBusyError);
    await first.return!();
  });

  it('frees memory when the loop is left', async () => {
    const model = await load();
    for await (const event of model.generate('Hello', FOREVER)) if (event.type === 'token') break;
    await freed(model);
  });

  it('throws the reason of an abort, running, waiting or before the start', async () => {
    const model = await load({ maxSequences: 1 });
    const reason = new Error('gone');
    const running = new AbortController();
    const waiting = new AbortController();
    const first = collect(model.generate('Hello', { ...FOREVER, signal: running.signal }));
    const second = collect(model.generate('Hello', { ...FOREVER, signal: waiting.signal }));
    await vi.waitFor(async () => expect(await model.stats()).toMatchObject({ running: 1, waiting: 1 }));
    waiting.abort(reason);
    await expect(second).rejects.toBe(reason);
    expect(await model.stats()).toMatchObject({ running: 1, waiting: 0 });
    running.abort(reason);
    await expect(first).rejects.toBe(reason);
    await freed(model);
    await expect(collect(model.generate('Hello', { signal: AbortSignal.abort(reason) }))).rejects.toBe(reason);
  });

  it('stops for an abort even when nobody reads', async () => {
    const model = await load();
    const controller = new AbortController();
    const events = model.generate('Hello', { ...FOREVER, signal: controller.signal })[Symbol.asyncIterator]();
    await events.next();
    controller.abort();
    await freed(model);
    await expect(events.next()).rejects.toThrow(/aborted/);
    expect(await events.next()).toEqual({ done: true, value: undefined });
  });

  it('keeps events for a slow reader', async () => {
    const model = await load();
    const events = model.generate('Hello', { maxTokens: 10, ignoreEos: true })[Symbol.asyncIterator]();
    await events.next();
    await freed(model);
    let count = 1;
    while (!(await events.next()).done) count += 1;
    expect(count).toBe(12);
  });

  it('ends a waiting read when the iterator is closed', async () => {
    const model = await load({ maxSequences: 1 });
    const first = model.generate('Hello', FOREVER)[Symbol.asyncIterator]();
    await first.next();
    const second = model.generate('Hello', FOREVER)[Symbol.asyncIterator]();
    const read = second.next();
    await second.return!();
    expect(await read).toEqual({ done: true, value: undefined });
    await first.return!();
    await freed(model);
  });
});

describe('profile', () => {
  const operators = (entries: { operator: string; detail: string }[]) =>
    entries.map(({ operator, detail }) => (operator === 'attend' ? `attend ${detail}` : operator));

  it('says where the time of prefill and of decode went, since the last call', async () => {
    const model = await load({ profile: true, weights: 'bf16' });
    const { layers, kvHeads, queryHeads, headDim } = model.info.config;
    const prompt = Int32Array.from({ length: 200 }, (_, i) => i);
    const attention = { policy: 'magicpig', minContext: 0 } as const;
    await collect(model.generate(prompt, { maxTokens: 5, ignoreEos: true, attention }));
    const { prefill, decode, ceilings, table } = await model.profile();

    expect(new Set(operators(prefill))).toEqual(
      new Set([
        'embed',
        'ropeTable',
        'rope',
        'linear',
        'linearGated',
        'copyRows',
        'append',
        'attend exact',
        'index',
        'other',
      ]),
    );
    const exact = prefill.find(({ operator }) => operator === 'attend')!;
    expect(exact).toMatchObject({ calls: layers, rows: layers * 200 });
    expect(exact.bytes).toBe(layers * 200 * kvHeads * headDim * 2 * 2);
    expect(exact.operations).toBe(layers * ((200 * 201) / 2) * queryHeads * headDim * 4);

    // One layer of three is dense; each decode step attends to one key more.
    const dense = decode.find(({ operator, detail }) => operator === 'attend' && detail === 'exact')!;
    const sampled = decode.find(({ operator, detail }) => operator === 'attend' && detail === 'sampled')!;
    expect(dense).toMatchObject({ calls: 4, rows: 4, bytes: (201 + 202 + 203 + 204) * kvHeads * headDim * 2 * 2 });
    expect(sampled).toMatchObject({ calls: 8, rows: 8 });
    expect(sampled.operations).toBeGreaterThan(0);
    expect(sampled.operations).toBeLessThan(2 * dense.operations);
    expect(decode.find(({ operator }) => operator === 'linearGated')).toMatchObject({
      calls: 4 * layers,
      format: 'bf16',
    });

    expect(ceilings.readBandwidth).toBeGreaterThan(0);
    expect(table).toMatch(
      /^Steps with prompt tokens\noperator[\s\S]*\n\nSteps with decoded tokens only\noperator[\s\S]*attend sampled/,
    );
    expect(await model.profile()).toMatchObject({ prefill: [], decode: [], table: '' });
  });

  it('is refused when nothing was measured', async () => {
    await expect((await load()).profile()).rejects.toThrow(InvalidRequestError);
  });
});

describe('the state of a model', () => {
  it('is there at once, whatever its thread is at', async () => {
    const model = await load({ maxSequences: 1 });
    expect(model.status()).toEqual({ ...(await model.stats()), stepMs: 0 });
    const events = model.generate('Hello', FOREVER)[Symbol.asyncIterator]();
    await events.next();
    await vi.waitFor(() => expect(model.status()).toMatchObject({ running: 1, waiting: 0 }));
    expect(model.status().cacheBytesUsed).toBeGreaterThan(0);
    await vi.waitFor(() => expect(model.status().stepMs).toBeGreaterThan(0));
    await events.return!();
    await freed(model);
    expect(model.status().running).toBe(0);
    await model.close();
    expect(() => model.status()).toThrow(ModelClosedError);
  });

  it('tells what memory goes to', async () => {
    const first = await load();
    const { weights, scratch } = first.info.memory;
    // Embedding and output matrix alone, in bfloat16.
    expect(weights).toBeGreaterThan(2 * 2 * first.info.config.vocabSize * first.info.config.hiddenSize);
    expect(scratch).toBeGreaterThan(512 * 4 * first.info.config.hiddenSize);
    const memoryBytes = weights + scratch + 2 ** 25;
    const second = await load({ cacheBytes: undefined as unknown as number, memoryBytes });
    expect(second.info.cacheBytes).toBe(2 ** 25);
    await expect(load({ cacheBytes: undefined as unknown as number, memoryBytes: weights })).rejects.toThrow(
      CacheTooSmallError,
    );
    await expect(load({ memoryBytes })).rejects.toThrow(/memoryBytes includes cacheBytes/);
  });
});

describe('what is asked for wrongly', () => {
  it.each(['thread', 'weight', '__proto__x'])('is refused: %s is no option of loading', async (option) => {
    const error = await load({ [option]: 1 } as LoadOptions).catch((error: unknown) => error);
    expect(error).toBeInstanceOf(InvalidRequestError);
    expect(error).toMatchObject({
      option,
      message: expect.stringMatching(/is not an option; there are: backend, .*threads/),
    });
  });

  it('is refused: other names, what no thread could be sent, and a conversation without messages', async () => {
    const model = await load();
    const generate = (options: object) => collect(model.generate('Hello', { maxTokens: 1, ...options }));
    const refusals: [Promise<unknown>, RegExp][] = [
      [generate({ maxToken: 3 }), /^maxToken is not an option; there are: maxTokens, temperature/],
      [generate({ stop: [() => 'x'] }), /plain data/],
      [model.forward('Hello', { layers: [1] } as object), /^layers is not an option; there are: logits, from/],
      [
        model.forward('Hello', { tap: { query: true } } as object),
        /^tap\.query is not an option; there are: layers, queries/,
      ],
      [model.forward('Hello', { from: (() => 1) as unknown as number }), /plain data/],
      [model.tokenize({ messages: [] }), /at least one/],
      [collect(model.generate({ messages: [] })), /at least one/],
    ];
    for (const [refused, reason] of refusals) {
      const error = await refused.catch((error: unknown) => error);
      expect(error).toBeInstanceOf(InvalidRequestError);
      expect((error as Error).message).toMatch(reason);
    }
    expect(await model.stats()).toMatchObject({ running: 0, waiting: 0 });
    expect((await generate({})).length).toBeGreaterThan(0);
  });
});

describe('the end of a model', () => {
  it('by close fails what runs, and what comes later', async () => {
    const model = await load();
    const running = collect(model.generate('Hello', FOREVER));
    await vi.waitFor(async () => expect(await model.stats()).toMatchObject({ running: 1 }));
    const closed = model.close();
    await expect(running).rejects.toThrow(ModelClosedError);
    await closed;
    await expect(collect(model.generate('Hello'))).rejects.toThrow(ModelClosedError);
    await expect(model.stats()).rejects.toThrow(ModelClosedError);
    await model.close();
  });

  it('by a crash of its thread fails them with a typed error', async () => {
    const terminate = vi.spyOn(Worker.prototype, 'on');
    const model = await load();
    const worker = terminate.mock.contexts.at(-1) as unknown as Worker;
    terminate.mockRestore();
    const running = collect(model.generate('Hello', FOREVER));
    await vi.waitFor(async () => expect(await model.stats()).toMatchObject({ running: 1 }));
    await worker.terminate();
    await expect(running).rejects.toThrow(WorkerCrashedError);
    await expect(model.stats()).rejects.toThrow(WorkerCrashedError);
    await expect(collect(model.generate('Hello'))).rejects.toThrow(WorkerCrashedError);
    await model.close();
  });
});
