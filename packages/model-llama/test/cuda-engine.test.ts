// Policies, batches, long contexts and failures on the emulated device.
import type { CudaBackend } from '@magicpig/cuda-kernels';
import { describe, expect, it, vi } from 'vitest';
import type { AttentionOptions } from '../src/api.js';
import { resolveAttention } from '../src/attention-options.js';
import { CacheTooSmallError, InvalidRequestError } from '../src/errors.js';
import type { LayerAttention } from '../src/layer-attention.js';
import type { ModelHost } from '../src/model-host.js';
import { PolicyFactory } from '../src/policy-factory.js';
import { type Outcome, runAll, submit } from './collect.js';
import { relativeError } from './relative-error.js';
import { config, decodeLogits, deviceHost, host, prompt } from './sampled-model.js';

/** Every key is a candidate, and its probability 1 but for angles near 180 degrees. */
const EVERYTHING = { policy: 'magicpig', K: 1, L: 512, minContext: 0 } as const;
const SAMPLED = { policy: 'magicpig', K: 6, L: 40, minContext: 0, window: 16 } as const;
/** Keys live in host memory, also for requests that are dense. */
const BESIDE_HOST: AttentionOptions = { policy: 'magicpig' };
const DENSE: AttentionOptions = { policy: 'dense' };

const logProbabilities = (outcomes: ReturnType<typeof runAll>) =>
  outcomes.map(({ events, error }) => {
    if (error) throw error;
    return events.flatMap((event) => (event.type === 'token' ? [event.logprob] : []));
  });

/** Device memory that a model takes with room for so many tokens of keys and values. */
async function vramFor(tokens: number, attention: AttentionOptions): Promise<number> {
  let refused: CacheTooSmallError | undefined;
  await deviceHost({ attention, vramBytes: 2 ** 20 }).catch((error) => {
    refused = error;
  });
  expect(refused).toBeInstanceOf(CacheTooSmallError);
  const page = 64 * 2 * 2 * 2 * 32; // of one layer: 64 tokens, keys and values, 2 KV heads of 32
  return refused!.bytes + (tokens / 64) * 4 * page;
}

