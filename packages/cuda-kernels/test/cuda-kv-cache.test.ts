// The cache against a device that computes nothing and checks everything: what is called, in which order, and with what.
import { describe, expect, it } from 'vitest';
import { CudaKvCache, DisposedError, InvalidArgumentError, OutOfMemoryError } from '../src/index.js';
import { drawn, type Entry, order, PAGE, SHAPE, sampled, sampling, setUp } from './fake-cache.js';
import type { FakeHostCache } from './fake-host-cache.js';

describe('one step', () => {
  it('of a prompt leaves for host memory while the next layer computes', () => {
    const { fake, cache, run, dispose } = setUp();
    const sequence = cache.open();
    run([{ sequence, tokens: 70 }]); // makes the tables' buffers
    fake.forget();
    run([{ sequence, tokens: 70 }]);
    const names = order(fake);
    const sent = ['waitEvent', 'recordEvent', 'copyMatrix', 'recordEvent', 'recordEvent']; // timed
    const layer = ['ropeSplit', 'rope', 'recordEvent', ...sent, 'attentionPrefill'];
    expect(names).toEqual([
      'host.step',
      'pass computes',
      'copyMatrix',
      'recordEvent',
      ...layer,
      'waitEvent', // the next layer writes where this one's rows are read
      'pass computes',
      ...layer,
      'waitEvent',
      'pass computes',
      'ropeSplit',
      'rope',
      'recordEvent',
      'synchronizeEvent', // the third layer takes the first one's place
      'host.append',
      ...sent,
      'attentionPrefill',
      'waitEvent',
      'synchronizeEvent',
      'host.append',
      'synchronizeEvent',
      'host.append',
    ]);
    const appended = fake.calls.filter(({ name }) => name === 'host.append').map(({ args }) => args[0]);
    expect(appended).toEqual([0, 1, 2]);
    // Keys and values of 70 rows: of each row the last 4 of 8 heads.
    const copies = fake.calls.filter(({ name, args }) => name === 'copyMatrix' && args[6] === 70);
    expect(copies).toHaveLength(3);
    for (const { args } of copies) expect(args.slice(2, 7)).toEqual([512, expect.any(Number), 512, 256, 70]);
    expect(fake.problems).toEqual([]);
    dispose();
    expect(fake.live).toBe(0);
  });

  it('that samples attends to static tokens on the device, beside the host, and merges', () => {
    const { fake, cache, run, dispose } = setUp();
    const sequence = cache.open();
    run([{ sequence, tokens: 190 }]);
    run([{ sequence, tokens: 110 }]);
    expect(cache.devicePages.bytesUsed).toBe(3 * 5 * PAGE);
    const drawn = { ...sampling, end: 210 };
    const keysRead = new Float64Array(1);
    const one = [{ sequence, tokens: 1, sampling: (layer: number) => (layer === 0 ? null : drawn), keysRead }];
    run(one); // makes the tables' buffers
    fake.forget();
    keysRead.fill(0);
    run(one);
    const names = order(fake).slice(order(fake).indexOf('pass computes'));
    const second = names.slice(names.indexOf('pass computes', 1), names.lastIndexOf('pass computes'));
    const sent = ['recordEvent', 'waitEvent', 'recordEvent', 'copyMatrix', 'recordEvent', 'recordEvent'];
    const onHost = ['synchronizeEvent', 'host.attend', 'recordEvent'];
    expect(second).toEqual([
      'pass computes',
      'ropeSplit',
      'rope',
      ...sent,
      'copyMatrix', // tables of the static tokens' pages in all layers
      'recordEvent',
      'attentionDecode',
      ...onHost,
    ]);
    // What the host attended to goes back with what the device computes next.
    expect(names.slice(names.lastIndexOf('pass computes'), -1)).toEqual([
      'pass computes',
      ...['copyMatrix', 'copyMatrix', 'mergeAttention', 'ropeSplit', 'rope'],
      ...['recordEvent', 'synchronizeEvent', 'host.append'], // those of the first layer
      ...sent.slice(1),
      'host.append', // of the second: the device is at work
      'attentionDecode',
      'recordEvent',
      ...onHost,
      'host.append',
      ...['copyMatrix', 'copyMatrix', 'mergeAttention'],
    ]);
    const attended = fake.calls.filter(({ name }) => name === 'host.attend').map(({ args }) => args);
    expect(attended).toEqual([
      [1, [{ ...drawn, sampledOnly: true }]],
      [2, [{ ...drawn, sampledOnly: true }]],
    ]);
    const decoded = fake.calls.filter(({ name }) => name === 'attentionDecode').map(({ args }) => args);
    expect(decoded).toHaveLength(3);
    // Gaps, sequences, ..., pages a sequence, ..., keys at most: four pages of the sampled layers are enough.
    expect(decoded.map((args) => [args[13] !== 0, args[14], args[18], args[20]])).toEqual([
      [false, 1, 8, 512],
      [true, 1, 4, 256],
      [true, 1, 4, 256],
    ]);
    // Of the layers that are sampled the device holds the first tokens, and those from 192 on.
    expect(cache.devicePages.bytesUsed).toBe((5 + 3 + 3) * PAGE);
    expect(keysRead[0]).toBe((302 + 2 * (302 - 206)) * 4);
    expect(sequence.length).toBe(302);
    dispose();
    expect([fake.live, fake.problems]).toEqual([0, []]);
  });

  it('in two groups: each attends while the other one computes', () => {
    const { fake, cache, run, pass, dispose } = setUp();
    const [a, b] = [cache.open(), cache.open()];
    run([{ sequence: a, tokens: 90 }]);
    run([{ sequence: b, tokens: 80 }]);
    run([
      { sequence: a, tokens: 1, sampling: sampled },
      { sequence: b, tokens: 1, sampling: sampled },
    ]);
    fake.forget();
    const [first, second] = [
      pass([{ sequence: a, tokens: 1, sampling: sampled }], 'a'),
      pass([{ sequence: b, tokens: 1, sampling: sampled }], 'b'),
    ];
    for (let turn = 0; turn <= SHAPE.layers; turn += 1) for (const group of [first, second]) group.next();
    const schedule = fake.calls.flatMap(({ name, args }) =>
      /computes|host.attend/.test(name) ? [`${name} ${args[0]}`] : [],
    );
    expect(schedule).toEqual([
      'a computes 0',
      'b computes 0',
      'a computes 1',
      'b computes 1',
      'host.attend 1', // a's, with b's layer 1 queued
      'a computes 2',
      'host.attend 1', // b's, with a's layer 2 queued
      'b computes 2',
      'host.attend 2',
      'host.attend 2',
    ]);
    // The groups' rows travel through different buffers.
    const targets = new Set(
      fake.calls.flatMap(({ name, args }) => (name === 'copyMatrix' && args[6] === 1 ? [args[1]] : [])),
    );
    expect(targets.size).toBeGreaterThan(4);
    expect([a.length, b.length]).toEqual([92, 82]);
    dispose();
    expect([fake.live, fake.problems]).toEqual([0, []]);
  });

  it('waits for events alone, never for all that is queued', () => {
    const { fake, cache, run, dispose } = setUp({ sketchBytes: 2 ** 20 });
    const [a, b] = [cache.open(), cache.open()];
    run([{ sequence: a, tokens: 130 }]);
    run([
      { sequence: a, tokens: 1, sampling: drawn },
      { sequence: b, tokens: 70 },
    ]);
    for (let layer = 0; layer < SHAPE.layers; layer += 1) a.drop(layer);
    run([{ sequence: a, tokens: 1, sampling: drawn }]);
    run([{ sequence: a, tokens: 40 }]);
    run([{ sequence: a, tokens: 1 }]);
    expect(fake.names).toEqual(
      expect.arrayContaining(['sketchDraw', 'host.attend', 'scatterRows', 'synchronizeEvent']),
    );
    expect(fake.names.filter((name) => /^synchronize(Stream|Device)$/.test(name))).toEqual([]);
    dispose();
  });

  it('leaves what is exact to the device beside sequences that sample', () => {
    const { fake, cache, run, dispose } = setUp();
    const sequences = [80, 90, 100, 110].map((tokens) => {
      const sequence = cache.open();
      run([{ sequence, tokens }]);
      return sequence;
    });
    const [first, second, exact, third] = sequences.map((sequence) => ({ sequence, tokens: 1 }));
    const mixed = [
      { ...first!, sampling: sampled },
      { ...second!, sampling: sampled },
      exact!,
      { ...third!, sampling: sampled },
    ];
    run(mixed);
    fake.forget();
    run(mixed);
    const attended = fake.calls.flatMap(({ name, args }) => (name === 'host.attend' ? [args] : []));
    const drawn = { ...sampling, sampledOnly: true };
    expect(attended).toEqual([
      [1, [drawn, drawn]],
      [1, [drawn]],
      [2, [drawn, drawn]],
      [2, [drawn]],
    ]);
    // Of each layer the device attends to all tokens of the exact one, and to the static tokens of the others.
    const decoded = fake.calls.flatMap(({ name, args }) => (name === 'attentionDecode' ? [args] : []));
    expect(decoded.map((args) => `${args[13] === 0 ? 'all' : 'static'} ${args[14]}`)).toEqual([
      'all 2',
      'all 1',
      'all 1',
      'all 1',
      'static 2',
      'static 1',
      'all 1',
      'static 2',
      'static 1',
    ]);
    // A sequence that the device has given up does not take its neighbours to host memory.
    for (let layer = 0; layer < SHAPE.layers; layer += 1) sequences[0]!.drop(layer);
    fake.forget();
    run([first!, second!, exact!]);
    const rows = fake.calls.flatMap(({ name, args }) => (name === 'attentionDecode' ? [args[14]] : []));
    expect(rows).toEqual([2, 2, 2]);
    expect(fake.calls.flatMap(({ name, args }) => (name === 'host.attend' ? [args[1]] : []))).toEqual([
      [null],
      [null],
      [null],
    ]);
    dispose();
    expect([fake.live, fake.problems]).toEqual([0, []]);
  });

  it('of a context that the device does not hold reads it from host memory in stretches', () => {
    const { fake, cache, run, dispose } = setUp({
      pages: CudaKvCache.leastPages({ ...SHAPE, host: {} as FakeHostCache }),
    });
    const sequence = cache.open();
    for (let i = 0; i < 6; i += 1) run([{ sequence, tokens: 200 }]);
    fake.forget();
    run([{ sequence, tokens: 130 }]);
    const read = fake.calls.filter(({ name }) => name === 'host.readKeys').map(({ args }) => args);
    expect(read.filter(([layer]) => layer === 1)).toEqual([
      [1, 0, 0, 512],
      [1, 1, 0, 512],
      [1, 0, 512, 1024],
      [1, 1, 512, 1024],
      [1, 0, 1024, 1200],
      [1, 1, 1024, 1200],
    ]);
    expect(fake.names.filter((name) => name === 'mergeAttention')).toHaveLength(9);
    const prefill = fake.calls.filter(({ name }) => name === 'attentionPrefill').map(({ args }) => args);
    // The step's own keys first, then the stretches: queries, keys, ..., position of the first query, of the first key.
    expect(prefill.slice(0, 4).map((args) => [args[11], args[12], args[16], args[17]])).toEqual([
      [130, 130, 1200, 1200],
      [130, 512, 1200, 0],
      [130, 512, 1200, 512],
      [130, 176, 1200, 1024],
    ]);
    expect(cache.devicePages.bytesUsed).toBe(0);
    // One that decodes attends in host memory.
    fake.forget();
    run([{ sequence, tokens: 1 }]);
    expect(fake.names.filter((name) => /attend|attention/.test(name) && !/Workspace/.test(name))).toEqual(
      Array(3).fill('host.attend'),
    );
    dispose();
    expect([fake.live, fake.problems]).toEqual([0, []]);
  });
});

