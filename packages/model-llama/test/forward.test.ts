// The worker is the built one (dist/worker.js): build the package before running these.
import { describe, expect, it } from 'vitest';
import type { BatchResult, ForwardOptions, LlamaModel, LoadOptions } from '../src/api.js';
import { ContextTooLongError, InvalidRequestError, ModelClosedError } from '../src/errors.js';
import { loadLlama } from '../src/load-llama.js';
import { submit } from './collect.js';
import { hashedIntegers } from './hashed-values.js';
import { relativeError } from './relative-error.js';
import { config, host as sampledHost } from './sampled-model.js';

const { layers, queryHeads, kvHeads, headDim, vocabSize } = config;
const host = (options: LoadOptions = {}) => sampledHost({ weights: 'f32', ...options });
const words = (name: string, tokens: number) => hashedIntegers(`forward/${name}`, tokens, vocabSize);

type Parts = Awaited<ReturnType<typeof host>>;

function forward({ engine }: Parts, prompt: Int32Array, { attention = { policy: 'dense' }, ...trace }: ForwardOptions) {
  const { outcome } = submit(engine, { prompt, maxTokens: 1, attention, trace });
  while (engine.step());
  if (outcome.error) throw outcome.error;
  return outcome.trace!;
}

describe('a forward pass', () => {
  it('gives the logits of all tokens, of those from one on, or of the last', async () => {
    using parts = await host();
    const prompt = words('logits', 700); // two chunks
    using sequence = parts.cache.open();
    const expected: number[] = [];
    for (const part of [prompt.subarray(0, 300), prompt.subarray(300)]) {
      const { logits } = parts.llama.forward([{ sequence, tokens: part, promptTokens: 700, logits: 'all' }]);
      for (const row of logits) expected.push(...row);
    }
    const all = forward(parts, prompt, { logits: 'all' });
    expect(all.logits.length).toBe(700 * vocabSize);
    expect(all.layers).toEqual([]);
    expect([...all.logits]).toEqual(expected);
    expect([...forward(parts, prompt, { logits: 'all', from: 650 }).logits]).toEqual(expected.slice(650 * vocabSize));
    expect([...forward(parts, prompt, {}).logits]).toEqual(expected.slice(-vocabSize));
    expect(forward(parts, prompt, { logits: 'none' }).logits.length).toBe(0);
  });

  it('shows queries, keys, values and outputs that are attention', async () => {
    using parts = await host();
    const tokens = 90;
    const prompt = words('tap', tokens);
    const tap = { layers: [1, 3], queries: true, keys: true, values: true, outputs: true };
    const trace = forward(parts, prompt, { logits: 'none', tap });
    expect(trace.layers.map(({ layer }) => layer)).toEqual([1, 3]);
    using sequence = parts.cache.open();
    parts.llama.forward([{ sequence, tokens: prompt, promptTokens: tokens, logits: 'last' }]);
    for (const { layer, queries, keys, values, outputs, logSumExp, keysRead } of trace.layers) {
      expect([...keysRead]).toEqual(Array.from({ length: tokens }, (_, row) => (row + 1) * queryHeads));
      for (let head = 0; head < queryHeads; head += 1) {
        const kvHead = head >> 1;
        const part = (rows: Float32Array, heads: number, row: number, h: number) =>
          rows.subarray((row * heads + h) * headDim, (row * heads + h + 1) * headDim);
        const stored = parts.cache.readKeys(sequence, layer, kvHead, 0, tokens);
        for (const row of [0, 1, 40, tokens - 1]) {
          const query = part(queries!, queryHeads, row, head);
          const scores = Array.from({ length: row + 1 }, (_, i) => {
            const key = part(keys!, kvHeads, i, kvHead);
            expect(key).toEqual(stored.subarray(i * headDim, (i + 1) * headDim));
            return query.reduce((sum, q, j) => sum + q * key[j]!, 0) / Math.sqrt(headDim);
          });
          const total = scores.reduce((sum, score) => sum + Math.exp(score), 0);
          expect(logSumExp[row * queryHeads + head]).toBeCloseTo(Math.log(total), 4);
          const output = Float64Array.from({ length: headDim }, (_, j) =>
            scores.reduce(
              (sum, score, i) => sum + (Math.exp(score) / total) * part(values!, kvHeads, i, kvHead)[j]!,
              0,
            ),
          );
          expect(relativeError(part(outputs!, queryHeads, row, head), output)).toBeLessThan(1e-4);
        }
      }
    }
  });

  it('records from a token on, across chunks and beside other requests', async () => {
    using parts = await host({ prefixCache: 'off' });
    const prompt = words('from', 800);
    const tap = { queries: true };
    const whole = forward(parts, prompt, { tap });
    submit(parts.engine, { prompt: words('other', 100), maxTokens: 50, ignoreEos: true });
    const late = forward(parts, prompt, { tap, from: 600 });
    for (const [layer, { queries, logSumExp, keysRead }] of late.layers.entries()) {
      expect(queries).toEqual(whole.layers[layer]!.queries!.subarray(600 * queryHeads * headDim));
      expect(logSumExp).toEqual(whole.layers[layer]!.logSumExp.subarray(600 * queryHeads));
      expect(keysRead).toEqual(whole.layers[layer]!.keysRead.subarray(600));
    }
    expect(late.layers.length).toBe(layers);
  });

  it('goes on from what is known, as far as nothing of it is wanted', async () => {
    using parts = await host();
    const prompt = words('known', 800);
    const first = forward(parts, prompt, { logits: 'all', from: 500 });
    let rows = 0;
    const { llama } = parts;
    const run = llama.forward.bind(llama);
    llama.forward = (entries) => {
      rows += entries.reduce((sum, { tokens }) => sum + tokens.length, 0);
      return run(entries);
    };
    expect(forward(parts, prompt, { logits: 'all', from: 500 }).logits).toEqual(first.logits);
    expect(rows).toBe(800 - 448);
  });

  it('samples for the last tokens as decoding does', async () => {
    using parts = await host();
    const attention = { policy: 'magicpig', K: 6, L: 40, minContext: 0, window: 16, sampledPromptTokens: 32 } as const;
    const { layers: seen } = forward(parts, words('sampled', 600), { attention, tap: {}, from: 560 });
    for (const { layer, keysRead } of seen) {
      for (const [row, keys] of keysRead.entries()) {
        const context = (560 + row + 1) * queryHeads;
        if (row < 8 || layer === 0) expect(keys).toBe(context);
        else expect(keys).toBeLessThan(context * 0.9);
      }
    }
  });

  it.each([
    [{ logits: 'some' as 'all' }, /logits must be/],
    [{ from: 20 }, /from must be a position in 0..19/],
    [{ tap: { layers: [4] } }, /layer numbers in 0..3/],
  ])('refuses %j', async (options, message) => {
    using parts = await host();
    expect(() => forward(parts, words('bad', 20), options)).toThrow(InvalidRequestError);
    expect(() => forward(parts, words('bad', 20), options)).toThrow(message);
    expect(parts.engine.idle).toBe(true);
  });
});