describe('magicpig on a device', () => {
  it('is dense where every key is a candidate', async () => {
    const dense = await decodeLogits(DENSE, 150, 20, () => deviceHost({ attention: BESIDE_HOST }));
    const everything = await decodeLogits(EVERYTHING, 150, 20, () => deviceHost({ attention: BESIDE_HOST }));
    for (const [i, row] of everything.entries()) expect(relativeError(row, dense[i]!)).toBeLessThan(2e-2);
  });

  it('is dense of the CPU too', async () => {
    const cpu = await decodeLogits(DENSE, 150, 5, () => host());
    for (const attention of [DENSE, BESIDE_HOST]) {
      const device = await decodeLogits(DENSE, 150, 5, () => deviceHost({ attention }));
      for (const [i, row] of device.entries()) expect(relativeError(row, cpu[i]!)).toBeLessThan(2e-2);
    }
  });

  it('samples as the CPU does', async () => {
    const cpu = await decodeLogits(SAMPLED, 200, 8, () => host());
    const exact = await decodeLogits(DENSE, 200, 8, () => host());
    const device = await decodeLogits(SAMPLED, 200, 8, () => deviceHost({ attention: BESIDE_HOST }));
    // Rounding moves a key over a hyperplane now and then; what is drawn is the same but for that.
    const errors = device.map((row, i) => relativeError(row, cpu[i]!));
    const noise = cpu.map((row, i) => relativeError(row, exact[i]!));
    const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
    expect(mean(errors)).toBeLessThan(mean(noise) / 2);
  });

  it('makes the same tables as the CPU, while it computes a prompt’s last tokens', async () => {
    using parts = await deviceHost({ contextTokens: 1200 });
    const { cache, llama, backend } = parts;
    const tokens = prompt(1111);
    const built: number[] = [];
    const policyOf = (segments: (own: NonNullable<typeof cache.segments>) => typeof cache.segments) => {
      const own = cache.segments!.bind(cache);
      const readKeys = cache.readKeys.bind(cache);
      const mine = { readKeys, segments: segments(own) } as typeof cache;
      return new PolicyFactory({ config, cache: mine, pool: backend.pool }).policy(resolveAttention(SAMPLED, 4));
    };
    using sequence = cache.open();
    using onDevice = policyOf((own) => (...args) => {
      const segments = own(...args);
      built.push(segments!.length);
      return segments;
    }).open(sequence);
    const beside = {
      run: (layers: number) => onDevice.prepare(Number.POSITIVE_INFINITY, layers),
      abandon: () => onDevice.abandon!(),
    };
    const entry = { sequence, promptTokens: 1110 };
    for (let begin = 0; begin < 900; begin += 300) {
      llama.forward([{ ...entry, tokens: tokens.subarray(begin, begin + 300), logits: 'none' }]);
    }
    llama.forward([{ ...entry, tokens: tokens.subarray(900, 1110), logits: 'last', beside }]);
    expect(onDevice.ready).toBe(true);
    // Sampled layers, KV heads: the keys that the mean is over, and the others.
    expect(built).toEqual(Array(3 * 2).fill(2));
    using fork = sequence.fork();
    using hashed = policyOf(() => undefined).open(fork);
    hashed.prepare(Number.POSITIVE_INFINITY);
    const [expected, got] = [
      { sequence: fork, attention: hashed },
      { sequence, attention: onDevice },
    ].map((own) => {
      const next = { ...entry, ...own, tokens: tokens.subarray(1110), logits: 'last' as const };
      return llama.forward([next]).logits[0]!.slice();
    });
    expect(got).toEqual(expected);
  });

  it('makes tables beside a prompt’s last tokens, those of a layer when the next one is under way', async () => {
    using parts = await deviceHost();
    const { cache } = parts;
    const step = cache.step.bind(cache);
    let begun = 0;
    cache.step = (entries) => {
      const own = step(entries) as ReturnType<typeof step> & { device: LayerAttention };
      const begin = own.device.begin.bind(own.device);
      own.device.begin = (layer, ...rest) => {
        begin(layer, ...rest);
        begun = layer;
      };
      return own;
    };
    const made: { layer: number; beside: number }[] = [];
    cache.segments = (_, { layer }) => {
      made.push({ layer, beside: begun });
      return undefined;
    };
    const request = (maxTokens: number) => ({ prompt: prompt(100), maxTokens, ignoreEos: true, attention: SAMPLED });
    runAll(parts.engine, [request(1)]);
    expect(made).toEqual([]); // nothing is sampled
    const [{ end }] = runAll(parts.engine, [request(3)]) as [Outcome];
    // Of two KV heads each; how far it comes beside the step depends on the time that takes.
    expect(made.map(({ layer }) => layer)).toEqual([1, 1, 2, 2, 3, 3]);
    expect(made[0]!.beside).toBe(2);
    expect(end!.attention.sampledSteps).toBe(2);
  });

  it('fails a request alone whose tables cannot be made', async () => {
    using parts = await deviceHost({ contextTokens: 1200, prefixCache: 'off' });
    const { cache } = parts;
    const own = cache.segments!.bind(cache);
    cache.segments = (sequence, keys, tables) => {
      if (sequence.length === 120 && keys.layer === 2) throw new Error('building tables failed');
      return own(sequence, keys, tables);
    };
    const request = (tokens: number) => ({
      prompt: prompt(tokens, `tables-${tokens}`),
      maxTokens: 3,
      ignoreEos: true,
      attention: SAMPLED,
    });
    const [fails, lives] = runAll(parts.engine, [request(120), request(130)]);
    expect(String(fails!.error)).toContain('building tables failed');
    expect(lives!.tokens).toHaveLength(3);
    using alone = await deviceHost({ contextTokens: 1200, prefixCache: 'off' });
    const [expected] = runAll(alone.engine, [request(130)]);
    expect(lives!.end!.attention.sampledSteps).toBe(expected!.end!.attention.sampledSteps);
    expect([cache.bytes, parts.engine.stats.running]).toEqual([0, 0]);
  });

  it('draws from sketches on the device as the CPU does from its own', async () => {
    const sketch = { policy: 'sketch', minContext: 0, window: 16, budget: { share: 0.1 } } as const;
    // More keys are indexed on the way, and a bound on the error needs more room than expected.
    for (const attention of [sketch, { ...sketch, budget: { error: 0.05, max: 1 } }]) {
      const expected = await decodeLogits(attention, 230, 24, () => deviceHost({ attention: BESIDE_HOST }));
      let draws = 0;
      const drawn = await decodeLogits(attention, 230, 24, async () => {
        const parts = await deviceHost({ attention });
        const { native } = (parts.backend as CudaBackend).device;
        const { setSamples } = native;
        vi.spyOn(native, 'setSamples').mockImplementation((...args) => {
          draws += 1;
          setSamples.call(native, ...args);
        });
        return parts;
      });
      vi.restoreAllMocks();
      expect(draws).toBe(24 * 3); // steps, sampled layers
      expect(drawn).toEqual(expected);
    }
  });

  it('reports what the CPU reports', async () => {
    const one = { prompt: prompt(150), maxTokens: 6, ignoreEos: true, attention: SAMPLED };
    using cpu = await host();
    using device = await deviceHost();
    const ends = [cpu, device].map(({ engine }) => runAll(engine, [one])[0]!.end!);
    const [expected, got] = ends.map(({ attention }) => attention);
    const [onCpu, onDevice] = ends.map(({ timing }) => timing.split);
    expect(Object.keys(onCpu!)).toEqual(['denseMs', 'attendMs', 'indexMs', 'otherMs']);
    const { gpuMs, transferMs, idleMs, selectMs, attendMs } = onDevice!;
    for (const ms of [gpuMs, transferMs, idleMs]) expect(ms).toBeGreaterThanOrEqual(0);
    expect(selectMs).toBeGreaterThan(0);
    expect(attendMs).toBeGreaterThan(0);
    expect(idleMs! + attendMs).toBeLessThan(ends[1]!.timing.decodeMs);
    expect(got).toMatchObject({ policy: 'magicpig', sampledSteps: 5, exactTokens: expected!.exactTokens });
    expect(got!.keysReadShare).toBeCloseTo(expected!.keysReadShare, 1);
    // Everything exact: every key is read.
    const dense = runAll(device.engine, [{ ...one, attention: DENSE }])[0]!.end!.attention;
    expect(dense.keysReadShare).toBe(1);
  });

  it('gives each sequence the same alone, in two groups, and beside others that are dense or read prompts', async () => {
    const attentions = [SAMPLED, DENSE, SAMPLED, SAMPLED];
    const requests = attentions.map((attention, i) => ({
      prompt: prompt(90 + 20 * i, `together-${i}`),
      maxTokens: 4,
      ignoreEos: true,
      attention,
    }));
    using together = await deviceHost({ prefixCache: 'off' });
    const batched = logProbabilities(runAll(together.engine, requests));
    using alone = await deviceHost({ prefixCache: 'off' });
    const single = requests.flatMap((request) => logProbabilities(runAll(alone.engine, [request])));
    for (const [i, row] of batched.entries()) {
      expect(row.length).toBe(4);
      // The first tokens: afterwards greedy choices may part ways.
      expect(Math.abs(row[0]! - single[i]![0]!)).toBeLessThan(0.05);
    }
  });

  it('goes on from what was computed before, and leaves it as it was', async () => {
    const long = prompt(300);
    const request = (tokens: Int32Array) => ({ prompt: tokens, maxTokens: 3, ignoreEos: true, attention: SAMPLED });
    using parts = await deviceHost();
    const [first] = runAll(parts.engine, [request(long)]);
    const [again] = runAll(parts.engine, [request(long)]);
    expect(again!.end!.usage.cachedTokens).toBeGreaterThan(200);
    expect(Math.abs(logProbabilities([first!])[0]![0]! - logProbabilities([again!])[0]![0]!)).toBeLessThan(0.05);
  });
});

