import { once } from 'node:events';
import type { Worker } from 'node:worker_threads';
import type {
  ForwardOptions,
  ForwardTrace,
  GenerateOptions,
  GenerationEvent,
  LlamaModel,
  ModelInfo,
  ModelProfile,
  ModelStats,
  ModelStatus,
} from './api.js';
import { checkNames } from './check-names.js';
import type { ChatMessage } from './checkpoint.js';
import { WorkerCrashedError } from './engine-errors.js';
import { InvalidRequestError, ModelClosedError } from './errors.js';
import { EventQueue } from './event-queue.js';
import { RequestRunner } from './request-runner.js';
import type { SharedStatus } from './shared-status.js';
import { fromWireError } from './wire-error.js';
import type { Calls, FromWorker, Prompt, ToWorker } from './worker-protocol.js';

/** A {@link LlamaModel} whose engine lives in a worker thread: this side only passes messages. */
export class WorkerModel implements LlamaModel {
  readonly info: ModelInfo;
  readonly engine = new RequestRunner(this);
  readonly #worker: Worker;
  readonly #status: SharedStatus;
  readonly #generations = new Map<number, EventQueue<GenerationEvent>>();
  readonly #calls = new Map<number, { resolve(result: unknown): void; reject(error: unknown): void }>();
  #nextId = 0;
  /** Why the backend computes nothing any more. */
  #failure: string | undefined;
  /** Why nothing works any more. */
  #ended: Error | undefined;

  /** @param worker Has sent `ready`. */
  constructor(worker: Worker, info: ModelInfo, status: SharedStatus) {
    this.info = info;
    this.#worker = worker;
    this.#status = status;
    worker.on('message', (message: FromWorker) => this.#receive(message));
    worker.on('error', (cause) => {
      this.#end(
        new WorkerCrashedError(`The model's thread failed: ${cause.message}; load the model again.`, { cause }),
      );
    });
    worker.on('exit', (code) => {
      this.#end(new WorkerCrashedError(`The model's thread ended (exit code ${code}); load the model again.`));
    });
    this.#keepAlive();
  }

