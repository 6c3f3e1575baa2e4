// Does sampled attention stay right when an answer grows far beyond its prompt? After a prompt, thousands of tokens are
// decoded one by one; they leave the window, are hashed and join the tables. Each sampled layer's output is compared with
// exact attention for the same queries all the way, and the share of the keys that are read is counted. Two texts: one that
// is given, and one that the model itself wrote with sampled attention.
//
//   node bench/long-generation.mjs --model smollm2 --tokens 2000,4000     prompt, answer
import { loadLlama, MagicPigPolicy, resolveAttention } from '../dist/index.js';
import { attentionError } from './attention-error.mjs';
import { benchOptions, benchText, writeResults } from './common.mjs';
import { openLlama, prefill } from './open-llama.mjs';

const PART_TOKENS = 500;
const { model: source, threads, contexts } = benchOptions();
const [promptTokens, answerTokens] = contexts.length === 2 && contexts[0] >= 1000 ? contexts : [2000, 4000];

let compared;
const { config, tokenizer, backend, store, llama } = await openLlama({
  source,
  threads,
  format: 'bf16',
  watch: (cache, shape) => (compared = attentionError(cache, shape)).cache,
});
const { layers } = config;
const text = tokenizer.encode(benchText());
const given = text.subarray(0, promptTokens + answerTokens);
if (given.length < promptTokens + answerTokens) throw new Error(`--tokens: the text has ${text.length} tokens only`);
const texts = { given, 'written by the model': await write(text.subarray(0, promptTokens)) };
const settings = resolveAttention({ policy: 'magicpig', minContext: 0 }, layers);
const policy = new MagicPigPolicy({ settings, config, cache: store, pool: backend.pool });

console.log(`${source}, a prompt of ${promptTokens} tokens, ${backend.description}\n`);
console.log('text                  tokens written  indexed  attended exactly  keys drawn  keys read  attention error');
const rows = Object.entries(texts).flatMap(([name, tokens]) => measure(name, tokens));
writeResults('long-generation', { model: source, promptTokens, answerTokens, settings, rows });

/** What the model goes on with after a prompt, behind it. */
async function write(prompt) {
  const model = await loadLlama(source, { weights: 'bf16', ...(threads === undefined ? {} : { threads }) });
  const attention = { policy: 'magicpig', minContext: 0 };
  const options = { attention, maxTokens: answerTokens, ignoreEos: true, temperature: 1, topP: 0.95, seed: 1 };
  const tokens = [...prompt];
  for await (const event of model.generate(Int32Array.from(prompt), options)) {
    if (event.type === 'token') tokens.push(event.token);
  }
  await model.close();
  return Int32Array.from(tokens);
}

function measure(name, tokens) {
  const sequence = store.open();
  prefill(llama, sequence, tokens.subarray(0, promptTokens));
  const attention = policy.open(sequence);
  const parts = [];
  let before = totals(attention.report());
  for (let i = 1; i <= answerTokens; i += 1) {
    while (!attention.ready) attention.prepare(Number.POSITIVE_INFINITY);
    const next = tokens.subarray(promptTokens + i - 1, promptTokens + i);
    const { keysRead } = llama.forward([{ sequence, tokens: next, promptTokens, attention, logits: 'last' }]);
    attention.afterDecode(sequence.length, keysRead[0]);
    if (i % PART_TOKENS !== 0) continue;
    const now = totals(attention.report());
    const part = {
      text: name,
      written: i,
      indexed: attention.sampling(layers - 1).end - settings.sink,
      exactTokens: (now.exactTokens - before.exactTokens) / PART_TOKENS,
      sampledShare: (now.sampledShare - before.sampledShare) / PART_TOKENS,
      keysReadShare: (now.keysRead - before.keysRead) / (now.keys - before.keys),
      attentionError: compared.take(),
    };
    before = now;
    parts.push(part);
    console.log(
      `${name.padEnd(20)}  ${String(i).padStart(14)}  ${String(part.indexed).padStart(7)}  ${part.exactTokens.toFixed(0).padStart(16)}  ` +
        `${percent(part.sampledShare)}      ${percent(part.keysReadShare)}     ${part.attentionError.toFixed(3).padStart(12)}`,
    );
  }
  attention[Symbol.dispose]();
  sequence[Symbol.dispose]();
  return parts;
}

/** Sums over the steps, of a report that holds means. */
function totals({ decodeSteps, sampledSteps, exactTokens, sampledShare, keysReadShare }) {
  // Contexts of promptTokens + 1 .. promptTokens + decodeSteps tokens.
  const keys = decodeSteps * (promptTokens + (decodeSteps + 1) / 2);
  return {
    exactTokens: exactTokens * sampledSteps,
    sampledShare: sampledShare * sampledSteps,
    keysRead: keysReadShare * keys,
    keys,
  };
}

function percent(share) {
  return `${(100 * share).toFixed(1)}%`.padStart(6);
}
