import { setImmediate } from 'node:timers/promises';
import { parentPort, workerData } from 'node:worker_threads';
import type { ForwardTrace, GenerateOptions, LoadProgress } from './api.js';
import { openCheckpoint } from './checkpoint/open-checkpoint.js';
import { encodePrompt } from './encode-prompt.js';
import { InvalidRequestError } from './errors.js';
import { createModelHost, type ModelHost } from './model-host.js';
import { SharedStatus } from './shared-status.js';
import { toWireError } from './wire-error.js';
import type { Calls, FromWorker, GenerationNews, Prompt, ToWorker, WorkerData } from './worker-protocol.js';

// The thread that owns a model. It loads it, then alternates between one step of the engine and a look at its messages.

type Call = Extract<ToWorker, { type: 'call' }>;

/** How long nothing must have run before snapshots are written: they would only be in the way of the next turn. */
const SNAPSHOT_IDLE_MS = 60_000;

const port = parentPort!;
const status = new SharedStatus((workerData as WorkerData).status);
const loading = new AbortController();
let host: ModelHost | undefined;
let stepping = false;
let failureTold = false;
let snapshotTimer: NodeJS.Timeout | undefined;
let news: GenerationNews[] = [];

port.on('message', (message: ToWorker) => {
  switch (message.type) {
    case 'generate':
      generate(message.id, message.prompt, message.options);
      break;
    case 'abort':
      host?.engine.abort(message.id);
      if (host) status.write(host.engine.stats);
      break;
    case 'call':
      call(message);
      break;
    case 'abort-load':
      loading.abort();
      break;
    case 'close':
      clearTimeout(snapshotTimer);
      while (host?.engine.saveSnapshot());
      host?.[Symbol.dispose]();
      host = undefined;
      port.close();
      break;
  }
});

try {
  host = await load(workerData as WorkerData);
  status.write(host.engine.stats);
  send({ type: 'ready', info: host.info });
} catch (error) {
  send({ type: 'load-failed', error: toWireError(error) });
  port.close();
}

async function load({ source, options }: WorkerData): Promise<ModelHost> {
  const { signal } = loading;
  const watched = { ...options, signal, onProgress: (progress: LoadProgress) => send({ type: 'progress', progress }) };
  using checkpoint = await openCheckpoint(source, watched);
  return await createModelHost(checkpoint, watched);
}

function generate(id: number, prompt: Prompt, options: Omit<GenerateOptions, 'signal'>): void {
  const { engine, tokenizer } = host!;
  try {
    engine.submit(
      id,
      { ...options, prompt: encodePrompt(tokenizer, prompt) },
      {
        onEvent: (event) => news.push({ id, event }),
        onError: (error) => news.push({ id, error: toWireError(error) }),
      },
    );
    void run();
  } catch (error) {
    send({ type: 'news', news: [{ id, error: toWireError(error) }] });
  }
}

function call(message: Call): void {
  const { id } = message;
  try {
    if (message.method === 'forward') forward(id, message.argument);
    else send({ type: 'answer', id, result: answer(host!, message) });
  } catch (error) {
    send({ type: 'call-failed', id, error: toWireError(error) });
  }
}

/** Answers when the pass is done; an abort may end it before. */
function forward(id: number, { prompt, options }: Calls['forward']['argument']): void {
  const { engine, tokenizer } = host!;
  const { attention = { policy: 'dense' }, ...trace } = options;
  engine.submit(
    id,
    { prompt: encodePrompt(tokenizer, prompt), maxTokens: 1, attention, trace },
    {
      onEvent() {},
      onTrace: (result) => send({ type: 'answer', id, result }, buffersOf(result)),
      onError: (error) => send({ type: 'call-failed', id, error: toWireError(error) }),
    },
  );
  void run();
}

/** The arrays of a trace, which move to the other thread instead of being copied. */
function buffersOf({ logits, layers }: ForwardTrace): ArrayBuffer[] {
  const arrays = [
    logits,
    ...layers.flatMap((layer) => Object.values(layer).filter((part) => ArrayBuffer.isView(part))),
  ];
  return arrays.map(({ buffer }) => buffer as ArrayBuffer);
}

function answer(
  { engine, tokenizer, profiler }: ModelHost,
  { method, argument }: Exclude<Call, { method: 'forward' }>,
): Calls[keyof Calls]['result'] {
  switch (method) {
    case 'tokenize':
      return encodePrompt(tokenizer, argument);
    case 'detokenize':
      return tokenizer.decode(argument);
    case 'stats':
      return engine.stats;
    case 'profile':
      if (profiler) return profiler.take();
      throw new InvalidRequestError('nothing was measured; load the model with profile: true', 'profile');
  }
}

/** Steps until nothing is left to do. Between steps the event loop turns, so that messages are seen. */
async function run(): Promise<void> {
  if (stepping) return;
  stepping = true;
  clearTimeout(snapshotTimer);
  try {
    for (let more = true; more && host; ) {
      const { engine, profiler } = host;
      status.stepBegins();
      more = profiler ? profiler.step(() => engine.step()) : engine.step();
      status.stepEnded();
      status.write(engine.stats);
      tellFailure(host.backend.failure);
      if (news.length > 0) send({ type: 'news', news });
      news = [];
      await setImmediate();
      more ||= host?.engine.idle === false;
    }
  } finally {
    stepping = false;
    snapshotTimer = setTimeout(saveSnapshots, SNAPSHOT_IDLE_MS).unref();
  }
}

/** One after the other, as long as nothing runs. */
function saveSnapshots(): void {
  if (!stepping && host?.engine.saveSnapshot()) snapshotTimer = setTimeout(saveSnapshots, 0).unref();
}

/** Says once that the backend can compute nothing any more. */
function tellFailure(reason: string | undefined): void {
  if (reason === undefined || failureTold) return;
  failureTold = true;
  send({ type: 'backend-failed', reason });
}

function send(message: FromWorker, transfer: ArrayBuffer[] = []): void {
  port.postMessage(message, transfer);
}