describe('keys and values in the device’s memory', () => {
  const request = (tokens: number, name?: string) => ({
    prompt: prompt(tokens, name),
    maxTokens: 4,
    ignoreEos: true,
    attention: DENSE,
  });

  it('are shared by prompts that begin alike, and copied where they part', async () => {
    using parts = await deviceHost({ attention: DENSE });
    using bare = await deviceHost({ attention: DENSE, prefixCache: 'off' });
    const runs = (host: ModelHost) =>
      [
        request(200),
        request(200),
        { ...request(200), prompt: Int32Array.from([...prompt(170), ...prompt(30, 'other')]) },
      ].flatMap((one) => runAll(host.engine, [one]));
    const [kept, fresh] = [runs(parts), runs(bare)];
    expect(kept.map(({ end }) => end!.usage.cachedTokens > 0)).toEqual([false, true, true]);
    for (const [i, row] of logProbabilities(kept).entries()) {
      expect(Math.abs(row[0]! - logProbabilities(fresh)[i]![0]!)).toBeLessThan(0.05);
    }
  });

  it('refuse what samples keys in host memory', async () => {
    using parts = await deviceHost({ attention: DENSE });
    for (const attention of [SAMPLED, { policy: 'sketch' } as const]) {
      const refused = () => submit(parts.engine, { ...request(100), attention });
      expect(refused).toThrow(InvalidRequestError);
      expect(refused).toThrow(/samples keys in host memory, .* load it with a policy that samples/);
    }
    expect(parts.engine.idle).toBe(true);
    const [after] = runAll(parts.engine, [request(100)]);
    expect(after!.tokens.length).toBe(4);
  });

  it('wait for room, and refuse up front what can never have it', async () => {
    const vramBytes = await vramFor(320, DENSE);
    using parts = await deviceHost({ attention: DENSE, vramBytes, prefixCache: 'off' });
    expect(() => submit(parts.engine, request(400))).toThrow(CacheTooSmallError);
    const outcomes = runAll(parts.engine, [request(150, 'a'), request(150, 'b'), request(150, 'c')]);
    for (const { tokens } of outcomes) expect(tokens.length).toBe(4);
    expect(parts.cache.bytes).toBe(0);
  });
});

