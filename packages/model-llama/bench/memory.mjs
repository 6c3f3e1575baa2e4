// What does a model take, and how long does it take to load? A process of its own answers a prompt of so many tokens under
// `magicpig` and says its peak of resident memory, beside the bytes that have to be there: weights, keys and values, tables.
// Loading a file is compared with reading it, both from the page cache.
//
//   node bench/memory.mjs
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { CpuBackend } from '@magicpig/cpu-kernels';
import { loadLlama, loadLlamaWeights, locateModel, openCheckpoint } from '../dist/index.js';
import { benchOptions, median, writeResults } from './common.mjs';

const GENERATED = 32;
const FILE = 'smollm2';
const CASES = [
  { model: FILE, context: 7600 },
  { model: 'random:llama-3.2-1b', context: 4096 },
];
const { model, threads, rounds, contexts } = benchOptions({ rounds: '5' });

if (process.send) process.send(await answer(model, contexts[0]));
else await report();

async function report() {
  console.log('model                context  weights, keys and values, tables  peak of the process  Node.js alone');
  const rows = [];
  for (const { model, context } of CASES) {
    const child = fork(fileURLToPath(import.meta.url), ['--model', model, '--tokens', String(context)]);
    const [row] = await once(child, 'message');
    await once(child, 'exit');
    rows.push({ model, ...row });
    const needed = row.weightBytes + row.cacheBytes;
    console.log(
      `${model.padEnd(19)}  ${String(context).padStart(7)}  ${megabytes(needed).padStart(32)}  ` +
        `${megabytes(row.peakBytes)} (${(row.peakBytes / needed).toFixed(2)}x)  ${megabytes(row.emptyBytes).padStart(13)}`,
    );
  }
  writeResults('memory', { rounds, generated: GENERATED, rows, load: await loading(await locateModel(FILE)) });
}

/** What this process takes to answer a prompt of so many tokens. */
async function answer(source, context) {
  const emptyBytes = process.memoryUsage.rss();
  const model = await loadLlama(source, threads === undefined ? {} : { threads });
  const prompt = Int32Array.from({ length: context }, (_, i) => i);
  const attention = { policy: 'magicpig', minContext: 0 };
  let cacheBytes = 0;
  for await (const event of model.generate(prompt, { maxTokens: GENERATED, ignoreEos: true, attention })) {
    if (event.type === 'token') cacheBytes = Math.max(cacheBytes, (await model.stats()).cacheBytesUsed);
  }
  const weightBytes = model.info.memory.weights;
  await model.close();
  return { context, weightBytes, cacheBytes, peakBytes: process.resourceUsage().maxRSS * 1024, emptyBytes };
}

/** Medians of reading a file, of opening it as a checkpoint (tokenizer and all), and of making its weights. */
async function loading(path) {
  const times = { read: [], open: [], weights: [] };
  const backend = new CpuBackend(threads === undefined ? {} : { threads });
  for (let round = 0; round < rounds; round += 1) {
    let start = performance.now();
    readAll(path);
    times.read.push(performance.now() - start);
    start = performance.now();
    const checkpoint = await openCheckpoint(path);
    times.open.push(performance.now() - start);
    start = performance.now();
    const weights = await loadLlamaWeights(checkpoint, backend, { format: 'q8' });
    times.weights.push(performance.now() - start);
    weights[Symbol.dispose]();
    checkpoint[Symbol.dispose]();
  }
  backend[Symbol.dispose]();
  const [readMs, openMs, weightsMs] = Object.values(times).map(median);
  const bytes = statSync(path).size;
  const speed = (ms) => `${ms.toFixed(0)} ms, ${(bytes / 1e6 / ms).toFixed(1)} GB/s`;
  console.log(
    `\nloading ${megabytes(bytes)}: reading the file takes ${speed(readMs)}; tokenizer and metadata ${openMs.toFixed(0)} ms, ` +
      `weights ${speed(weightsMs)}`,
  );
  return { bytes, readMs, openMs, weightsMs };
}

function readAll(path) {
  const buffer = Buffer.alloc(2 ** 20);
  const file = openSync(path);
  while (readSync(file, buffer) > 0);
  closeSync(file);
}

function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(0)} MB`;
}
