// What does the server add to a token? Streams the answers of a model that costs nothing to 1 and to 16 clients, and
// prints microseconds a token as the client sees them, beside the model's own events consumed without a server.
import { createServer } from '../dist/index.js';

const TOKENS = 5000;
const CLIENTS = [1, 16];

const info = {
  name: 'free',
  backend: 'none',
  description: 'no model',
  weights: 'bf16',
  contextTokens: 1e6,
  cacheBytes: 0,
};
const zeros = { decodeSteps: 0, sampledSteps: 0, exactTokens: 0, sampledShare: 0, keysReadShare: 0 };
const model = {
  info,
  async *generate() {
    for (let token = 0; token < TOKENS; token += 1) {
      yield { type: 'token', token, text: ' word', logprob: -1 };
      if (token % 16 === 0) await new Promise(setImmediate); // as messages of a worker come in between
    }
    yield {
      type: 'end',
      finishReason: 'length',
      text: '',
      usage: { promptTokens: 1, completionTokens: TOKENS },
      attention: { policy: 'dense', ...zeros },
      timing: { queueMs: 0, prefillMs: 0, decodeMs: 0, prefillTokensPerSecond: 0, decodeTokensPerSecond: 0 },
    };
  },
};

const server = createServer({ model });
const url = await server.listen({ host: '127.0.0.1', port: 0 });

async function viaServer() {
  const response = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ prompt: 'a', max_tokens: TOKENS, stream: true }),
  });
  let bytes = 0;
  for await (const chunk of response.body) bytes += chunk.length;
  return bytes;
}

async function direct() {
  for await (const _ of model.generate());
}

async function microsecondsPerToken(run, clients) {
  const times = [];
  for (let repeat = 0; repeat < 7; repeat += 1) {
    const start = performance.now();
    await Promise.all(Array.from({ length: clients }, run));
    times.push(((performance.now() - start) * 1000) / (TOKENS * clients));
  }
  return times.sort((a, b) => a - b)[times.length >> 1];
}

const results = [];
for (const clients of CLIENTS) {
  const served = await microsecondsPerToken(viaServer, clients);
  const bare = await microsecondsPerToken(direct, clients);
  results.push({ clients, serverMicroseconds: served, directMicroseconds: bare });
  console.log(
    `${clients} client(s): ${served.toFixed(1)} us a token through the server, ${bare.toFixed(2)} us without`,
  );
}
console.log(JSON.stringify({ benchmark: 'server-overhead', tokens: TOKENS, results }));
await server.close();
