import { EventEmitter } from 'node:events';
import type { Worker } from 'node:worker_threads';
import { expect, it } from 'vitest';
import type { ModelInfo } from '../src/api.js';
import { SharedStatus } from '../src/shared-status.js';
import { WorkerModel } from '../src/worker-model.js';

/** A worker that only says whether it keeps the process running. */
class IdleWorker extends EventEmitter {
  keepsRunning = true;

  ref(): void {
    this.keepsRunning = true;
  }

  unref(): void {
    this.keepsRunning = false;
  }

  postMessage(): void {}
}

it('says from then on that the backend computes nothing any more, and goes on answering', () => {
  const worker = new IdleWorker();
  const model = new WorkerModel(worker as unknown as Worker, {} as ModelInfo, new SharedStatus());
  expect(model.status().failure).toBeUndefined();
  worker.emit('message', { type: 'backend-failed', reason: 'the device is lost' });
  expect(model.status()).toMatchObject({ failure: 'the device is lost', running: 0 });
});

it('keeps the process running while it is closed, whatever its thread still says', async () => {
  const worker = new IdleWorker();
  const model = new WorkerModel(worker as unknown as Worker, {} as ModelInfo, new SharedStatus());
  expect(worker.keepsRunning).toBe(false);
  const closed = model.close();
  expect(worker.keepsRunning).toBe(true);
  worker.emit('message', { type: 'news', news: [] });
  expect(worker.keepsRunning).toBe(true);
  worker.emit('exit', 0);
  await closed;
});
