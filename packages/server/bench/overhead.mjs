// What does the server add to a token? Streams the answers of a model that costs nothing to 1 and to 16 clients, and
// prints microseconds a token as the client sees them, beside the model's own events consumed without a server; then the same
// with a real model, in turns.
//
//   node bench/overhead.mjs
import { loadLlama } from '@magicpig/model-llama';
import { benchText, median, writeResults } from '../../model-llama/bench/common.mjs';
import { createServer } from '../dist/index.js';

const FREE_TOKENS = 5000;
const CLIENTS = [1, 16];
const FREE_ROUNDS = 7;
const SOURCE = 'smollm2';
const FORMAT = 'q8'; // the fastest: what is added weighs most
const PROMPT_TOKENS = 512;
const TOKENS = 200;
const ROUNDS = 7;

const zeros = { decodeSteps: 0, sampledSteps: 0, exactTokens: 0, sampledShare: 0, keysReadShare: 0 };
const free = {
  info: {
    name: 'free',
    backend: 'none',
    description: 'no model',
    weights: 'bf16',
    contextTokens: 1e6,
    cacheBytes: 0,
  },
  async *generate() {
    for (let token = 0; token < FREE_TOKENS; token += 1) {
      yield { type: 'token', token, text: ' word', logprob: -1 };
      if (token % 16 === 0) await new Promise(setImmediate); // as messages of a worker come in between
    }
    yield {
      type: 'end',
      finishReason: 'length',
      text: '',
      usage: { promptTokens: 1, cachedTokens: 0, completionTokens: FREE_TOKENS },
      attention: { policy: 'dense', ...zeros },
      timing: { queueMs: 0, prefillMs: 0, decodeMs: 0, prefillTokensPerSecond: 0, decodeTokensPerSecond: 0, split: {} },
    };
  },
};

const clients = [];
await serve(free, async (url) => {
  const request = { prompt: 'a', max_tokens: FREE_TOKENS };
  for (const count of CLIENTS) {
    const served = await microseconds(() => stream(url, request), count);
    const direct = await microseconds(() => consume(free.generate()), count);
    clients.push({ clients: count, serverMicroseconds: served, directMicroseconds: direct });
    console.log(
      `${count} client(s): ${served.toFixed(1)} us a token through the server, ${direct.toFixed(2)} us without`,
    );
  }
});

const model = await loadLlama(SOURCE, { weights: FORMAT });
const prompt = (await model.tokenize(benchText())).subarray(0, PROMPT_TOKENS);
const times = { server: [], direct: [] };
await serve(model, async (url) => {
  const request = { prompt: [...prompt], max_tokens: TOKENS, ignore_eos: true };
  for (let round = 0; round <= ROUNDS; round += 1) {
    const server = await stream(url, request);
    const direct = await consume(model.generate(prompt, { maxTokens: TOKENS, ignoreEos: true }));
    if (round === 0) continue; // the prompt was read
    times.server.push(server / TOKENS);
    times.direct.push(direct / TOKENS);
  }
});
await model.close();
const [serverMs, directMs] = [median(times.server), median(times.direct)];
console.log(
  `${SOURCE} ${FORMAT}, ${PROMPT_TOKENS} tokens of context: ${serverMs.toFixed(2)} ms a token through the server, ` +
    `${directMs.toFixed(2)} without (${(100 * (serverMs / directMs - 1)).toFixed(1)}%)`,
);
writeResults('server-overhead', {
  clients,
  model: { source: SOURCE, format: FORMAT, promptTokens: PROMPT_TOKENS, serverMs, directMs },
});

/** Runs something beside a server over a model. */
async function serve(model, run) {
  const server = createServer({ model });
  try {
    await run(await server.listen({ host: '127.0.0.1', port: 0 }));
  } finally {
    await server.close();
  }
}

/** Milliseconds of an answer through the server. */
async function stream(url, request) {
  const start = performance.now();
  const response = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ ...request, stream: true }),
  });
  if (!response.ok) throw new Error(await response.text());
  for await (const _ of response.body);
  return performance.now() - start;
}

/** Milliseconds of an answer without it. */
async function consume(events) {
  const start = performance.now();
  for await (const _ of events);
  return performance.now() - start;
}

/** Of a token, with so many answers at once. */
async function microseconds(run, count) {
  const rounds = [];
  for (let round = 0; round < FREE_ROUNDS; round += 1) {
    const start = performance.now();
    await Promise.all(Array.from({ length: count }, run));
    rounds.push(((performance.now() - start) * 1000) / (FREE_TOKENS * count));
  }
  return median(rounds);
}
