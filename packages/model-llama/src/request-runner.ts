import { setMaxListeners } from 'node:events';
import { setTimeout } from 'node:timers/promises';
import type { BatchRequest, BatchResult, GenerateOptions, GenerationEvent, LlamaEngine, LlamaModel } from './api.js';
import { EngineBusyError } from './errors.js';

/** Others have filled the queue: try again so much later. */
const BUSY_MS = 50;

/** Runs many requests through a model, as many at once as it decodes together. */
export class RequestRunner implements LlamaEngine {
  readonly #model: Pick<LlamaModel, 'generate' | 'info'>;

  constructor(model: Pick<LlamaModel, 'generate' | 'info'>) {
    this.#model = model;
  }

  async *run<R extends BatchRequest>(
    requests: Iterable<R> | AsyncIterable<R>,
    { signal }: { signal?: AbortSignal } = {},
  ): AsyncGenerator<BatchResult<R>, void, undefined> {
    const stop = new AbortController();
    const stopped = signal ? AbortSignal.any([signal, stop.signal]) : stop.signal;
    setMaxListeners(0, stopped); // one for each request that runs
    const running = new Map<number, Promise<BatchResult<R>>>();
    const source = iterate(requests);
    try {
      for (let index = 0, more = true; more || running.size > 0; ) {
        signal?.throwIfAborted();
        if (more && running.size < this.#model.info.maxSequences) {
          const next = await source.next();
          if (next.done) more = false;
          else running.set(index, this.#one(index++, next.value, stopped));
          continue;
        }
        const result = await Promise.race(running.values());
        running.delete(result.index);
        signal?.throwIfAborted();
        yield result;
      }
    } finally {
      stop.abort();
      await source.return?.();
      await Promise.all(running.values());
    }
  }

  /** Runs one request to its end; what it throws is part of the result. */
  async #one<R extends BatchRequest>(index: number, request: R, signal: AbortSignal): Promise<BatchResult<R>> {
    const result: BatchResult<R> = { index, request, tokens: [], text: '', end: undefined, error: undefined };
    try {
      for await (const event of this.#events(request, { ...request.options, signal })) {
        if (event.type === 'prefill') continue;
        result.text += event.text;
        if (event.type === 'token') result.tokens.push(event.token);
        else result.end = event;
      }
    } catch (error) {
      result.error = error;
    }
    return result;
  }

  async *#events({ prompt }: BatchRequest, options: GenerateOptions): AsyncGenerator<GenerationEvent> {
    for (;;) {
      try {
        yield* this.#model.generate(prompt, options);
        return;
      } catch (error) {
        // It comes before any event.
        if (!(error instanceof EngineBusyError)) throw error;
        await setTimeout(BUSY_MS, undefined, { signal: options.signal });
      }
    }
  }
}

function iterate<T>(items: Iterable<T> | AsyncIterable<T>): Iterator<T> | AsyncIterator<T> {
  return Symbol.asyncIterator in items ? items[Symbol.asyncIterator]() : items[Symbol.iterator]();
}
