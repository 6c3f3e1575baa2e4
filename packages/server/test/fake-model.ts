import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import type {
  ForwardTrace,
  GenerateOptions,
  GenerationEvent,
  LlamaEngine,
  LlamaModel,
  ModelInfo,
  ModelProfile,
  ModelStats,
  ModelStatus,
} from '@magicpig/model-llama';

type Prompt = Parameters<LlamaModel['generate']>[0];

/** An error as model-llama throws them: recognised by its code. */
export function modelError(code: string, message: string, option?: string): Error {
  return Object.assign(new Error(message), { code, option });
}

export interface FakeModelOptions {
  /** The answer, token by token. */
  answer?: string[];
  /** Milliseconds a token takes. */
  tokenMs?: number;
  /** Milliseconds each of the two prefill steps takes. */
  prefillMs?: number;
  contextTokens?: number;
  /** Requests at once; one more is refused as by a full queue. */
  maxRequests?: number;
  /** Thrown instead of the token of this index. */
  failAt?: { index: number; error: Error };
}

/**
 * A model that answers every prompt with the same tokens after given delays. Words are its tokens. It keeps what it was
 * asked, and how many generations are running and have ended early.
 */
export class FakeModel implements LlamaModel {
  readonly info: ModelInfo;
  readonly requests: { prompt: Prompt; options: GenerateOptions }[] = [];
  running = 0;
  endedEarly = 0;
  closed = false;
  /** Set to make {@link stats} fail, as it does when the engine has died. */
  dead: Error | undefined;
  /** Why no request can succeed any more, as when a device is lost. */
  failure: string | undefined;
  times: ModelStats['times'] = { denseMs: 2000, attendMs: 700, indexMs: 200, otherMs: 100 };
  /** How long the present step takes already. */
  stepMs = 0;
  readonly #options: Required<Omit<FakeModelOptions, 'failAt'>> & Pick<FakeModelOptions, 'failAt'>;

