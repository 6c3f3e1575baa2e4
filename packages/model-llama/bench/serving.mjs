// What requests notice of each other: the gaps between the tokens of four streams (two short conversations, one over a document that
// samples, one that comes to sample) while documents and questions about them come one after the other, for several settings of
// maxStallMs; and the time to the first token of a question about a document that is new, known from the request before, and known
// from a snapshot after a restart.
//
//   node bench/serving.mjs --model smollm2 --tokens 6000
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { loadLlama, MAGICPIG_DEFAULTS } from '../dist/index.js';
import { benchOptions, benchText, writeResults } from './common.mjs';

const STALLS_MS = [100, 250, 1000];
const QUESTION_TOKENS = 40;
/** Written by the stream that comes to sample, before prompts are read. */
const WRITTEN_BEFORE = 150;
const { model: source, threads, contexts } = benchOptions();
const documentTokens = contexts.at(-1);
const options = threads === undefined ? {} : { threads };

console.log(`${source}, a document of ${documentTokens} tokens\n`);
console.log('maxStallMs   gaps   median      99%  longest  prompts read at');
const stalls = [];
for (const maxStallMs of STALLS_MS) {
  const row = { maxStallMs, ...(await gaps(maxStallMs)) };
  stalls.push(row);
  console.log(
    `${String(maxStallMs).padStart(10)}  ${String(row.gaps).padStart(5)} ${milliseconds(row.median)} ${milliseconds(row.p99)} ${milliseconds(row.longest)}  ` +
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

/** Gaps of all streams while the documents and questions of others are read, one after the other. */
async function gaps(maxStallMs) {
  const model = await loadLlama(source, { ...options, maxStallMs });
  const text = await model.tokenize(benchText());
  const half = documentTokens >> 1;
  const enough = Math.ceil(0.7 * documentTokens); // to sample from the first token on
  const nearly = MAGICPIG_DEFAULTS.minContext - WRITTEN_BEFORE - 50; // to come to sample while prompts are read
  const stop = new AbortController();
  const seen = [];
  let started = 0;
  let reading = false;
  const streams = [20, 300, nearly, enough].map(async (tokens, i) => {
    const before = tokens === nearly ? WRITTEN_BEFORE : 2;
    let last = 0;
    let written = 0;
    const request = { ignoreEos: true, seed: i, temperature: 1, signal: stop.signal };
    for await (const event of model.generate(text.subarray(i, i + tokens), request)) {
      if (event.type !== 'token') continue;
      const now = performance.now();
      if (reading) seen.push(now - last);
      last = now;
      written += 1;
      if (written === before) started += 1;
    }
  });
  const ended = Promise.all(streams).catch((error) => {
    if (!stop.signal.aborted) throw error;
  });
  while (started < streams.length) await setTimeout(20);
  reading = true;
  const begin = performance.now();
  const prompts = [
    text.subarray(100, 100 + documentTokens),
    text.subarray(100, 100 + half + QUESTION_TOKENS),
    Int32Array.from([...text.subarray(100, 100 + half), ...text.subarray(0, 4 * QUESTION_TOKENS)]),
    text.subarray(200, 200 + half),
  ];
  let tokens = 0;
  for (const prompt of prompts) {
    const { usage } = await run(model, prompt);
    tokens += usage.promptTokens - usage.cachedTokens;
  }
  const seconds = (performance.now() - begin) / 1e3;
  reading = false;
  stop.abort();
  await ended;
  await model.close();
  seen.sort((a, b) => a - b);
  return {
    gaps: seen.length,
    median: seen[seen.length >> 1],
    p99: seen[Math.floor(seen.length * 0.99)],
    longest: seen.at(-1),
    prefillTokensPerSecond: tokens / seconds,
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
