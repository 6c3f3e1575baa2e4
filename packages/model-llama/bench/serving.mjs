// What requests notice of each other: the gaps between the tokens of a stream while somebody else's long prompt is read, for
// several settings of maxStallMs; and the time to the first token of a question about a document that is new, known from the
// request before, and known from a snapshot after a restart.
//
//   node bench/serving.mjs --model smollm2 --tokens 6000
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadLlama } from '../dist/index.js';
import { benchOptions, benchText, writeResults } from './common.mjs';

const STALLS_MS = [100, 250, 1000];
/** Time that the stream has to itself before the prompt comes. */
const ALONE_MS = 500;
const QUESTION_TOKENS = 40;
const { model: source, threads, contexts } = benchOptions();
const documentTokens = contexts.at(-1);
const options = threads === undefined ? {} : { threads };

console.log(`${source}, a document of ${documentTokens} tokens\n`);
console.log('maxStallMs  gaps: median     99%  longest  prompt read at');
const stalls = [];
for (const maxStallMs of STALLS_MS) {
  const row = { maxStallMs, ...(await gaps(maxStallMs)) };
  stalls.push(row);
  console.log(
    `${String(maxStallMs).padStart(10)}  ${milliseconds(row.median)} ${milliseconds(row.p99)} ${milliseconds(row.longest)}  ` +
      `${row.prefillTokensPerSecond.toFixed(0).padStart(8)} tok/s`,
  );
}
console.log('\ndocument    second token  tokens known');
const firstTokens = [];
for (const row of await questions()) {
  firstTokens.push(row);
  console.log(`${row.document.padEnd(11)} ${milliseconds(row.firstTokenMs)}  ${String(row.cachedTokens).padStart(12)}`);
}
writeResults('serving', { model: source, documentTokens, stalls, firstTokens });

/** Gaps of a stream while a prompt is read beside it. */
async function gaps(maxStallMs) {
  const model = await loadLlama(source, { ...options, maxStallMs });
  const document = (await model.tokenize(benchText())).subarray(0, documentTokens);
  const stop = new AbortController();
  const seen = [];
  let reading = false;
  const stream = (async () => {
    let last = 0;
    for await (const event of model.generate('Once upon a time', { ignoreEos: true, signal: stop.signal })) {
      if (event.type !== 'token') continue;
      const now = performance.now();
      if (reading) seen.push(now - last);
      last = now;
    }
  })().catch((error) => {
    if (!stop.signal.aborted) throw error;
  });
  await new Promise((resolve) => setTimeout(resolve, ALONE_MS));
  reading = true;
  const { timing } = await run(model, document);
  reading = false;
  stop.abort();
  await stream;
  await model.close();
  seen.sort((a, b) => a - b);
  return {
    median: seen[seen.length >> 1],
    p99: seen[Math.floor(seen.length * 0.99)],
    longest: seen.at(-1),
    prefillTokensPerSecond: timing.prefillTokensPerSecond,
  };
}

/** Time to the first token of questions about the same document. */
async function questions() {
  const snapshotDir = mkdtempSync(join(tmpdir(), 'magicpig-bench-'));
  const rows = [];
  try {
    for (const documents of [['new', 'known'], ['from a file']]) {
      const model = await loadLlama(source, { ...options, snapshotDir });
      const text = await model.tokenize(benchText());
      for (const document of documents) {
        const question = text.subarray(documentTokens + rows.length * QUESTION_TOKENS).subarray(0, QUESTION_TOKENS);
        const prompt = Int32Array.from([...text.subarray(0, documentTokens), ...question]);
        const { firstTokenMs, usage } = await run(model, prompt);
        rows.push({ document, firstTokenMs, cachedTokens: usage.cachedTokens });
      }
      await model.close();
    }
  } finally {
    rmSync(snapshotDir, { recursive: true });
  }
  return rows;
}

/** The end of a short answer to a prompt, and when its second token, the first sampled one, came. */
async function run(model, prompt) {
  const begin = performance.now();
  let tokens = 0;
  let firstTokenMs = 0;
  for await (const event of model.generate(prompt, { maxTokens: 4, ignoreEos: true })) {
    if (event.type === 'token' && ++tokens === 2) firstTokenMs = performance.now() - begin;
    if (event.type === 'end') return { ...event, firstTokenMs };
  }
}

function milliseconds(value) {
  return `${value.toFixed(0)} ms`.padStart(8);
}
