// What runs on the emulated device everywhere, and on the GPU where there is one.
import { afterAll, beforeAll, describe } from 'vitest';
import { availability, Device, type DeviceArray, type Stream } from '../src/index.js';
import { fromBf16, toBf16 } from './bf16.js';
import { randoms } from './randoms.js';

/** A device, a stream on it, and short ways to bring values there and back. */
export class Bench {
  device!: Device;
  stream!: Stream;
  readonly normals = randoms(20241016).normals;
  readonly f32 = (values: Float32Array) => this.device.upload('f32', values);
  readonly bf16 = (values: Float32Array) => this.device.upload('bf16', toBf16(values));
  readonly i32 = (values: number[]) => this.device.upload('i32', Int32Array.from(values));
  readonly floats = (array: DeviceArray<'bf16'>) => fromBf16(array.read());
}

/** Defines tests for the emulated device, and for the GPU; those are skipped, with the reason, where there is none. */
export function onDevices(define: (bench: Bench) => void): void {
  const found = availability();
  describe.each([
    ['emulated', true],
    ['CUDA', found.available],
  ] as const)('%s device', (name, present) => {
    describe.skipIf(!present)(present ? 'present' : `skipped: ${(found as { reason: string }).reason}`, () => {
      const bench = new Bench();
      beforeAll(() => {
        bench.device = new Device({ emulate: name === 'emulated' });
        bench.stream = bench.device.stream();
      });
      afterAll(() => bench.device[Symbol.dispose]());
      define(bench);
    });
  });
}
