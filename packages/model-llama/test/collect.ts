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