describe('pages', () => {
  it('are shared by forks, copied where one goes on, and free again when all are gone', () => {
    const { fake, cache, run, dispose } = setUp({ onHost: false });
    const sequence = cache.open();
    run([{ sequence, tokens: 100 }]);
    expect(cache.bytes).toBe(6 * PAGE);
    const fork = sequence.fork();
    expect(cache.bytes).toBe(6 * PAGE);
    fake.forget();
    run([{ sequence: fork, tokens: 1 }]);
    expect(fake.names.filter((name) => name === 'copy')).toHaveLength(3); // the half-filled page of each layer
    expect(cache.bytes).toBe(9 * PAGE);
    fork.truncate(64);
    expect([cache.bytes, fork.length]).toEqual([6 * PAGE, 64]);
    run([{ sequence: fork, tokens: 1 }]);
    expect(fake.names.filter((name) => name === 'copy')).toHaveLength(3);
    sequence[Symbol.dispose]();
    expect(cache.bytes).toBe(6 * PAGE);
    fork[Symbol.dispose]();
    fork[Symbol.dispose]();
    expect(cache.bytes).toBe(0);
    expect(() => fork.length).toThrow(DisposedError);
    dispose();
    expect([fake.live, fake.problems]).toEqual([0, []]);
  });

  it('run out with nothing changed', () => {
    const { cache, run, dispose } = setUp({ pages: 8, onHost: false });
    const [a, b] = [cache.open(), cache.open()];
    run([{ sequence: a, tokens: 100 }]);
    expect(() => run([{ sequence: b, tokens: 65 }])).toThrow(OutOfMemoryError);
    expect([a.length, b.length, cache.bytes]).toEqual([100, 0, 6 * PAGE]);
    a[Symbol.dispose]();
    run([{ sequence: b, tokens: 65 }]);
    dispose();
  });

  it('that decoding missed come back: of sampled layers those of static tokens', () => {
    const { fake, cache, run, dispose } = setUp();
    const { sequence } = cache.load('any'); // 100 tokens in host memory
    const read = () =>
      fake.calls.flatMap(({ name, args }) => (name === 'host.readKeys' && args[1] === 0 ? [args] : []));
    const drawn = { ...sampling, end: 130 };
    const one = [{ sequence, tokens: 1, sampling: (layer: number) => (layer === 0 ? null : drawn) }];
    run([{ sequence, tokens: 100 }]);
    for (let layer = 0; layer < SHAPE.layers; layer += 1) sequence.drop(layer);
    fake.forget();
    run(one);
    expect(fake.calls.filter(({ name }) => name === 'host.attend').map(({ args }) => args[1])).toEqual([
      [null],
      [drawn],
      [drawn],
    ]);
    expect(cache.devicePages.bytesUsed).toBe((4 + 3 + 3) * PAGE);
    expect(read()).toEqual([
      [0, 0, 0, 201],
      [1, 0, 0, 64],
      [1, 0, 128, 201],
      [2, 0, 0, 64],
      [2, 0, 128, 201],
    ]);
    fake.forget();
    run(one);
    expect(read()).toEqual([]);
    expect(fake.names.filter((name) => name === 'attentionDecode')).toHaveLength(3);
    // What is exact again needs the whole layer.
    run([{ sequence, tokens: 1 }]);
    expect(cache.devicePages.bytesUsed).toBe((4 + 4 + 4) * PAGE);
    fake.forget();
    run([{ sequence, tokens: 1 }]);
    expect(fake.names.filter((name) => name === 'host.attend')).toEqual([]);
    dispose();
    expect([fake.live, fake.problems]).toEqual([0, []]);
  });

  it('of static tokens are shared by forks, and gone when a sequence ends where the device has none', () => {
    const { fake, cache, run, dispose } = setUp();
    const sequence = cache.open();
    run([{ sequence, tokens: 200 }]);
    run([{ sequence, tokens: 120 }]);
    run([{ sequence, tokens: 1, sampling: (layer) => (layer === 0 ? null : { ...sampling, end: 260 }) }]);
    expect(cache.devicePages.bytesUsed).toBe((6 + 3 + 3) * PAGE);
    const fork = sequence.fork();
    expect(cache.devicePages.bytesUsed).toBe((6 + 3 + 3) * PAGE);
    run([{ sequence: fork, tokens: 1, sampling: (layer) => (layer === 0 ? null : { ...sampling, end: 260 }) }]);
    expect(cache.devicePages.bytesUsed).toBe((7 + 4 + 4) * PAGE); // the last page of each layer is its own now
    fork.truncate(200);
    expect(cache.devicePages.bytesUsed).toBe((6 + 3 + 3) * PAGE);
    sequence[Symbol.dispose]();
    expect(cache.devicePages.bytesUsed).toBe(4 * PAGE);
    run([{ sequence: fork, tokens: 1, sampling: sampled }]);
    fork.truncate(30);
    expect(cache.devicePages.bytesUsed).toBe(3 * PAGE);
    fork[Symbol.dispose]();
    expect(cache.devicePages.bytesUsed).toBe(0);
    dispose();
    expect([fake.live, fake.problems]).toEqual([0, []]);
  });

  it('of sequences unused for longest make room; what comes back is read from host memory', () => {
    const { fake, cache, run, dispose } = setUp({ pages: 14 });
    const [old, recent, third] = [cache.open(), cache.open(), cache.open()];
    run([{ sequence: old, tokens: 100 }]);
    run([{ sequence: recent, tokens: 100 }]);
    run([{ sequence: third, tokens: 60 }]); // 3 more: 15 of 14
    expect(cache.devicePages.bytesUsed).toBe(9 * PAGE);
    fake.forget();
    recent[Symbol.dispose]();
    run([{ sequence: old, tokens: 30 }]); // a question over what was given up
    expect(
      fake.calls.filter(({ name, args }) => name === 'host.readKeys' && args[0] === 2).map(({ args }) => args),
    ).toEqual([
      [2, 0, 0, 100],
      [2, 1, 0, 100],
    ]);
    expect(fake.names.filter((name) => name === 'scatterRows')).toHaveLength(6);
    expect(cache.devicePages.bytesUsed).toBe(12 * PAGE);
    dispose();
    expect([fake.live, fake.problems]).toEqual([0, []]);
  });
});

