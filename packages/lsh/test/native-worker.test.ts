import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';

const ADDON = fileURLToPath(new URL('../build/Release/magicpig_lsh.node', import.meta.url));

/** Starts an add of many vectors in a worker and says so. */
const CODE = `
  const { parentPort, workerData } = require('node:worker_threads');
  const addon = require(workerData);
  const tables = new addon.Tables({
    projection: new addon.Projection(false, 64, 10, 150, 1), heads: 1, minCollisions: 2, minProbability: 1e-4, norms: true,
    keep: 'f32', logTable: new Float32Array(17), center: 'none', pool: 2,
  });
  const control = new Uint32Array(new SharedArrayBuffer(8));
  tables.addAsync(0, new Float32Array(64 * 200_000).fill(1), control);
  parentPort.postMessage(control);
`;

describe('a worker thread', () => {
  it('can be terminated while the addon works for it', async () => {
    const worker = new Worker(CODE, { eval: true, workerData: ADDON });
    const [control] = (await once(worker, 'message')) as [Uint32Array];
    expect(await worker.terminate()).toBe(1);
    // The call ended before the worker did, done or not, and nothing works in its memory any more.
    const done = Atomics.load(control, 1);
    expect(done).toBeGreaterThanOrEqual(0);
    expect(done).toBeLessThanOrEqual(200_000);
  });
});
