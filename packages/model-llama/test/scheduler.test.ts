import { describe, expect, it } from 'vitest';
import { densePolicy } from '../src/dense-policy.js';
import { EngineBusyError } from '../src/errors.js';
import type { KvSequence } from '../src/kv-cache.js';
import { Sampler } from '../src/sampler.js';
import { type ScheduledEntry, Scheduler } from '../src/scheduler.js';
import { Sequence } from '../src/sequence.js';
import type { PrefillBudget } from '../src/step-pace.js';
import { StopStrings } from '../src/stop-strings.js';

const policy = densePolicy();
let id = 0;

function sequence(promptTokens: number, options: { sampledPromptTokens?: number } = {}): Sequence {
  return new Sequence({
    id: id++,
    prompt: new Int32Array(promptTokens),
    maxTokens: 100,
    eosTokens: new Set(),
    policy: { ...policy, sampledPromptTokens: options.sampledPromptTokens ?? 0 },
    policyKey: '',
    sampler: new Sampler(new Int32Array(0)),
    stops: new StopStrings([]),
    text: { push: () => '', flush: () => '' },
    listener: { onEvent() {}, onError() {} },
  });
}

/** Admits what fits, giving each a cache that is only a length. */
function admit(scheduler: Scheduler): Sequence[] {
  const admitted: Sequence[] = [];
  for (let one = scheduler.admit(); one; one = scheduler.admit()) {
    const cache = { length: 0, [Symbol.dispose]() {} } as KvSequence;
    one.memory = { cache, attention: policy.open(cache), node: undefined };
    admitted.push(one);
  }
  return admitted;
}

function run(entries: ScheduledEntry[]): number[] {
  for (const { sequence, tokens } of entries) (sequence.memory!.cache as { length: number }).length += tokens.length;
  return entries.map(({ tokens }) => tokens.length);
}

/** So many tokens, wherever in a prompt. */
function budget(tokens: number): PrefillBudget {
  let left = tokens;
  return {
    tokens: () => left,
    take: (begin, end) => {
      left -= end - begin;
    },
  };
}

const OPTIONS = { maxSequences: 3, maxQueue: 2, fits: () => true };

describe('scheduler', () => {
  /** Sizes of the chunks of one prompt that runs alone. */
  function chunks(promptTokens: number, sampledPromptTokens = 0, tokens = 16): number[] {
    const scheduler = new Scheduler(OPTIONS);
    const one = sequence(promptTokens, { sampledPromptTokens });
    scheduler.add(one);
    admit(scheduler);
    const sizes: number[] = [];
    while (one.prefilling) sizes.push(...run(scheduler.schedule(budget(tokens))));
    return sizes;
  }

  it('cuts prompts, and nowhere one token off', () => {
    expect(chunks(16)).toEqual([16]);
    expect(chunks(17)).toEqual([17]);
    expect(chunks(18)).toEqual([16, 2]);
    expect(chunks(33)).toEqual([16, 17]);
    expect(chunks(1)).toEqual([1]);
  });

  it('cuts the sampled part at fixed positions', () => {
    expect(chunks(400, 250)).toEqual([...Array<number>(9).fill(16), 6, 106, 128, 16]);
    expect(chunks(140, 1000)).toEqual([128, 12]);
    expect(chunks(400, 250, 512)).toEqual([150, 106, 128, 16]);
  });

  it('decodes everybody and prefills less beside them, in turns', () => {
    const scheduler = new Scheduler(OPTIONS);
    const [decoding, long, other] = [sequence(1), sequence(24), sequence(24)];
    scheduler.add(decoding);
    admit(scheduler);
    run(scheduler.schedule(budget(16)));
    scheduler.add(long);
    scheduler.add(other);
    admit(scheduler);
    const order: Sequence[] = [];
    while (long.prefilling || other.prefilling) {
      const entries = scheduler.schedule(budget(8));
      expect(entries.filter((entry) => entry.sequence === decoding).length).toBe(1);
      const prefill = entries.filter((entry) => entry.sequence.prefilling);
      expect(prefill.reduce((sum, { tokens }) => sum + tokens.length, 0)).toBeLessThanOrEqual(8);
      order.push(...prefill.map((entry) => entry.sequence));
      run(entries);
    }
    expect(order).toEqual([long, other, long, other, long, other]);
  });

  it('knows who waits for a token, also while tables are behind', () => {
    const scheduler = new Scheduler(OPTIONS);
    const [one, other] = [sequence(3), sequence(40)];
    for (const each of [one, other]) scheduler.add(each);
    admit(scheduler);
    expect(scheduler.decoding).toBe(0);
    run(scheduler.schedule(budget(16)));
    expect(scheduler.decoding).toBe(1);
    one.memory!.attention = { ...one.memory!.attention, ready: false };
    expect(scheduler.decoding).toBe(1);
    expect(scheduler.schedule(budget(16)).map((entry) => entry.sequence)).toEqual([other]);
  });

  it('lets short prompts share a chunk', () => {
    const scheduler = new Scheduler(OPTIONS);
    for (const tokens of [3, 4]) scheduler.add(sequence(tokens));
    admit(scheduler);
    expect(run(scheduler.schedule(budget(16)))).toEqual([3, 4]);
  });

  it('admits in order, by number and by memory, and nobody overtakes', () => {
    const large = sequence(5);
    // Room for five prompt tokens in all.
    const fits = (one: Sequence, running: readonly Sequence[]) =>
      running.reduce((sum, { prompt }) => sum + prompt.length, one.prompt.length) <= 5;
    const scheduler = new Scheduler({ ...OPTIONS, maxQueue: 10, fits });
    const [first, small] = [sequence(4), sequence(1)];
    for (const one of [first, large, small]) scheduler.add(one);
    expect(admit(scheduler)).toEqual([first]);
    scheduler.remove(first);
    expect(admit(scheduler)).toEqual([large]);
    scheduler.remove(large);
    for (let i = 0; i < 3; i += 1) scheduler.add(sequence(1));
    expect(admit(scheduler).length).toBe(3);
    expect(scheduler.waiting).toBe(1);
  });

  it('refuses more than the queue holds', () => {
    const scheduler = new Scheduler(OPTIONS);
    for (let i = 0; i < 3; i += 1) {
      scheduler.add(sequence(1));
      admit(scheduler);
    }
    for (let i = 0; i < 2; i += 1) scheduler.add(sequence(1));
    expect(() => scheduler.add(sequence(1))).toThrow(EngineBusyError);
    scheduler.remove(scheduler.running[0]!);
    admit(scheduler);
    scheduler.add(sequence(1));
  });

  it('with no queue takes what can run at once', () => {
    const scheduler = new Scheduler({ ...OPTIONS, maxQueue: 0, fits: (_, running) => running.length < 2 });
    for (let i = 0; i < 2; i += 1) {
      scheduler.add(sequence(1));
      expect(admit(scheduler).length).toBe(1);
    }
    expect(() => scheduler.add(sequence(1))).toThrow(EngineBusyError);
  });
});