  generate(prompt: Prompt, options: GenerateOptions = {}): AsyncIterableIterator<GenerationEvent> {
    return new Generation(options.signal, {
      start: (queue) => {
        if (this.#ended) throw this.#ended;
        checkNames('generate', options);
        const { signal: _, ...rest } = options;
        const id = this.#nextId++;
        this.#post({ type: 'generate', id, prompt, options: rest });
        this.#generations.set(id, queue);
        this.#keepAlive();
        return id;
      },
      stop: (id) => {
        if (!this.#generations.delete(id)) return;
        this.#keepAlive();
        if (!this.#ended) this.#post({ type: 'abort', id });
      },
    });
  }

  async forward(prompt: Prompt, { signal, ...options }: ForwardOptions = {}): Promise<ForwardTrace> {
    signal?.throwIfAborted();
    checkNames('forward', options);
    checkNames('tap', options.tap ?? {});
    const id = this.#nextId;
    const trace = this.#call('forward', { prompt, options });
    const abort = () => {
      this.#calls.get(id)?.reject(signal!.reason);
      this.#calls.delete(id);
      if (!this.#ended) this.#post({ type: 'abort', id });
      this.#keepAlive();
    };
    signal?.addEventListener('abort', abort, { once: true });
    return trace.finally(() => signal?.removeEventListener('abort', abort));
  }

  tokenize(prompt: string | { messages: ChatMessage[]; tools?: unknown[] }): Promise<Int32Array> {
    return this.#call('tokenize', prompt);
  }

  detokenize(tokens: ArrayLike<number>): Promise<string> {
    return this.#call('detokenize', Int32Array.from(tokens));
  }

  stats(): Promise<ModelStats> {
    return this.#call('stats', undefined);
  }

  status(): ModelStatus {
    if (this.#ended) throw this.#ended;
    return { ...this.#status.read(), ...(this.#failure !== undefined && { failure: this.#failure }) };
  }

  profile(): Promise<ModelProfile> {
    return this.#call('profile', undefined);
  }

  async close(): Promise<void> {
    if (this.#ended) return;
    this.#end(new ModelClosedError());
    const exit = once(this.#worker, 'exit');
    this.#worker.ref();
    this.#post({ type: 'close' });
    await exit;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #call<M extends keyof Calls>(method: M, argument: Calls[M]['argument']): Promise<Calls[M]['result']> {
    return new Promise((resolve, reject) => {
      if (this.#ended) throw this.#ended;
      const id = this.#nextId++;
      this.#post({ type: 'call', id, method, argument } as ToWorker);
      this.#calls.set(id, { resolve: resolve as (result: unknown) => void, reject });
      this.#keepAlive();
    });
  }

  #receive(message: FromWorker): void {
    switch (message.type) {
      case 'news':
        for (const item of message.news) {
          const queue = this.#generations.get(item.id);
          if ('error' in item) {
            this.#generations.delete(item.id);
            queue?.fail(fromWireError(item.error));
          } else {
            if (item.event.type === 'end') this.#generations.delete(item.id);
            queue?.push(item.event);
          }
        }
        break;
      case 'answer':
        this.#calls.get(message.id)?.resolve(message.result);
        this.#calls.delete(message.id);
        break;
      case 'backend-failed':
        this.#failure = message.reason;
        break;
      case 'call-failed':
        this.#calls.get(message.id)?.reject(fromWireError(message.error));
        this.#calls.delete(message.id);
        break;
      default:
        break; // the rest belongs to loading
    }
    this.#keepAlive();
  }

  #end(reason: Error): void {
    this.#ended ??= reason;
    for (const queue of this.#generations.values()) queue.fail(this.#ended);
    for (const { reject } of this.#calls.values()) reject(this.#ended);
    this.#generations.clear();
    this.#calls.clear();
  }

  /** An idle model does not keep the process running; one that is being closed does, whatever its thread still says. */
  #keepAlive(): void {
    if (this.#ended) return;
    if (this.#generations.size + this.#calls.size > 0) this.#worker.ref();
    else this.#worker.unref();
  }

  /** @throws InvalidRequestError for what cannot be sent to another thread. */
  #post(message: ToWorker): void {
    try {
      this.#worker.postMessage(message);
    } catch (cause) {
      if (!(cause instanceof DOMException)) throw cause;
      throw new InvalidRequestError(`prompt and options must be plain data: ${cause.message}`, undefined, { cause });
    }
  }
}

/** How a {@link Generation} reaches the worker. */
interface Starter {
  /** Sends the request; its events go to the queue. Returns its id. */
  start(queue: EventQueue<GenerationEvent>): number;
  stop(id: number): void;
}

/** One generation as an iterator. It starts with the first `next`, and ends with its last event, `return`, or an error. */
class Generation implements AsyncIterableIterator<GenerationEvent> {
  readonly #queue = new EventQueue<GenerationEvent>();
  readonly #signal: AbortSignal | undefined;
  readonly #worker: Starter;
  #id: number | undefined;
  #done = false;

  constructor(signal: AbortSignal | undefined, worker: Starter) {
    this.#signal = signal;
    this.#worker = worker;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<GenerationEvent>> {
    if (this.#done) return { done: true, value: undefined };
    try {
      if (this.#id === undefined) this.#start();
      const event = await this.#queue.next();
      if (event.type === 'end') this.#finish();
      return { done: false, value: event };
    } catch (error) {
      if (this.#done) return { done: true, value: undefined }; // `return` was called while this read waited
      this.#finish();
      throw error;
    }
  }

  async return(): Promise<IteratorResult<GenerationEvent>> {
    this.#finish();
    this.#queue.fail(undefined, { drop: true });
    return { done: true, value: undefined };
  }

  #start(): void {
    this.#signal?.throwIfAborted();
    this.#id = this.#worker.start(this.#queue);
    this.#signal?.addEventListener('abort', this.#abort, { once: true });
  }

  /** The request is stopped at once, whether or not somebody is reading. */
  readonly #abort = (): void => {
    this.#worker.stop(this.#id!);
    this.#queue.fail(this.#signal!.reason, { drop: true });
  };

  #finish(): void {
    this.#done = true;
    this.#signal?.removeEventListener('abort', this.#abort);
    if (this.#id !== undefined) this.#worker.stop(this.#id);
  }
}