  constructor(options: FakeModelOptions = {}) {
    this.#options = {
      answer: ['The', ' answer', ' is', ' forty', '-', 'two', '.'],
      tokenMs: 0,
      prefillMs: 0,
      contextTokens: 1000,
      maxRequests: 100,
      ...options,
    };
    this.info = {
      name: 'fake/model',
      config: {
        architecture: 'llama',
        vocabSize: 1000,
        hiddenSize: 64,
        intermediateSize: 128,
        layers: 2,
        queryHeads: 4,
        kvHeads: 2,
        headDim: 16,
        maxPositions: this.#options.contextTokens,
        rmsNormEps: 1e-5,
        ropeTheta: 10_000,
        ropeScaling: { type: 'default' },
        tiedEmbeddings: true,
      },
      backend: 'fake',
      description: 'a script, 1 thread',
      threads: 1,
      weights: 'bf16',
      contextTokens: this.#options.contextTokens,
      cacheBytes: 2 ** 30,
      memory: { weights: 2 ** 20, scratch: 2 ** 16 },
      maxSequences: 16,
      hasChatTemplate: true,
    };
  }

  async *generate(prompt: Prompt, options: GenerateOptions = {}): AsyncGenerator<GenerationEvent, void, undefined> {
    const { answer, tokenMs, prefillMs, contextTokens, maxRequests, failAt } = this.#options;
    this.requests.push({ prompt, options });
    if (this.closed) throw modelError('MODEL_CLOSED', 'The model is closed.');
    if (this.running >= maxRequests) throw modelError('ENGINE_BUSY', 'The queue is full.');
    const { attention = { policy: 'magicpig' } } = options;
    if (attention.policy === 'magicpig' && attention.K !== undefined && (attention.K < 1 || attention.K > 16)) {
      throw modelError('INVALID_REQUEST', `attention.K must be an integer in 1..16, not ${attention.K}`, 'attention.K');
    }
    const promptTokens = countTokens(prompt);
    if (promptTokens >= contextTokens) {
      throw modelError('CONTEXT_TOO_LONG', `The prompt has ${promptTokens} tokens, the context ${contextTokens}.`);
    }
    const { signal } = options;
    const pause = async (milliseconds: number): Promise<void> => {
      signal?.throwIfAborted();
      if (milliseconds === 0) return nextTurn();
      await sleep(milliseconds, undefined, { signal }).catch(() => signal?.throwIfAborted());
    };
    this.running += 1;
    let ended = false;
    try {
      for (const done of [promptTokens >> 1, promptTokens]) {
        await pause(prefillMs);
        yield { type: 'prefill', done, total: promptTokens };
      }
      const limit = Math.min(options.maxTokens ?? Number.POSITIVE_INFINITY, contextTokens - promptTokens);
      let finishReason: 'stop' | 'length' = 'stop';
      let completionTokens = 0;
      for (const [index, token] of answer.entries()) {
        if (index === limit) {
          finishReason = 'length';
          break;
        }
        await pause(tokenMs);
        if (failAt?.index === index) throw failAt.error;
        completionTokens += 1;
        if (options.stop?.some((stop) => token.includes(stop))) break;
        yield { type: 'token', token: index, text: token, logprob: -(index + 1) / 8 };
      }
      ended = true;
      yield {
        type: 'end',
        finishReason,
        text: '',
        usage: { promptTokens, cachedTokens: promptTokens >> 1, completionTokens },
        attention: {
          policy: attention.policy,
          decodeSteps: completionTokens,
          sampledSteps: attention.policy === 'dense' ? 0 : completionTokens,
          exactTokens: attention.policy === 'dense' ? 0 : 68,
          sampledShare: attention.policy === 'dense' ? 0 : 0.02,
          keysReadShare: attention.policy === 'dense' ? 1 : 0.11,
        },
        timing: {
          queueMs: 1,
          prefillMs: 20,
          decodeMs: 30,
          prefillTokensPerSecond: 900,
          decodeTokensPerSecond: 41.25,
          split: { denseMs: 20, attendMs: 7, indexMs: 2, otherMs: 1 },
        },
      };
    } finally {
      this.running -= 1;
      if (!ended) this.endedEarly += 1;
    }
  }

  readonly engine: LlamaEngine = {
    run() {
      throw new Error('there is no model behind the script');
    },
  };

  async forward(): Promise<ForwardTrace> {
    throw new Error('there is no model behind the script');
  }

  async tokenize(prompt: string | Exclude<Prompt, string | Int32Array>): Promise<Int32Array> {
    return new Int32Array(countTokens(prompt));
  }

  async detokenize(tokens: ArrayLike<number>): Promise<string> {
    return Array.from(tokens, (token) => this.#options.answer[token] ?? '').join('');
  }

  async stats(): Promise<ModelStats> {
    return this.status();
  }

  status(): ModelStatus {
    if (this.dead) throw this.dead;
    return {
      running: this.running,
      waiting: 0,
      cacheBytesUsed: this.running * 1024,
      prefixBytes: 512,
      cacheBytes: this.info.cacheBytes,
      times: this.times,
      stepMs: this.stepMs,
      ...(this.failure !== undefined && { failure: this.failure }),
    };
  }

  async profile(): Promise<ModelProfile> {
    const operations = { f32: 1e11, bf16: 2e11, q8: 4e11, q4: 4e11 };
    const table = `Profile of ${this.requests.length} requests\n`;
    return { prefill: [], decode: [], ceilings: { readBandwidth: 4e10, operations }, table };
  }

  async close(): Promise<void> {
    this.closed = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

function countTokens(prompt: Prompt): number {
  if (prompt instanceof Int32Array) return prompt.length;
  const text = typeof prompt === 'string' ? prompt : prompt.messages.map(({ content }) => content).join(' ');
  return text.split(/\s+/).filter((word) => word !== '').length;
}
