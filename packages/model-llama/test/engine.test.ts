import { describe, expect, it, vi } from 'vitest';
import type { TimeSplit } from '../src/api.js';
import type { AttentionPolicy } from '../src/attention-policy.js';
import { densePolicy } from '../src/dense-policy.js';
import { GenerationFailedError } from '../src/engine-errors.js';
import { CacheTooSmallError, ContextTooLongError, EngineBusyError, InvalidRequestError } from '../src/errors.js';
import { runAll, submit } from './collect.js';
import { hashedIntegers } from './hashed-values.js';
import { randomModel } from './random-checkpoint.js';
import { ReferenceCache } from './reference-cache.js';
import { referenceEngine } from './reference-engine.js';

const model = randomModel('group-of-3-tied');
const prompt = (name: string, tokens: number) => hashedIntegers(name, tokens, model.config.vocabSize);
const text = (tokens: number[]) => tokens.map((token) => String.fromCharCode(0x100 + token)).join('');

describe('generation', () => {
  it('continues as Hugging Face’s greedy search', async () => {
    const { engine } = await referenceEngine(model);
    const [outcome] = runAll(engine, [{ prompt: model.prompt, maxTokens: 8, ignoreEos: true }]);
    expect(outcome!.tokens).toEqual(model.greedy);
    expect(outcome!.text).toBe(text(model.greedy));
    expect(outcome!.end).toMatchObject({
      finishReason: 'length',
      usage: { promptTokens: model.prompt.length, completionTokens: 8 },
      attention: { policy: 'dense', decodeSteps: 7, sampledSteps: 0, keysReadShare: 1 },
    });
    expect(outcome!.events[0]).toEqual({ type: 'prefill', done: 24, total: 24 });
  });

  it('ends before an end-of-sequence token', async () => {
    const eos = model.greedy[3]!;
    const first = model.greedy.indexOf(eos);
    const tokenizer = {
      vocabSize: 96,
      eosTokens: new Set([eos]),
      stream: () => ({ push: () => 'x', flush: () => '!' }),
    };
    const { engine } = await referenceEngine(model, { tokenizer });
    const [ended, ignored] = runAll(engine, [
      { prompt: model.prompt, maxTokens: 8 },
      { prompt: model.prompt, maxTokens: 8, ignoreEos: true },
    ]);
    expect(ended!.tokens).toEqual(model.greedy.slice(0, first));
    expect(ended!.end).toMatchObject({ finishReason: 'stop', text: '!', usage: { completionTokens: first } });
    expect(ignored!.tokens).toEqual(model.greedy);
  });

  it('ends before a stop string and keeps back what may become one', async () => {
    const { engine } = await referenceEngine(model);
    const all = text(model.greedy);
    const [stopped, held] = runAll(engine, [
      { prompt: model.prompt, maxTokens: 8, ignoreEos: true, stop: [all.slice(2, 5)] },
      { prompt: model.prompt, maxTokens: 4, ignoreEos: true, stop: [`${all.slice(2, 4)}?`] },
    ]);
    expect(stopped!.text).toBe(all.slice(0, all.indexOf(all.slice(2, 5))));
    expect(stopped!.end!.finishReason).toBe('stop');
    expect(held!.text).toBe(all.slice(0, 4));
    expect(held!.end).toMatchObject({ finishReason: 'length', text: all.slice(2, 4) });
  });

  it('stops where the context ends', async () => {
    const { engine } = await referenceEngine(model, { contextTokens: 30 });
    const [outcome] = runAll(engine, [{ prompt: model.prompt, maxTokens: 100, ignoreEos: true }]);
    expect(outcome!.tokens.length).toBe(6);
    expect(outcome!.end!.finishReason).toBe('length');
  });

  it('reports prefill chunk by chunk', async () => {
    const { engine } = await referenceEngine(model);
    const [outcome] = runAll(engine, [{ prompt: prompt('long', 600), maxTokens: 1 }]);
    expect(outcome!.events.filter(({ type }) => type === 'prefill')).toEqual([
      { type: 'prefill', done: 512, total: 600 },
      { type: 'prefill', done: 600, total: 600 },
    ]);
  });

  it('depends on nothing but the request', async () => {
    const requests = [5, 40, 276].map((tokens, i) => ({
      prompt: prompt(`request ${i}`, tokens),
      maxTokens: 6 + i,
      ignoreEos: true,
      temperature: i,
      seed: i,
    }));
    const { engine } = await referenceEngine(model, { maxSequences: 2 });
    const together = runAll(engine, requests);
    for (const [i, request] of requests.entries()) {
      const [alone] = runAll((await referenceEngine(model)).engine, [request]);
      expect(together[i]!.tokens).toEqual(alone!.tokens);
      expect(together[i]!.tokens.length).toBe(6 + i);
    }
  });
});

