import { describe, expect, it } from 'vitest';
import {
  add,
  CudaError,
  DeviceLostError,
  DisposedError,
  InvalidArgumentError,
  linear,
  OutOfMemoryError,
  rmsNorm,
} from '../src/index.js';
import { FakeNative } from './fake-native.js';

const ILLEGAL_ADDRESS = 700;
const OUT_OF_MEMORY = 2;
const INVALID_VALUE = 1;
const NOT_READY = 600;
const NOT_SUPPORTED = 801;

describe('lifetimes', () => {
  it('frees everything with the device, each thing once', () => {
    const fake = new FakeNative();
    {
      using device = fake.device();
      const stream = device.stream();
      const x = device.array('f32', 1000);
      device.pinned('u8', 4096);
      device.event();
      stream.capture(() => add(stream, { x, y: x }));
      expect(fake.live).toBe(5);
      expect(device.memory).toMatchObject({ used: 4000, peak: 4000, pinned: 4096 });
    }
    expect(fake.live).toBe(0);
    expect(fake.problems).toEqual([]);
  });

  it('frees a thing at once when it is disposed of, and only once', () => {
    const fake = new FakeNative();
    using device = fake.device();
    const x = device.array('bf16', 10);
    const pinned = device.pinned('f32', 10);
    expect(pinned.host.length).toBe(10);
    for (let i = 0; i < 2; ++i) {
      x[Symbol.dispose]();
      pinned[Symbol.dispose]();
    }
    expect(fake.live).toBe(0);
    expect(fake.problems).toEqual([]);
    expect(pinned.host.length).toBe(0);
    expect(device.memory).toMatchObject({ used: 0, peak: 20, pinned: 0 });
  });

  it('refuses what was disposed of', () => {
    const fake = new FakeNative();
    const device = fake.device();
    const stream = device.stream();
    const x = device.array('f32', 8);
    const part = x.view(4);
    x[Symbol.dispose]();
    expect(() => x.address).toThrow(DisposedError);
    expect(() => part.address).toThrow(DisposedError);
    expect(() => add(stream, { x, y: x })).toThrow(DisposedError);
    expect(() => x.write(new Float32Array(8))).toThrow(DisposedError);
    const event = device.event();
    event[Symbol.dispose]();
    expect(() => stream.record(event)).toThrow(DisposedError);
    stream[Symbol.dispose]();
    expect(() => stream.synchronize()).toThrow(DisposedError);
    device[Symbol.dispose]();
    expect(() => device.array('f32', 1)).toThrow(DisposedError);
    expect(fake.problems).toEqual([]);
  });

  it('views share memory, start where they say and own nothing', () => {
    const fake = new FakeNative();
    using device = fake.device();
    const x = device.array('bf16', 100);
    const part = x.view(16, 20).view(8);
    expect(part.address - x.address).toBe(48);
    expect(part.length).toBe(12);
    part[Symbol.dispose]();
    expect(x.disposed).toBe(false);
    expect(() => x.view(90, 11)).toThrow(InvalidArgumentError);
  });
});

describe('memory that was there before', () => {
  it('is locked in place, unlocked on disposal, and left alone', () => {
    const fake = new FakeNative();
    using device = fake.device();
    using stream = device.stream();
    const data = Float32Array.of(1, 2, 3);
    const pinned = device.pin('f32', data);
    expect(pinned.host).toBe(data);
    expect(device.memory.pinned).toBe(12);
    stream.copy(device.array('f32', 3), pinned);
    pinned[Symbol.dispose]();
    expect(device.memory.pinned).toBe(0);
    expect(data.length).toBe(3);
    expect(() => stream.copy(device.array('f32', 3), pinned)).toThrow(DisposedError);
    expect(() => device.pin('bf16', data as never)).toThrow(/must be a Uint16Array/);
    fake.failures.set('pinArray', OUT_OF_MEMORY);
    expect(() => device.pin('f32', data)).toThrow(OutOfMemoryError);
    expect(fake.problems).toEqual([]);
  });

  it('one allocation can be carved into arrays of several types', () => {
    const fake = new FakeNative();
    using device = fake.device();
    const arena = device.array('u8', 1000);
    const [a, b] = [arena.view(0, 256).as('f32'), arena.view(256, 101).as('bf16')];
    expect([a.length, a.dtype, b.length, b.dtype]).toEqual([64, 'f32', 50, 'bf16']);
    expect(b.address - arena.address).toBe(256);
    arena[Symbol.dispose]();
    expect(() => a.address).toThrow(DisposedError);
  });
});

