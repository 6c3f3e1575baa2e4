import type { ForwardTrace, GenerationEvent } from '../src/api.js';
import type { Engine, EngineRequest } from '../src/engine.js';

/** What one request got. */
export interface Outcome {
  events: GenerationEvent[];
  tokens: number[];
  text: string;
  end: Extract<GenerationEvent, { type: 'end' }> | undefined;
  error: unknown;
  /** Of a forward pass. */
  trace: ForwardTrace | undefined;
}

let nextId = 0;

/** Submits a request; the outcome fills while the engine steps. */
export function submit(engine: Engine, request: EngineRequest): { id: number; outcome: Outcome } {
  const outcome: Outcome = { events: [], tokens: [], text: '', end: undefined, error: undefined, trace: undefined };
  const id = nextId++;
  engine.submit(id, request, {
    onEvent(event) {
      outcome.events.push(event);
      if (event.type === 'token') outcome.tokens.push(event.token);
      if (event.type === 'end') outcome.end = event;
      if (event.type !== 'prefill') outcome.text += event.text;
    },
    onTrace(trace) {
      outcome.trace = trace;
    },
    onError(error) {
      outcome.error = error;
    },
  });
  return { id, outcome };
}

/** Runs requests together to their ends. */
export function runAll(engine: Engine, requests: EngineRequest[]): Outcome[] {
  const outcomes = requests.map((request) => submit(engine, request).outcome);
  while (engine.step());
  return outcomes;
}

/** Runs one request to its end. */
export function runOne({ engine }: { engine: Engine }, request: EngineRequest): Outcome {
  return runAll(engine, [request])[0]!;
}

/** Tokens and log-probabilities: equal only when all is equal to the last bit. */
export function streamOf({ events }: Outcome): [number, number][] {
  return events.flatMap((event) => (event.type === 'token' ? [[event.token, event.logprob] as [number, number]] : []));
}

/** Tokens of the prompt that were known from earlier requests. */
export function cachedTokensOf({ end }: Outcome): number {
  return end!.usage.cachedTokens;
}

/** Token ids behind each other. */
export function joinTokens(...parts: ArrayLike<number>[]): Int32Array {
  return Int32Array.from(parts.flatMap((part) => Array.from(part)));
}
