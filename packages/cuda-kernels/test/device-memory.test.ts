// Memory, copies, graphs.
import { expect, it } from 'vitest';
import { add, OutOfMemoryError } from '../src/index.js';
import { onDevices } from './on-devices.js';

onDevices((bench) => {
  it('describes itself', () => {
    const { device } = bench;
    expect(device.properties.name).not.toBe('');
    expect(device.properties.computeCapability).toMatch(/^\d+\.\d$/);
    expect(device.properties.totalMemory).toBeGreaterThan(2 ** 30);
    expect(device.freeMemory).toBeGreaterThan(0);
  });

  it('copies through pinned memory in the background, ordered by events', () => {
    const { device, stream, normals } = bench;
    using copies = device.stream();
    using event = device.event();
    const host = device.pinned('f32', 100);
    const back = device.pinned('f32', 100);
    host.host.set(normals(100));
    const x = device.array('f32', 100);
    copies.copy(x, host);
    copies.record(event);
    stream.wait(event);
    add(stream, { x, y: x });
    stream.copy(back, x);
    stream.synchronize();
    expect([...back.host]).toEqual([...host.host].map((value) => value * 2));
  });

  it('copies from memory that was there before, once it is locked', () => {
    const { device, stream, normals } = bench;
    const data = normals(5000);
    const x = device.array('f32', 5000);
    using pinned = device.pin('f32', data);
    stream.copy(x, pinned);
    stream.synchronize();
    expect(x.read()).toEqual(data);
  });

  it('replays a captured stretch with the data of the moment', async () => {
    const { device, stream, f32 } = bench;
    using start = device.event({ timed: true });
    using end = device.event({ timed: true });
    const x = f32(new Float32Array(64).fill(1));
    const y = f32(new Float32Array(64).fill(2));
    using graph = stream.capture(() => {
      add(stream, { x, y });
      add(stream, { x, y });
    });
    expect(x.read()[0]).toBe(1);
    stream.record(start);
    stream.launch(graph);
    stream.launch(graph);
    stream.record(end);
    await end.done();
    expect([...x.read()]).toEqual(Array(64).fill(9));
    expect(end.millisecondsSince(start)).toBeGreaterThanOrEqual(0);
  });

  it('survives running out of memory', () => {
    const { device, f32 } = bench;
    const before = device.memory.used;
    expect(() => device.array('u8', device.properties.totalMemory)).toThrow(OutOfMemoryError);
    expect(device.memory.used).toBe(before);
    const x = f32(Float32Array.of(1, 2, 3));
    expect([...x.read()]).toEqual([1, 2, 3]);
  });
});