describe('steps that come again', () => {
  it('are replayed as graphs', () => {
    const { fake, cache, run, dispose } = setUp();
    const sequence = cache.open();
    run([{ sequence, tokens: 100 }]);
    const launched = Array.from({ length: 4 }, () => {
      fake.forget();
      run([{ sequence, tokens: 1, sampling: sampled }]);
      return fake.names.filter((name) => name === 'launchGraph').length;
    });
    // One by one, then captured: the layers that follow an attention of the host are alike but for their place in memory.
    expect(launched[0]).toBe(0);
    expect(launched.slice(2)).toEqual([2, 2]);
    expect(fake.problems).toEqual([]);
    dispose();
    expect(fake.live).toBe(0);
  });

  it('have their time measured', () => {
    const { cache, run, dispose } = setUp();
    const sequence = cache.open();
    run([{ sequence, tokens: 100 }]);
    const before = { ...cache.times };
    run([{ sequence, tokens: 1, sampling: sampled }]);
    // The fake says that 1.5 ms lie between any two events: rows of three layers, and what followed two attentions of the host.
    expect(cache.times.transfer - before.transfer).toBe(3 * 1.5);
    expect(cache.times.gpu - before.gpu).toBe(2 * 1.5);
    expect(cache.times.attend).toBeGreaterThan(before.attend);
    // ... and the fake host that its threads chose keys for half of the time.
    expect(cache.times.select).toBeGreaterThan(before.select);
    expect(cache.times.select - before.select).toBeLessThanOrEqual(cache.times.attend - before.attend);
    expect(cache.times.idle).toBeGreaterThan(before.idle);
    dispose();
  });
});

describe('arguments', () => {
  it('that do not fit are refused with nothing changed', () => {
    const { cache, dispose } = setUp({ onHost: false });
    const sequence = cache.open();
    const step = (entries: Entry[]) => () => cache.step(entries);
    expect(step([])).toThrow(InvalidArgumentError);
    expect(step([{ sequence, tokens: 201 }])).toThrow(/1 to 200 rows, not 201/);
    expect(step([{ sequence, tokens: 0 }])).toThrow(/tokens/);
    expect(
      step([
        { sequence, tokens: 1 },
        { sequence, tokens: 1 },
      ]),
    ).toThrow(/once in a step/);
    expect(() => sequence.truncate(1)).toThrow(/has only 0 tokens/);
    expect(() => cache.readKeys(sequence, 0, 0, 0, 1)).toThrow(/end must be/);
    expect(() => cache.save(sequence, '/tmp/x')).toThrow(/on the device alone/);
    sequence[Symbol.dispose]();
    expect(step([{ sequence, tokens: 1 }])).toThrow(DisposedError);
    expect(() => setUp({ pages: 2 })).toThrow(OutOfMemoryError);
    dispose();
  });
});
