import type { GenerationEvent, LlamaModel } from '@magicpig/model-llama';
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { Usage } from './report.js';
import { usageOf } from './report.js';

/** Seconds: from a token of a small model to the prompt of a long document. */
const SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300];

/** How a generation ended: as its finish reason says, its client left, it was not let in, or it failed. */
const OUTCOMES = ['stop', 'length', 'aborted', 'refused', 'error'] as const;

/** What a server counts, in Prometheus' text format: requests, tokens, waits, and where the engine's time goes. */
export class Metrics {
  readonly #registry = new Registry();
  readonly #requests: Counter<'outcome'>;
  readonly #promptTokens: Counter;
  readonly #cachedTokens: Counter;
  readonly #generatedTokens: Counter;
  readonly #firstToken: Histogram;
  readonly #gap: Histogram;

  constructor(model: Pick<LlamaModel, 'status'>) {
    const registers = [this.#registry];
    const counter = (name: string, help: string) => new Counter({ name: `magicpig_${name}`, help, registers });
    const histogram = (name: string, help: string) =>
      new Histogram({ name: `magicpig_${name}`, help, buckets: SECONDS, registers });
    this.#requests = new Counter({
      name: 'magicpig_requests_total',
      help: 'Generations that ended, by how: stop, length, aborted (the client left), refused (before they began), error.',
      labelNames: ['outcome'],
      registers,
    });
    for (const outcome of OUTCOMES) this.#requests.inc({ outcome }, 0);
    this.#promptTokens = counter('prompt_tokens_total', 'Tokens of prompts, of generations that ended by themselves.');
    this.#cachedTokens = counter('cached_tokens_total', 'Of them, tokens that were known from earlier requests.');
    this.#generatedTokens = counter('generated_tokens_total', 'Tokens generated.');
    this.#firstToken = histogram('first_token_seconds', 'From a request to its first token.');
    this.#gap = histogram('token_gap_seconds', 'Between the tokens of an answer.');
    addEngine(model, this.#registry);
  }

  /** Of `text()`. */
  get contentType(): string {
    return this.#registry.contentType;
  }

  /** All of it; what the engine counts is missing when it has ended. */
  text(): Promise<string> {
    return this.#registry.metrics();
  }

  /** The events of a generation, counted as they pass. @param signal Aborted when nobody waits for them any more. */
  async *watch(events: AsyncIterable<GenerationEvent>, signal: AbortSignal): AsyncGenerator<GenerationEvent, void> {
    let last = performance.now();
    let tokens = 0;
    let usage: Usage | undefined;
    let begun = false;
    let outcome: (typeof OUTCOMES)[number] = 'aborted';
    try {
      for await (const event of events) {
        begun = true;
        if (event.type === 'token') {
          const now = performance.now();
          (tokens === 0 ? this.#firstToken : this.#gap).observe((now - last) / 1000);
          last = now;
          tokens += 1;
        } else if (event.type === 'end') {
          usage = usageOf(event);
          outcome = event.finishReason;
        }
        yield event;
      }
    } catch (error) {
      if (!signal.aborted) outcome = begun ? 'error' : 'refused';
      throw error;
    } finally {
      this.#requests.inc({ outcome });
      this.#generatedTokens.inc(usage?.completion_tokens ?? tokens);
      if (usage) {
        this.#promptTokens.inc(usage.prompt_tokens);
        this.#cachedTokens.inc(usage.prompt_tokens_details.cached_tokens);
      }
    }
  }
}

/** Counts of the engine, looked up whenever somebody asks. */
function addEngine(model: Pick<LlamaModel, 'status'>, registry: Registry): void {
  const registers = [registry];
  const gauges = {
    running_requests: ['running', 'Generations that run.'],
    waiting_requests: ['waiting', 'Generations that wait for a place.'],
    cache_used_bytes: ['cacheBytesUsed', 'KV cache and tables in use, by running requests and for later ones.'],
    prefix_cache_bytes: ['prefixBytes', 'Of it, kept for later requests.'],
    cache_bytes: ['cacheBytes', 'KV cache and tables, at most.'],
  } as const;
  for (const [name, [field, help]] of Object.entries(gauges)) {
    new Gauge({
      name: `magicpig_${name}`,
      help,
      registers,
      collect() {
        const status = statusOf(model);
        if (status) this.set(status[field]);
        else this.reset();
      },
    });
  }
  new Counter({
    name: 'magicpig_step_seconds_total',
    help: 'Where the time of steps went. On the CPU the parts add up; a device and its host work at the same time.',
    labelNames: ['part'],
    registers,
    collect() {
      this.reset();
      for (const [part, ms] of Object.entries(statusOf(model)?.times ?? {})) {
        this.inc({ part: part.slice(0, -'Ms'.length) }, ms / 1000);
      }
    },
  });
}

function statusOf(model: Pick<LlamaModel, 'status'>) {
  try {
    return model.status();
  } catch {
    return undefined; // it has ended: /health says why
  }
}