describe('contexts longer than the device’s memory', () => {
  it('pass through it a stretch at a time', async () => {
    const vramBytes = await vramFor(0, BESIDE_HOST);
    const expected = await decodeLogits(DENSE, 600, 1, () => deviceHost({ attention: BESIDE_HOST }));
    const small = await decodeLogits(DENSE, 600, 1, () => deviceHost({ attention: BESIDE_HOST, vramBytes }));
    for (const [i, row] of small.entries()) expect(relativeError(row, expected[i]!)).toBeLessThan(2e-2);
  });

  it('give up memory for one another, and get it back to read more of a prompt', async () => {
    const vramBytes = await vramFor(256, BESIDE_HOST);
    using parts = await deviceHost({ attention: BESIDE_HOST, vramBytes });
    const begin = prompt(200);
    const logits = (name: string, tokens: Int32Array, from: number) => {
      const { outcome } = submit(parts.engine, { prompt: tokens, maxTokens: 1, attention: DENSE, trace: { from } });
      while (parts.engine.step());
      if (outcome.error) throw outcome.error;
      return { name, row: outcome.trace!.logits };
    };
    const question = Int32Array.from([...begin, ...prompt(20, 'question')]);
    logits('first', begin, 0);
    logits('others', prompt(220, 'others'), 0);
    const { row } = logits('question', question, 219);
    using roomy = await deviceHost({ attention: BESIDE_HOST, prefixCache: 'off' });
    const { outcome } = submit(roomy.engine, {
      prompt: question,
      maxTokens: 1,
      attention: DENSE,
      trace: { from: 219 },
    });
    while (roomy.engine.step());
    expect(relativeError(row, outcome.trace!.logits)).toBeLessThan(2e-2);
  });
});

