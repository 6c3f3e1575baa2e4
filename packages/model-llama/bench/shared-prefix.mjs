// Four requests with one long beginning: the times to their first and second tokens, and the memory they take at most, when they come
// at once and when three join one that is being answered; with tables that they share, and with tables of their own, which other
// seeds give. The first token comes out of the exact prompt; the second is the first to need tables.
//
//   node bench/shared-prefix.mjs --model smollm2 --tokens 6000
import { loadLlama } from '../dist/index.js';
import { benchOptions, benchText, writeResults } from './common.mjs';

const REQUESTS = 4;
const QUESTION_TOKENS = 40;
const { model: source, threads, contexts } = benchOptions();
const documentTokens = contexts.at(-1);

console.log(`${source}, a beginning of ${documentTokens} tokens\n`);
console.log('tables     requests     first token  second token  keys, values and tables');
const rows = [];
for (const shared of [true, false]) {
  for (const joining of [false, true]) {
    const row = { shared, joining, ...(await measure(shared, joining)) };
    rows.push(row);
    console.log(
      `${shared ? 'shared   ' : 'their own'}  ${joining ? 'joining one' : 'at once    '} ${row.firstMs.toFixed(0).padStart(9)} ms ` +
        `${row.secondMs.toFixed(0).padStart(10)} ms ${(row.peakBytes / 1e6).toFixed(0).padStart(21)} MB`,
    );
  }
}
writeResults('shared-prefix', { model: source, documentTokens, requests: REQUESTS, rows });

/** Mean times of those that are measured: all, or the three that join. */
async function measure(shared, joining) {
  const model = await loadLlama(source, { ...(threads !== undefined && { threads }), maxSequences: REQUESTS });
  const text = await model.tokenize(benchText());
  const attention = (i) => ({ policy: 'magicpig', ...(!shared && { seed: i }) });
  // The engine learns how long things take.
  await times(model, text.subarray(0, documentTokens >> 1), attention(0), 16);
  let peakBytes = 0;
  const timer = setInterval(() => {
    peakBytes = Math.max(peakBytes, model.status().cacheBytesUsed);
  }, 20);
  const request = (i, tokens, decodes) => {
    const question = text.subarray(documentTokens + i * QUESTION_TOKENS).subarray(0, QUESTION_TOKENS);
    // Another beginning than that of the first request.
    const prompt = Int32Array.from([...text.subarray(1, documentTokens), ...question]);
    return times(model, prompt, attention(i), tokens, decodes);
  };
  let first;
  if (joining) await new Promise((decodes) => (first = request(0, 300, decodes)));
  const measured = Array.from({ length: REQUESTS - (joining ? 1 : 0) }, (_, i) => request(i + (joining ? 1 : 0), 40));
  const results = await Promise.all(measured);
  await first;
  clearInterval(timer);
  await model.close();
  const mean = (name) => results.reduce((sum, result) => sum + result[name], 0) / results.length;
  return { firstMs: mean('firstMs'), secondMs: mean('secondMs'), peakBytes };
}

/** When the first two tokens of an answer came. */
async function times(model, prompt, attention, maxTokens, decodes) {
  const begin = performance.now();
  const at = [];
  for await (const event of model.generate(prompt, { attention, maxTokens, ignoreEos: true })) {
    if (event.type !== 'token') continue;
    at.push(performance.now() - begin);
    if (at.length === 3) decodes?.();
  }
  return { firstMs: at[0], secondMs: at[1] };
}