describe('streams', () => {
  it('wait no longer than maxStallMs for the prompts of others, once a step has been timed', async () => {
    let clock = 1;
    vi.spyOn(performance, 'now').mockImplementation(() => clock);
    const { engine, llama } = await referenceEngine(model, { maxStallMs: 60 });
    const waits: number[] = [];
    let prefilled = 0;
    const run = llama.forward.bind(llama);
    llama.forward = (entries) => {
      const decoded = entries.filter(({ tokens }) => tokens.length === 1).length;
      const rows = entries.reduce((sum, { tokens }) => sum + tokens.length, 0) - decoded;
      const ms = 0.4 * rows + 5 * decoded;
      clock += ms;
      if (decoded > 0) {
        waits.push(ms);
        prefilled += rows;
      }
      return run(entries);
    };
    const { id, outcome } = submit(engine, { prompt: model.prompt, maxTokens: 1000, ignoreEos: true });
    for (let i = 0; i < 3; i += 1) engine.step();
    const before = outcome.tokens.length;
    const { outcome: long } = submit(engine, { prompt: prompt('stall', 900), maxTokens: 1, ignoreEos: true });
    while (!long.end) engine.step();
    engine.abort(id);
    vi.restoreAllMocks();
    // Every step of the long prompt had a token of the stream in it.
    expect(prefilled).toBe(900);
    expect(outcome.tokens.length).toBe(before + waits.length - 2);
    expect(Math.max(...waits)).toBeLessThanOrEqual(60);
    // And it was not cut much finer than that: 137 tokens take 60 ms with the stream's.
    expect(waits.length - 2).toBeLessThanOrEqual(2.5 * Math.ceil(900 / 137));
  });
});

describe('time', () => {
  it('is told apart by what it went to, of a request and in all', async () => {
    let clock = 1;
    vi.spyOn(performance, 'now').mockImplementation(() => clock);
    const { engine, llama, cache } = await referenceEngine(model);
    const open = cache.step.bind(cache);
    cache.step = (entries) => {
      const step = open(entries);
      const attend = step.attend.bind(step);
      step.attend = (...args) => {
        clock += 3;
        attend(...args);
      };
      return step;
    };
    const run = llama.forward.bind(llama);
    llama.forward = (entries) => {
      clock += 10;
      return run(entries);
    };
    const listened = { onError() {}, onEvent: vi.fn(() => void (clock += 1)) };
    engine.submit(1, { prompt: model.prompt, maxTokens: 5, ignoreEos: true }, listened);
    while (engine.step());
    const end = listened.onEvent.mock.lastCall as unknown as [{ timing: { split: TimeSplit } }];
    vi.restoreAllMocks();
    const { layers } = model.config;
    // The first of the five tokens comes out of the prompt's step; what comes after the last one is not counted.
    expect(end[0].timing.split).toEqual({ denseMs: 4 * 10, attendMs: 4 * 3 * layers, indexMs: 0, otherMs: 3 });
    expect(engine.stats.times).toEqual({ denseMs: 5 * 10, attendMs: 5 * 3 * layers, indexMs: 0, otherMs: 7 });
  });
});

describe('requests that cannot be', () => {
  it.each([
    [InvalidRequestError, { prompt: new Int32Array(0) }],
    [InvalidRequestError, { prompt: Int32Array.of(96) }],
    [InvalidRequestError, { prompt: Int32Array.of(-1) }],
    [InvalidRequestError, { prompt: Int32Array.of(1), maxTokens: 0 }],
    [InvalidRequestError, { prompt: Int32Array.of(1), maxTokens: 1.5 }],
    [InvalidRequestError, { prompt: Int32Array.of(1), stop: [''] }],
    [InvalidRequestError, { prompt: Int32Array.of(1), stop: 'x' as unknown as string[] }],
    [InvalidRequestError, { prompt: Int32Array.of(1), temperature: -1 }],
    [InvalidRequestError, { prompt: Int32Array.of(1), attention: { policy: 'none' as 'dense' } }],
    [ContextTooLongError, { prompt: new Int32Array(50) }],
  ])('are refused with %o: %j', async (error, request) => {
    const { engine } = await referenceEngine(model, { contextTokens: 50 });
    expect(() => submit(engine, request)).toThrow(error);
    expect(engine.idle).toBe(true);
  });

  it('say what memory they need and what there is', async () => {
    const { engine } = await referenceEngine(model, { cacheBytes: 60 });
    const refused = () => submit(engine, { prompt: model.prompt, maxTokens: 100 });
    expect(refused).toThrow(CacheTooSmallError);
    expect(refused).toThrow(/124 bytes .* 60 in all/);
    // Nobody asked for a number of tokens: as many as there is room for.
    const [outcome] = runAll(engine, [{ prompt: model.prompt, ignoreEos: true }]);
    expect(outcome!.end!.finishReason).toBe('length');
    expect(outcome!.tokens.length).toBeGreaterThan(10);
  });

  it('without a number of tokens leave room for others', async () => {
    const { engine } = await referenceEngine(model, { cacheBytes: 8000, contextTokens: 100_000 });
    const unasked = () => submit(engine, { prompt: model.prompt, ignoreEos: true });
    for (let i = 0; i < 5; i += 1) unasked();
    engine.step();
    // 100,000 halved until it is under a quarter of 8,000, with the prompt: 1,562 + 24.
    expect(engine.stats).toMatchObject({ running: 4, waiting: 1 });
  });

  it('are refused while the queue is full', async () => {
    const { engine } = await referenceEngine(model, { maxSequences: 1, maxQueue: 1 });
    const request = { prompt: model.prompt, maxTokens: 2 };
    submit(engine, request);
    submit(engine, request);
    expect(() => submit(engine, request)).toThrow(EngineBusyError);
  });
});

