// Streams that hold work back and replay what comes again as a graph.
import { describe, expect, it } from 'vitest';
import { add, CudaError, type DeviceArray, DeviceLostError, type Stream } from '../src/index.js';
import { FakeNative } from './fake-native.js';
import { onDevices } from './on-devices.js';

const INVALID_VALUE = 1;
const ILLEGAL_ADDRESS = 700;

function setUp() {
  const fake = new FakeNative();
  const device = fake.device();
  const stream = device.stream({ replay: true });
  const [a, b] = [device.array('f32', 64), device.array('f32', 64)];
  const work = (count = 64) => {
    stream.fill(a);
    stream.copy(b, a);
    add(stream, { x: b, y: a, count });
  };
  const names = () => {
    const seen = fake.names.filter((name) => name !== 'setDevice');
    fake.forget();
    return seen;
  };
  names();
  return { fake, device, stream, a, b, work, names };
}

const WORK = ['fillBytes', 'copy', 'add'];

describe('a stream that replays', () => {
  it('holds work back until it is wanted; calls it one by one, then captures it, then launches the graph', () => {
    const { fake, device, stream, work, names } = setUp();
    work();
    expect(names()).toEqual([]);
    stream.flush();
    expect(names()).toEqual(WORK);
    work();
    stream.flush();
    expect(names()).toEqual(['beginCapture', 'endCapture', 'launchGraph', ...WORK]);
    for (let i = 0; i < 3; i += 1) {
      work();
      stream.flush();
      expect(names()).toEqual(['launchGraph', ...WORK]);
    }
    stream.flush();
    expect(names()).toEqual([]);
    stream[Symbol.dispose]();
    device[Symbol.dispose]();
    expect([fake.live, fake.problems]).toEqual([0, []]);
  });

  it('is in order with events and with what waits', () => {
    const { device, stream, a, work, names } = setUp();
    const event = device.event();
    work();
    stream.record(event);
    expect(names()).toEqual(['createEvent', ...WORK, 'recordEvent']);
    for (const [wait, calls] of [
      [() => stream.wait(event), ['waitEvent']],
      [() => stream.synchronize(), ['synchronizeStream']],
      [() => device.synchronize(), ['synchronizeDevice']],
      [() => a.read(), ['synchronizeDevice', 'copyArray']],
      [() => a.write(new Float32Array(64)), ['copyArray']],
      [() => a[Symbol.dispose](), ['free']],
    ] as const) {
      stream.fill(a);
      wait();
      expect(names()).toEqual(['fillBytes', ...calls]);
    }
    device[Symbol.dispose]();
  });

  it('takes other arguments for other work', () => {
    const { stream, work, names } = setUp();
    for (const count of [64, 32, 64, 32]) {
      work(count);
      stream.flush();
    }
    expect(names().filter((name) => name === 'launchGraph')).toHaveLength(2);
    work(16);
    stream.flush();
    expect(names()).toEqual(WORK);
  });

  it('keeps the graphs used last', () => {
    const { fake, stream, work, names } = setUp();
    const run = (count: number) => {
      work(count);
      stream.flush();
    };
    run(1);
    run(1);
    for (let count = 2; count <= 64; count += 1) run(count);
    names();
    run(1);
    expect(names()).toContain('launchGraph');
    const graphs = () => [...fake.handles.values()].filter((kind) => kind === 'graph').length;
    for (let size = 1; size <= 300; size += 1) {
      for (let i = 0; i < 4; i += 1) stream.fill(stream.device.array('u8', size));
      stream.flush();
    }
    expect(graphs()).toBe(0);
    run(1);
    expect(names()).not.toContain('launchGraph');
    expect(fake.problems).toEqual([]);
  });

  it('reports errors when work is queued, and goes on', () => {
    const { fake, device, stream, work, names } = setUp();
    for (const call of [...WORK, 'launchGraph']) {
      fake.failures.set(call, INVALID_VALUE);
      const attempts = [0, 1, 2].map(() => {
        work();
        try {
          stream.flush();
          return 'done';
        } catch (error) {
          expect(error).toBeInstanceOf(CudaError);
          return 'failed';
        }
      });
      expect(
        attempts.filter((result) => result === 'failed'),
        call,
      ).toHaveLength(1);
      // Other arguments, so that the next call's failure meets work that was not seen before.
      names();
      for (let i = 0; i < 300; i += 1) {
        for (let j = 0; j < 4; j += 1) stream.fill(device.array('u8', i + 1));
        stream.flush();
      }
    }
    device[Symbol.dispose]();
    expect([fake.live, fake.problems]).toEqual([0, []]);
  });

  it('calls one by one what cannot be captured', () => {
    for (const call of ['beginCapture', 'endCapture']) {
      const { fake, device, stream, work, names } = setUp();
      work();
      stream.flush();
      fake.failures.set(call, INVALID_VALUE);
      names();
      for (let i = 0; i < 3; i += 1) {
        work();
        stream.flush();
        const seen = names();
        expect(seen).not.toContain('launchGraph');
        expect(i === 0 ? seen.slice(-WORK.length) : seen).toEqual(WORK);
      }
      stream[Symbol.dispose]();
      device[Symbol.dispose]();
      expect([fake.live, fake.problems]).toEqual([0, []]);
    }
  });

  it('remembers an error of work that was queued as memory went away', () => {
    const { fake, device, stream, b, work } = setUp();
    work();
    fake.failures.set('add', INVALID_VALUE);
    b[Symbol.dispose]();
    expect(() => stream.flush()).toThrow(CudaError);
    stream.flush();
    const c = device.array('f32', 64);
    stream.fill(c);
    fake.failures.set('fillBytes', ILLEGAL_ADDRESS);
    c[Symbol.dispose]();
    expect(device.lost).toBe(true);
    expect(() => stream.flush()).toThrow(DeviceLostError);
    device[Symbol.dispose]();
    expect([fake.live, fake.problems]).toEqual([0, []]);
  });
});

onDevices((bench) => {
  it('replayed work does what it did', () => {
    const { device, f32 } = bench;
    using stream = device.stream({ replay: true });
    const values = Float32Array.from({ length: 300 }, (_, i) => i);
    const [x, sum] = [f32(values), device.array('f32', 300)];
    const step = (queue: Stream, out: DeviceArray<'f32'>) => {
      for (let i = 0; i < 4; i += 1) add(queue, { x: out, y: x, count: 300 });
      queue.flush();
    };
    stream.fill(sum);
    for (let i = 1; i <= 4; i += 1) {
      step(stream, sum);
      expect([...sum.read()]).toEqual([...values.map((value) => 4 * i * value)]);
    }
    // Other values in the same place.
    x.write(values.map(() => 1));
    stream.fill(sum);
    stream.flush();
    step(stream, sum);
    expect([...sum.read()]).toEqual(Array(300).fill(4));
  });
});
