import { randomUUID } from 'node:crypto';
import { Readable } from 'node:stream';
import type { GenerateOptions, GenerationEvent, LlamaModel } from '@magicpig/model-llama';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Metrics } from './metrics.js';
import { type Report, reportOf, type Usage, usageOf } from './report.js';
import type { Answer, Piece, ResponseFormat } from './response-format.js';
import { ClientGoneError, type RunningRequests } from './running-requests.js';
import { type StreamItem, serverSentEvents } from './server-sent-events.js';
import { toApiError } from './to-api-error.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** What the request's generation did, once it has ended; for the log. */
    generation: { usage: Usage; report: Report } | null;
  }
}

/** A validated request, ready to run. */
export interface Job {
  prompt: Parameters<LlamaModel['generate']>[0];
  options: GenerateOptions;
  format: ResponseFormat;
  /** Prefix of the response's id. */
  idPrefix: string;
  stream: boolean;
  includeUsage: boolean;
}

/** What jobs run on. */
export interface JobContext {
  model: LlamaModel;
  running: RunningRequests;
  metrics: Metrics;
}

/** Runs a job on the model and returns the whole response, or the event stream. */
export async function answerRequest(
  { model, running, metrics }: JobContext,
  request: FastifyRequest,
  reply: FastifyReply,
  job: Job,
): Promise<object> {
  const signal = running.open(reply.raw);
  signal.addEventListener('abort', () => {
    const { message } = signal.reason as Error;
    request.log.info(`${request.method} ${request.url} ended early: ${message}`);
  });
  const { format } = job;
  const envelope = {
    id: `${job.idPrefix}-${randomUUID().replaceAll('-', '')}`,
    created: Math.floor(Date.now() / 1000),
    model: model.info.name,
    system_fingerprint: `magicpig-${model.info.backend}-${model.info.weights}`,
  };
  const events = metrics.watch(model.generate(job.prompt, { ...job.options, signal }), signal);
  // Refusals come before the first event, while the response can still have the status that they deserve.
  const first = await events.next().catch((error) => {
    throw signal.aborted ? signal.reason : toApiError(error, format.promptField);
  });

  if (!job.stream) {
    const answer = await collect(resume(first, events));
    request.generation = answer;
    return {
      ...envelope,
      object: format.objectName.whole,
      choices: [format.choice(answer)],
      usage: answer.usage,
      magicpig: answer.report,
    };
  }

  const items = async function* (): AsyncGenerator<StreamItem, void, undefined> {
    const chunk = (choices: object[], extra: object = {}): StreamItem => ({
      data: {
        ...envelope,
        object: format.objectName.chunk,
        choices,
        ...(job.includeUsage ? { usage: null } : {}),
        ...extra,
      },
    });
    let opened = false;
    for await (const event of resume(first, events)) {
      if (event.type === 'prefill') {
        yield { comment: `prefill ${event.done}/${event.total}` };
        continue;
      }
      if (!opened && format.openingChoice) yield chunk([format.openingChoice()]);
      opened = true;
      const piece = pieceOf(event);
      if (piece.text !== '' || (format.logprobs && piece.logprob !== undefined))
        yield chunk([format.pieceChoice(piece)]);
      if (event.type === 'end') {
        const usage = usageOf(event);
        const magicpig = reportOf(event);
        request.generation = { usage, report: magicpig };
        yield chunk([format.closingChoice(event.finishReason)], job.includeUsage ? {} : { magicpig });
        if (job.includeUsage) yield chunk([], { usage, magicpig });
      }
    }
  };
  const onError = (error: unknown): object => {
    const apiError = toApiError(error, format.promptField);
    // That the client went away is logged already, and nobody reads what follows.
    if (apiError.status === 500 && !(error instanceof ClientGoneError)) request.log.error(error, 'generation failed');
    return apiError.toBody();
  };
  reply.header('content-type', 'text/event-stream; charset=utf-8');
  reply.header('cache-control', 'no-cache');
  reply.header('x-accel-buffering', 'no'); // nginx would hold the tokens back
  return Readable.from(serverSentEvents(items(), onError));
}

async function collect(events: AsyncIterable<GenerationEvent>): Promise<Answer> {
  const pieces: Piece[] = [];
  for await (const event of events) {
    if (event.type === 'prefill') continue;
    pieces.push(pieceOf(event));
    if (event.type === 'end') {
      return { pieces, finishReason: event.finishReason, usage: usageOf(event), report: reportOf(event) };
    }
  }
  throw new Error('the generation ended without an end event');
}

function pieceOf(event: Exclude<GenerationEvent, { type: 'prefill' }>): Piece {
  return event.type === 'token' ? { text: event.text, logprob: event.logprob } : { text: event.text };
}

/** The events of an iterator whose first one has been taken already. */
async function* resume(
  first: IteratorResult<GenerationEvent>,
  rest: AsyncIterator<GenerationEvent>,
): AsyncGenerator<GenerationEvent, void, undefined> {
  try {
    for (let next = first; !next.done; next = await rest.next()) yield next.value;
  } finally {
    await rest.return?.();
  }
}