describe('memory', () => {
  it('makes requests wait that would not fit beside the others', async () => {
    const { engine } = await referenceEngine(model, { cacheBytes: 60 });
    const first = submit(engine, { prompt: model.prompt, maxTokens: 6 }).outcome;
    const second = submit(engine, { prompt: model.prompt, maxTokens: 8 }).outcome;
    engine.step();
    expect(engine.stats).toMatchObject({ running: 1, waiting: 1 });
    while (engine.step());
    expect(first.end).toBeDefined();
    expect(second.end!.timing.queueMs).toBeGreaterThan(0);
  });

  it('is free at once after an abort, running or waiting', async () => {
    const { engine } = await referenceEngine(model, { maxSequences: 1 });
    const running = submit(engine, { prompt: model.prompt, maxTokens: 50 });
    const waiting = submit(engine, { prompt: model.prompt, maxTokens: 50 });
    const last = submit(engine, { prompt: model.prompt, maxTokens: 3, ignoreEos: true });
    engine.step();
    engine.step();
    engine.abort(running.id);
    engine.abort(waiting.id);
    engine.abort(12345);
    const seen = running.outcome.events.length;
    while (engine.step());
    expect(running.outcome.events.length).toBe(seen);
    expect(waiting.outcome.events).toEqual([]);
    expect(last.outcome.tokens).toEqual(model.greedy.slice(0, 3));
    expect(engine.idle).toBe(true);
  });
});

describe('preparation of a policy', () => {
  it('is done in pieces between which other streams go on', async () => {
    const PIECES = 5;
    const slow: AttentionPolicy = {
      ...densePolicy(),
      open(sequence) {
        const state = densePolicy().open(sequence);
        let pieces = 0;
        return {
          bytes: 0,
          get ready() {
            return pieces === PIECES;
          },
          prepare(keys) {
            expect(keys).toBeGreaterThan(0);
            pieces += 1;
          },
          sampling: () => null,
          afterDecode: state.afterDecode,
          report: state.report,
          [Symbol.dispose]() {},
        };
      },
    };
    let made = 0;
    const policies = { policy: () => (made++ === 0 ? slow : densePolicy()) };
    const { engine } = await referenceEngine(model, { policies });
    const request = { prompt: model.prompt, maxTokens: 8, ignoreEos: true };
    const { outcome: prepared } = submit(engine, request);
    const { outcome: other } = submit(engine, request);
    const seen: [number, number][] = [];
    while (engine.step()) seen.push([prepared.tokens.length, other.tokens.length]);
    // Both get their first token from the prefill; then one waits and the other does not.
    expect(seen.slice(0, 6)).toEqual([
      [1, 1],
      [1, 2],
      [1, 3],
      [1, 4],
      [1, 5],
      [2, 6],
    ]);
    expect(prepared.tokens).toEqual(model.greedy);
    expect(other.tokens).toEqual(model.greedy);
  });
});

describe('failures', () => {
  it('of one request leave the others alone', async () => {
    // A cache that spoils the values of one sequence.
    const cache = new ReferenceCache(model.config);
    const { engine } = await referenceEngine(model, { cache });
    const poisoned = prompt('poisoned', 9);
    const step = cache.step.bind(cache);
    cache.step = (entries) => {
      const made = step(entries);
      return {
        ...made,
        attend(layer, queries, output, options) {
          made.attend(layer, queries, output, options);
          let row = 0;
          for (const { tokens, sequence } of entries) {
            if (sequence.length - tokens === 0 && tokens === poisoned.length)
              output.data[row * output.stride] = Number.NaN;
            row += tokens;
          }
        },
      };
    };
    const [bad, good] = runAll(engine, [
      { prompt: poisoned, maxTokens: 5 },
      { prompt: model.prompt, maxTokens: 8, ignoreEos: true },
    ]);
    expect(bad!.error).toBeInstanceOf(GenerationFailedError);
    expect(good!.tokens).toEqual(model.greedy);
    expect(good!.error).toBeUndefined();
  });

  it('of a step fall on the request to blame', async () => {
    const cache = new ReferenceCache(model.config);
    const { engine } = await referenceEngine(model, { cache });
    const step = cache.step.bind(cache);
    cache.step = (entries) => {
      if (entries.some(({ tokens }) => tokens === 9)) throw new Error('no room');
      return step(entries);
    };
    const [bad, good] = runAll(engine, [
      { prompt: prompt('large', 9), maxTokens: 5 },
      { prompt: model.prompt, maxTokens: 8, ignoreEos: true },
    ]);
    expect(bad!.error).toBeInstanceOf(GenerationFailedError);
    expect((bad!.error as Error).message).toMatch(/no room/);
    expect(good!.tokens).toEqual(model.greedy);
  });
});
