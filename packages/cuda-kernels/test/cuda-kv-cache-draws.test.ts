// Draws of keys on the device, against one that computes nothing: what is queued when, and what the host attends with.
import { describe, expect, it } from 'vitest';
import { type CudaKvSequence, type KeySketches, type Sampling, SketchPool } from '../src/index.js';
import { drawn, SHAPE, SKETCHES, sampling, setUp } from './fake-cache.js';

describe('draws on the device', () => {
  const pageBytes = SketchPool.pageBytes(SHAPE, 2);

  it('are queued behind the rows that leave, and selected from where they arrive', () => {
    const { fake, cache, run, dispose } = setUp({ sketchBytes: 4 * pageBytes });
    const sequence = cache.open();
    run([{ sequence, tokens: 190 }]);
    run([{ sequence, tokens: 1, sampling: drawn }]);
    // All 56 keys of both sampled layers, from the pages that the device holds.
    const encoded = () =>
      fake.calls.filter(({ name }) => name === 'sketchEncode').map(({ args }) => args.slice(14, 16));
    expect(encoded()).toEqual([
      [0, 56],
      [0, 56],
    ]);
    expect(fake.names).not.toContain('host.readKeys');
    fake.forget();
    SKETCHES[1]!.errors.length = 0;
    run([{ sequence, tokens: 1, sampling: drawn }]);
    expect(encoded()).toEqual([]);
    const names = fake.names.filter((name) =>
      /^(copyMatrix|sketchDraw|attentionDecode|host\.\w+|setSamples)$/.test(name),
    );
    expect(names.slice(names.lastIndexOf('sketchDraw') - 4)).toEqual([
      'host.append', // of the first layer
      'copyMatrix', // rows
      'host.append', // of the second layer
      'copyMatrix', // keys, steps, pages
      'sketchDraw',
      'copyMatrix', // samples
      'attentionDecode',
      'setSamples',
      'host.attend',
      'host.append',
      'copyMatrix',
      'copyMatrix',
    ]);
    const attended = fake.calls.filter(({ name }) => name === 'host.attend').map(({ args }) => args[1] as Sampling[]);
    for (const [one] of attended) expect(one!.selector).toEqual({ selects: 'samples' });
    expect(SKETCHES[1]!.errors).toEqual([0]);
    dispose();
    expect([fake.live, fake.problems]).toEqual([0, []]);
  });

  it('follow the keys as more are indexed, and start anew where a sequence was cut or has another index', () => {
    const { fake, cache, run, dispose } = setUp({ sketchBytes: 8 * pageBytes });
    const sequence = cache.open();
    run([{ sequence, tokens: 190 }]);
    const encoded = (end: number, sketch = SKETCHES[1]!) => {
      fake.forget();
      run([{ sequence, tokens: 1, sampling: (layer) => (layer === 1 ? { ...sampling, end, sketch } : null) }]);
      // First key and rows.
      return fake.calls.filter(({ name }) => name === 'sketchEncode').map(({ args }) => [args[14], args[15]]);
    };
    expect(encoded(100)).toEqual([[0, 96]]);
    expect(encoded(100)).toEqual([]);
    expect(encoded(164)).toEqual([[96, 64]]);
    sequence.truncate(150);
    expect(encoded(148)).toEqual([]);
    sequence.truncate(120);
    run([{ sequence, tokens: 40 }]);
    expect(encoded(150)).toEqual([[116, 30]]);
    expect(encoded(150, SKETCHES[2]!)).toEqual([]); // around the same centre
    expect(encoded(150, { ...SKETCHES[2]!, centre: () => new Float32Array(16).fill(1) })).toEqual([[0, 146]]);
    // The device has given up what lies between: it is read from host memory.
    expect(fake.names).toContain('host.readKeys');
    dispose();
    expect([fake.live, fake.problems]).toEqual([0, []]);
  });

  it('are the host’s where there is no room for sketches, or they are of another kind', () => {
    const { fake, cache, run, dispose } = setUp({ sketchBytes: 1 });
    const [a, b] = [cache.open(), cache.open()];
    for (const sequence of [a, b]) run([{ sequence, tokens: 90 }]);
    const draws = (sequence: CudaKvSequence, sketch: KeySketches) => {
      fake.forget();
      run([{ sequence, tokens: 1, sampling: (layer) => (layer === 1 ? { ...sampling, sketch } : null) }]);
      return fake.names.filter((name) => name === 'sketchDraw').length;
    };
    expect(draws(a, SKETCHES[1]!)).toBe(1); // there is one page
    expect(draws(b, SKETCHES[1]!)).toBe(0);
    expect(draws(a, { ...SKETCHES[1]!, bits: 3 })).toBe(0);
    a[Symbol.dispose]();
    expect(draws(b, SKETCHES[1]!)).toBe(1);
    dispose();
    expect([fake.live, fake.problems]).toEqual([0, []]);
  });

  it('are made from pages that forks and sequences that begin alike share', () => {
    const { fake, cache, run, dispose } = setUp({ pages: 200, sketchBytes: 5 * pageBytes });
    const first = cache.open();
    const read = (sequence: CudaKvSequence, tokens: number) => {
      while (sequence.length < tokens) run([{ sequence, tokens: Math.min(200, tokens - sequence.length) }]);
    };
    /** Draws once in layer 1 from keys up to token `end`; the first keys and numbers of those encoded, unless the host draws. */
    const draw = (sequence: CudaKvSequence, end: number, sketch: KeySketches = { ...SKETCHES[1]! }) => {
      fake.forget();
      run([{ sequence, tokens: 1, sampling: (layer) => (layer === 1 ? { ...sampling, end, sketch } : null) }]);
      if (!fake.names.includes('sketchDraw')) return 'on the host';
      return fake.calls.flatMap(({ name, args }) => (name === 'sketchEncode' ? [[args[14], args[15]]] : []));
    };
    const pagesOf = (sequence: CudaKvSequence) => sequence.sketches[1]!.pages;
    read(first, 1300);
    const before = first.fork(); // before there are any sketches
    expect(draw(first, 1204)).toEqual([
      [0, 512],
      [512, 512],
      [1024, 176],
    ]);
    // A fork has what there is, and a last page of its own once it goes on.
    const fork = first.fork();
    expect(draw(fork, 1204)).toEqual([]);
    expect(pagesOf(fork)).toEqual(pagesOf(first));
    expect(draw(fork, 1254)).toEqual([[1024, 226]]);
    expect(pagesOf(fork)[0]).toBe(pagesOf(first)[0]);
    expect(pagesOf(fork)[1]).not.toBe(pagesOf(first)[1]);
    expect(draw(first, 1214)).toEqual([[1200, 10]]);
    // So has a sequence that was forked before, where pages are full; not around another centre.
    expect(draw(before, 1254)).toEqual([[1024, 226]]);
    expect(pagesOf(before)[0]).toBe(pagesOf(first)[0]);
    // One page is left: another centre finds no room, and is the host's.
    const moved = { ...SKETCHES[1]!, centre: () => new Float32Array(16).fill(1) };
    const stranger = fork.fork();
    expect(draw(stranger, 1254, moved)).toBe('on the host');
    stranger[Symbol.dispose]();
    // What only waits to be forked gives its pages up.
    first[Symbol.dispose]();
    const kept = fork.fork();
    fork[Symbol.dispose]();
    before[Symbol.dispose]();
    const other = cache.open();
    read(other, 4200);
    expect(draw(other, 4100)).toHaveLength(8);
    expect(kept.sketches[1]).toBeUndefined();
    dispose();
    expect([fake.live, fake.problems]).toEqual([0, []]);
  });

  it('are made again, with more room, when there are more keys than expected', () => {
    const { fake, cache, run, pass, dispose } = setUp({ sketchBytes: 4 * pageBytes });
    const sequence = cache.open();
    run([{ sequence, tokens: 90 }]);
    const step = pass([{ sequence, tokens: 1, sampling: drawn }]);
    step.next();
    step.next(); // layer 1 is under way
    const samplesOf = (room: number) =>
      [...fake.buffers.values()].filter(({ byteLength }) => byteLength === SHAPE.queryHeads * (2 + 2 * room) * 4);
    const [samples] = samplesOf(256);
    new Int32Array(samples!)[0] = 300;
    fake.forget();
    step.next();
    const names = fake.names.filter((name) => /^(sketchDraw|synchronizeEvent|setSamples|host\.attend)$/.test(name));
    expect(names.slice(0, 6)).toEqual([
      'synchronizeEvent', // rows
      'synchronizeEvent', // samples
      'sketchDraw',
      'synchronizeEvent',
      'setSamples',
      'host.attend',
    ]);
    expect([samplesOf(256).length, samplesOf(512).length]).toEqual([0, 1]);
    for (const _ of step);
    dispose();
    expect([fake.live, fake.problems]).toEqual([0, []]);
  });
});