describe('a device that fails', () => {
  it('fails the request that it computes for, with the reason, and serves the next one', async () => {
    using parts = await deviceHost({ prefixCache: 'off' });
    const { native } = (parts.backend as CudaBackend).device;
    const one = { prompt: prompt(60), maxTokens: 3, ignoreEos: true, attention: SAMPLED };
    const [expected] = runAll(parts.engine, [one]);
    let failed = 0;
    // Every so many calls, from the prompt over its tables to the last token.
    for (let calls = 1; ; calls += 43) {
      native.emulatorFailCall!(calls, 1); // cudaErrorInvalidValue
      const [outcome] = runAll(parts.engine, [one]);
      native.emulatorFailCall!(0, 0);
      if (!outcome!.error) break;
      failed += 1;
      expect(String(outcome!.error), `call ${calls}`).toMatch(/failed on CPU emulation.*\(cudaErrorInvalidValue\)/);
      expect([parts.cache.bytes, parts.engine.idle], `call ${calls}`).toEqual([0, true]);
    }
    expect(failed).toBeGreaterThan(4);
    expect(runAll(parts.engine, [one])[0]!.tokens).toEqual(expected!.tokens);
  });

  it('for good fails what runs and what comes, says why, and leaves host memory as it was', async () => {
    const request = { prompt: prompt(100), maxTokens: 50, ignoreEos: true, attention: SAMPLED };
    using parts = await deviceHost();
    using own = parts.cache.open();
    parts.llama.forward([{ sequence: own, tokens: prompt(50), promptTokens: 50, logits: 'none' }]);
    const keys = parts.cache.readKeys(own, 2, 1, 0, 50);
    const { outcome } = submit(parts.engine, request);
    while (outcome.tokens.length < 3) parts.engine.step();
    const { native } = (parts.backend as CudaBackend).device;
    native.emulatorFailCall!(20, 700); // cudaErrorIllegalAddress
    while (parts.engine.step());
    expect(String(outcome.error)).toMatch(/Everything on the device is lost; start a new process/);
    expect((outcome.error as Error).message).toContain(parts.backend.failure);
    const [later] = runAll(parts.engine, [request]);
    expect(String(later!.error)).toMatch(/is lost/);
    expect(parts.engine.stats).toMatchObject({ running: 0, waiting: 0 });
    expect(parts.cache.readKeys(own, 2, 1, 0, 50)).toEqual(keys);
    native.emulatorFailCall!(0, 0);
  });
});

describe('what does not fit or is not there', () => {
  it('is refused with the sizes, before anything is loaded', async () => {
    await expect(deviceHost({ vramBytes: 2 ** 20 })).rejects.toThrow(
      /needs \d+ bytes of device memory \(weights \d+, activations \d+, keys and values of one step \d+\) and there are 1048576/,
    );
    await expect(deviceHost({ vramBytes: 2 ** 50 })).rejects.toThrow(
      /vramBytes is \d+, but \d+ of the \d+ bytes of CPU emulation/,
    );
    await expect(deviceHost({ weights: 'f32' })).rejects.toThrow(/weights must be bf16, q8 or q4/);
    await expect(deviceHost({ profile: true })).rejects.toThrow(/profile/);
    await expect(deviceHost({ attention: DENSE, snapshotDir: '/nowhere' })).rejects.toThrow(/snapshotDir|snapshots/);
    await expect(host({ vramBytes: 2 ** 30 })).rejects.toThrow(/vramBytes is for backend 'cuda'/);
  });
});
