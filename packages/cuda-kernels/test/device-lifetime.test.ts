// What remains on the emulated device: after a thread has ended, after failures at every call.
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { add, Device } from '../src/index.js';

describe('a thread that ends without disposing', () => {
  it('gives its memory back', async () => {
    const free = () => {
      using device = new Device({ emulate: true });
      return device.freeMemory;
    };
    const before = free();
    const addon = fileURLToPath(new URL('../build/Release/magicpig_cuda_kernels_emulated.node', import.meta.url));
    const code = `
      const native = require(${JSON.stringify(addon)});
      native.createStream();
      native.createEvent(false);
      native.allocatePinned(1000);
      require('node:worker_threads').parentPort.postMessage(native.allocate(2 ** 20).status);
      setInterval(() => {}, 1000);`;
    const worker = new Worker(code, { eval: true });
    expect(await new Promise((resolve) => worker.once('message', resolve))).toBe(0);
    expect(free()).toBe(before - 2 ** 20);
    await worker.terminate();
    expect(free()).toBe(before);
  });
});

describe('failures of the emulated device at every call', () => {
  it('surface as typed errors and leak nothing', async () => {
    const { emulatedAddon } = await import('../src/availability.js');
    const addon = emulatedAddon();
    if (!('native' in addon)) throw new Error(addon.reason);
    const { native } = addon;
    const work = () => {
      using device = new Device({ emulate: true });
      using stream = device.stream();
      using event = device.event();
      const pinned = device.pinned('f32', 64);
      const x = device.upload('f32', new Float32Array(64).fill(1));
      stream.copy(pinned, x);
      using graph = stream.capture(() => add(stream, { x, y: x }));
      stream.launch(graph);
      stream.record(event);
      event.synchronize();
      return x.read()[0];
    };
    const free = () => {
      using device = new Device({ emulate: true });
      return device.freeMemory;
    };
    const before = free();
    let failing = 0;
    for (;;) {
      native.emulatorFailCall!(++failing, 1);
      try {
        expect(work()).toBe(2);
        native.emulatorFailCall!(0, 0);
        break; // more calls than the work makes
      } catch (error) {
        native.emulatorFailCall!(0, 0);
        expect(['CUDA_ERROR', 'UNAVAILABLE']).toContain((error as { code: string }).code);
      }
      expect(free()).toBe(before);
    }
    expect(failing).toBeGreaterThan(12);
  });
});