describe('in a worker', () => {
  const load = (options: LoadOptions = {}) => loadLlama('random:tiny', { cacheBytes: 2 ** 26, threads: 1, ...options });

  it('a forward pass comes back whole', async () => {
    await using model = await load({ contextTokens: 400 });
    const trace = await model.forward('Hello there', { logits: 'all', tap: { layers: [2], keys: true } });
    const ids = await model.tokenize('Hello there');
    const { vocabSize: vocab, kvHeads: heads, headDim: dim } = model.info.config;
    expect(trace.tokens).toEqual(ids);
    expect(trace.logits.length).toBe(ids.length * vocab);
    expect(trace.layers[0]!.keys!.length).toBe(ids.length * heads * dim);
    expect(trace.layers[0]).not.toHaveProperty('queries');
    // Its last row is what generation goes on from.
    const last = trace.logits.subarray(-vocab);
    for await (const event of model.generate(ids, { maxTokens: 1, ignoreEos: true })) {
      if (event.type === 'token') expect(event.token).toBe(last.indexOf(last.reduce((a, b) => Math.max(a, b))));
    }
    await expect(model.forward('x'.repeat(500))).rejects.toThrow(ContextTooLongError);
    await expect(model.forward('x', { from: 100 })).rejects.toThrow(InvalidRequestError);
  });

  it('a forward pass can be aborted, and ends with the model', async () => {
    const model = await load();
    const reason = new Error('enough');
    await expect(model.forward('x', { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    const controller = new AbortController();
    const aborted = model.forward('x'.repeat(3000), { signal: controller.signal });
    controller.abort(reason);
    await expect(aborted).rejects.toBe(reason);
    const closed = model.forward('x'.repeat(3000));
    void model.close();
    await expect(closed).rejects.toThrow(ModelClosedError);
  });

  const collect = async (results: AsyncIterable<BatchResult>) => {
    const all: BatchResult[] = [];
    for await (const result of results) all.push(result);
    return all.sort((a, b) => a.index - b.index);
  };
  const requests = (count: number, maxTokens = 5) =>
    Array.from({ length: count }, (_, i) => ({ prompt: `Request ${i}`, options: { maxTokens, ignoreEos: true } }));

  it('many requests run together, and a bad one does not end the others', async () => {
    await using model = await load({ maxSequences: 3 });
    const many = [...requests(10), { prompt: 'bad', options: { topP: 7 } }];
    let most = 0;
    async function* source() {
      for (const request of many) {
        most = Math.max(most, (await model.stats()).running);
        yield request;
      }
    }
    const results = await collect(model.engine.run(source()));
    expect(results.map(({ index }) => index)).toEqual(many.map((_, i) => i));
    for (const { request, tokens, text, end } of results.slice(0, 10)) {
      expect(tokens.length).toBe(5);
      expect(end!.usage.completionTokens).toBe(5);
      expect(await model.detokenize(tokens)).toBe(text);
      expect(many).toContain(request);
    }
    expect(results[10]!.error).toBeInstanceOf(InvalidRequestError);
    expect(most).toBeGreaterThan(1);
    expect(most).toBeLessThanOrEqual(3);
  });

  it('many requests wait while others have the queue', async () => {
    await using model = await load({ maxSequences: 1, maxQueue: 0 });
    const other = model.generate('other', { maxTokens: 40, ignoreEos: true })[Symbol.asyncIterator]();
    await other.next();
    const results = collect(model.engine.run(requests(2)));
    while (!(await other.next()).done);
    expect((await results).map(({ tokens }) => tokens.length)).toEqual([5, 5]);
  });

  it('many requests end when the loop is left or the signal aborts', async () => {
    await using model: LlamaModel = await load({ maxSequences: 2 });
    for await (const _ of model.engine.run([...requests(1, 1), ...requests(3, 3000)])) break;
    expect(await model.stats()).toMatchObject({ running: 0, waiting: 0 });
    const controller = new AbortController();
    const reason = new Error('enough');
    const results = collect(model.engine.run(requests(3, 3000), { signal: controller.signal }));
    setTimeout(() => controller.abort(reason), 20);
    await expect(results).rejects.toBe(reason);
    expect(await model.stats()).toMatchObject({ running: 0, waiting: 0 });
  });
});
