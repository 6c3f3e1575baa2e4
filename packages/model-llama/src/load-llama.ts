import { Worker } from 'node:worker_threads';
import type { LlamaModel, LoadOptions } from './api.js';
import { checkNames } from './check-names.js';
import { WorkerCrashedError } from './engine-errors.js';
import { SharedStatus } from './shared-status.js';
import { fromWireError } from './wire-error.js';
import { WorkerModel } from './worker-model.js';
import type { FromWorker, WorkerData } from './worker-protocol.js';

/** How long a cancelled load may take to clean up (partial downloads, child processes) before its thread is ended. */
const ABORT_GRACE_MS = 2000;

/** The built worker, also when this file runs from source (under a test runner): it must have been built then. */
const WORKER = new URL(import.meta.url.endsWith('.ts') ? '../dist/worker.js' : './worker.js', import.meta.url);

/**
 * Loads a model into a worker thread.
 *
 * ```ts
 * const model = await loadLlama('smollm2');
 * for await (const event of model.generate({ messages: [{ role: 'user', content: 'Hello!' }] })) {
 *   if (event.type === 'token') process.stdout.write(event.text);
 * }
 * await model.close();
 * ```
 *
 * @param source A folder with config.json, tokenizer.json and *.safetensors, a .gguf file, a hub id, a short name
 *   (`smollm2`), or `random:<preset or config.json>`.
 * @throws InvalidRequestError for an option out of range or that there is not, ModelNotFoundError, CheckpointError, CacheTooSmallError; the
 *   signal's reason when it aborts.
 */
export async function loadLlama(source: string, options: LoadOptions = {}): Promise<LlamaModel> {
  checkNames('load', options);
  const { signal, onProgress, ...rest } = options;
  signal?.throwIfAborted();
  const status = new SharedStatus();
  const data: WorkerData = { source, options: rest, status: status.buffer };
  const worker = new Worker(WORKER, { workerData: data, execArgv: [] });
  return new Promise((resolve, reject) => {
    let timer: NodeJS.Timeout | undefined;
    const onAbort = () => {
      worker.postMessage({ type: 'abort-load' });
      timer = setTimeout(() => void worker.terminate(), ABORT_GRACE_MS);
    };
    const settle = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
      // One by one: removing all listeners takes away the worker's own too, and no message arrives any more.
      worker.off('message', onMessage).off('error', onError).off('exit', onExit);
    };
    const fail = (error: unknown) => {
      settle();
      void worker.terminate();
      reject(signal?.aborted ? signal.reason : error);
    };
    signal?.addEventListener('abort', onAbort, { once: true });
    const onMessage = (message: FromWorker) => {
      if (message.type === 'progress') onProgress?.(message.progress);
      else if (message.type === 'load-failed') fail(fromWireError(message.error));
      else if (message.type === 'ready') {
        settle();
        if (signal?.aborted) {
          void worker.terminate();
          reject(signal.reason);
        } else {
          resolve(new WorkerModel(worker, message.info, status));
        }
      }
    };
    const onError = (cause: Error) =>
      fail(new WorkerCrashedError(`The thread that loads the model failed: ${cause.message}`, { cause }));
    const onExit = (code: number) =>
      fail(new WorkerCrashedError(`The thread that loads the model ended (exit code ${code}).`));
    worker.on('message', onMessage).on('error', onError).on('exit', onExit);
  });
}