describe('order', () => {
  it('queues exactly what is asked, in order', () => {
    const fake = new FakeNative();
    using device = fake.device();
    using copies = device.stream();
    using compute = device.stream();
    using uploaded = device.event();
    using x = device.array('f32', 64);
    using host = device.pinned('f32', 64);
    fake.forget();
    copies.copy(x, host);
    copies.record(uploaded);
    compute.wait(uploaded);
    add(compute, { x, y: x });
    compute.copy(host, x);
    compute.synchronize();
    expect(fake.names).toEqual(['copy', 'recordEvent', 'waitEvent', 'add', 'copy', 'synchronizeStream']);
    expect(fake.calls[0]!.args.slice(1)).toEqual([x.address, host.address, 256]);
    expect(fake.calls[4]!.args.slice(1)).toEqual([host.address, x.address, 256]);
    expect(fake.problems).toEqual([]);
  });

  it('chooses the device before its first call, and again only when another was used', () => {
    const fake = new FakeNative();
    using a = fake.device();
    using b = fake.device({ index: 3 });
    fake.forget();
    a.array('u8', 1);
    a.array('u8', 1);
    b.array('u8', 1);
    a.array('u8', 1);
    expect(fake.names).toEqual(['setDevice', 'allocate', 'allocate', 'setDevice', 'allocate', 'setDevice', 'allocate']);
  });

  it('ends a capture whose body throws, and leaves no graph', () => {
    const fake = new FakeNative();
    using device = fake.device();
    using stream = device.stream();
    fake.forget();
    expect(() =>
      stream.capture(() => {
        throw new Error('changed my mind');
      }),
    ).toThrow('changed my mind');
    expect(fake.names.filter((name) => name !== 'openCublasLt')).toEqual([
      'beginCapture',
      'endCapture',
      'destroyGraph',
    ]);
    expect(() => stream.capture(() => stream.capture(() => {}))).toThrow(InvalidArgumentError);
    using graph = stream.capture(() => {});
    stream.launch(graph);
    expect(fake.problems).toEqual([]);
  });

  it('waits for an event without blocking the event loop', async () => {
    const fake = new FakeNative();
    using device = fake.device();
    using event = device.event();
    fake.failures.set('queryEvent', NOT_READY);
    expect(event.passed).toBe(false);
    fake.failures.set('queryEvent', NOT_READY);
    await event.done();
    expect(event.passed).toBe(true);
  });
});

describe('products of many rows', () => {
  const sizes = { rows: 32, outputs: 64, inputs: 128 };
  const run = (fake: FakeNative, more: object = {}) => {
    using device = fake.device();
    using stream = device.stream();
    const arrays = {
      out: device.array('f32', sizes.rows * sizes.outputs),
      x: device.array('bf16', sizes.rows * sizes.inputs),
      weight: device.array('bf16', sizes.outputs * sizes.inputs),
    };
    fake.forget();
    linear(stream, { ...arrays, ...sizes, ...more });
    if ('bias' in more) return [];
    return fake.names.filter((name) => ['linear', 'gemm', 'multiplyCublasLt', 'addBias'].includes(name));
  };
  const withCublasLt = () => {
    const fake = new FakeNative();
    fake.cublasLt = { open: true, path: '/lib/libcublasLt.so', whyNot: '', workspaceBytes: 1024 };
    return fake;
  };

  it('go through cuBLASLt where it is, through our own kernel where not, and few rows through neither', () => {
    expect(run(withCublasLt())).toEqual(['multiplyCublasLt']);
    expect(run(new FakeNative())).toEqual(['gemm']);
    expect(run(withCublasLt(), { rows: 16 })).toEqual(['linear']);
    expect(run(withCublasLt(), { use: 'own' })).toEqual(['gemm']);
  });

  it('fall back when cuBLASLt has no algorithm', () => {
    const fake = withCublasLt();
    fake.failures.set('multiplyCublasLt', NOT_SUPPORTED);
    expect(run(fake)).toEqual(['multiplyCublasLt', 'gemm']);
  });

  it('add the bias first, and give each stream its own workspace', () => {
    const fake = withCublasLt();
    using device = fake.device();
    const bias = device.array('f32', sizes.outputs);
    const workspaces = [1, 2].map(() => {
      const stream = device.stream();
      const out = device.array('f32', sizes.rows * sizes.outputs);
      const x = device.array('bf16', sizes.rows * sizes.inputs);
      const weight = device.array('bf16', sizes.outputs * sizes.inputs);
      fake.forget();
      linear(stream, { out, x, weight, bias, ...sizes });
      expect(fake.names.slice(-2)).toEqual(['addBias', 'multiplyCublasLt']);
      const args = fake.calls.at(-1)!.args;
      expect(args[7]).toBe(true); // accumulates onto the bias
      return args[8];
    });
    expect(workspaces[0]).not.toBe(workspaces[1]);
    expect(fake.problems).toEqual([]);
  });
});

describe('failures', () => {
  it('out of memory is an error that everything else survives', () => {
    const fake = new FakeNative();
    using device = fake.device();
    using before = device.array('f32', 100);
    fake.failures.set('allocate', OUT_OF_MEMORY);
    const failed = (() => {
      try {
        device.array('f32', 1000);
      } catch (error) {
        return error;
      }
      return undefined;
    })();
    expect(failed).toBeInstanceOf(OutOfMemoryError);
    expect(failed).toMatchObject({ code: 'OUT_OF_MEMORY', requested: 4000 });
    expect(device.memory.used).toBe(400);
    expect(device.lost).toBe(false);
    using after = device.array('f32', 1000);
    expect(after.address).not.toBe(before.address);
    fake.failures.set('allocatePinned', OUT_OF_MEMORY);
    expect(() => device.pinned('u8', 10)).toThrow(OutOfMemoryError);
    expect(device.memory.pinned).toBe(0);
  });

  it('keeps to its limit', () => {
    const fake = new FakeNative();
    using device = fake.device({ memoryLimit: 1000 });
    using _x = device.array('u8', 900);
    expect(() => device.array('u8', 101)).toThrow(/900 of the limit of 1000/);
    fake.forget();
    expect(() => device.array('f32', 1000)).toThrow(OutOfMemoryError);
    expect(fake.names).toEqual([]);
    using _y = device.array('u8', 100);
  });

  it('gives back what it allocated when an upload fails', () => {
    const fake = new FakeNative();
    using device = fake.device();
    fake.failures.set('copyArray', INVALID_VALUE);
    expect(() => device.upload('f32', new Float32Array(10))).toThrow(CudaError);
    expect(fake.live).toBe(0);
    expect(device.memory.used).toBe(0);
  });

  it('names the status, and goes on after an error that is not sticky', () => {
    const fake = new FakeNative();
    using device = fake.device();
    using stream = device.stream();
    using x = device.array('f32', 64);
    using out = device.array('f32', 64);
    const norm = () => rmsNorm(stream, { out, x, weight: x, rows: 1, columns: 64, epsilon: 1e-5 });
    fake.failures.set('rmsNormF32', INVALID_VALUE);
    expect(norm).toThrow(
      expect.objectContaining({ code: 'CUDA_ERROR', status: INVALID_VALUE, statusName: 'cudaError1' }),
    );
    expect(norm).not.toThrow();
  });

  it('a lost device says so at every call, and can still be disposed of', () => {
    const fake = new FakeNative();
    const device = fake.device();
    const stream = device.stream();
    const x = device.array('f32', 64);
    fake.failures.set('synchronizeStream', ILLEGAL_ADDRESS);
    expect(() => stream.synchronize()).toThrow(DeviceLostError);
    expect(device.lost).toBe(true);
    for (const call of [
      () => device.array('u8', 1),
      () => device.stream(),
      () => add(stream, { x, y: x }),
      () => x.read(),
    ]) {
      expect(call).toThrow(DeviceLostError);
    }
    fake.failures.set('free', ILLEGAL_ADDRESS);
    expect(() => device[Symbol.dispose]()).not.toThrow();
    expect(fake.live).toBe(0);
    expect(fake.problems).toEqual([]);
  });

  it.each([709, 719, 810, 911, 999])('loses the device to status %d', (status) => {
    const fake = new FakeNative();
    using device = fake.device();
    using stream = device.stream();
    fake.failures.set('synchronizeStream', status);
    expect(() => stream.synchronize()).toThrow(DeviceLostError);
    expect(device.lost).toBe(true);
  });

  it.each(['createStream', 'createEvent', 'endCapture', 'beginCapture'])('leaks nothing when %s fails', (name) => {
    const fake = new FakeNative();
    {
      using device = fake.device();
      const attempt = () => {
        using stream = device.stream();
        using _event = device.event();
        stream.capture(() => {});
      };
      fake.failures.set(name, INVALID_VALUE);
      expect(attempt).toThrow(CudaError);
    }
    expect(fake.live).toBe(0);
    expect(fake.problems).toEqual([]);
  });

  it('refuses copies that do not fit, convert or cross devices', () => {
    const fake = new FakeNative();
    using device = fake.device();
    using other = fake.device({ index: 1 });
    using stream = device.stream();
    const f32 = device.array('f32', 4);
    expect(() => stream.copy(f32, device.array('f32', 5))).toThrow(/holds 4 elements, from 5/);
    expect(() => stream.copy(f32 as never, device.array('i32', 4) as never)).toThrow(/does not convert/);
    expect(() => stream.copy(f32, other.array('f32', 4))).toThrow(InvalidArgumentError);
    expect(() => f32.write(new Float32Array(5))).toThrow(InvalidArgumentError);
    expect(() => f32.write(new Int32Array(4) as never)).toThrow(/must be a Float32Array/);
  });
});
