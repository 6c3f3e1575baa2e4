// How fast is a request, beside llama.cpp? Time to first token, prefill and decode speed at several lengths of context,
// `dense` and `magicpig`, and node-llama-cpp's prebuilt CPU binary with the same GGUF file, prompt and threads. Rounds
// alternate between the programs, so that a change of the machine's load meets all of them; medians are printed. Of `dense` also
// what the memory allows: the bytes a token reads (weights, keys and values) over the bandwidth measured beside it.
//
//   node bench/llama-cpp.mjs --model smollm2 --tokens 512,4096,8000 --rounds 3 --threads 2
//
// About eight minutes; a run of some of the contexts (`--tokens 512`) keeps the results of others.
import { availableParallelism } from 'node:os';
import { CpuBackend } from '@magicpig/cpu-kernels';
import { loadLlama, locateModel } from '../dist/index.js';
import { benchOptions, benchText, importPeer, median, writeRows } from './common.mjs';

const GENERATED = 64;
const { model: source, threads = availableParallelism(), rounds, contexts } = benchOptions({ tokens: '512,4096,8000' });
const path = await ggufPath(source);
const text = benchText().repeat(2); // once is 7,600 tokens

const attentions = { dense: { policy: 'dense' }, magicpig: { policy: 'magicpig' } };
const formats = ['q8', 'bf16']; // q8, the default for such a file, keeps its 4-bit blocks, as llama.cpp does
const names = [...formats.flatMap((format) => Object.keys(attentions).map((name) => `${name} ${format}`)), 'llama.cpp'];
const runs = []; // { name, context, firstTokenMs, prefill, decode, ceiling: decode at the memory's speed, of dense }
const machine = new CpuBackend({ threads });
for (let round = 0; round < rounds; round += 1) {
  for (const format of formats) await ours(format);
  await llamaCpp();
}

const rows = contexts.flatMap((context) =>
  names.map((name) => {
    const of = (field) => median(runs.filter((r) => r.name === name && r.context === context).map((r) => r[field]));
    const ceiling = name.startsWith('dense') ? { decodeCeiling: of('ceiling') } : {};
    return {
      context,
      name,
      firstTokenMs: of('firstTokenMs'),
      prefill: of('prefill'),
      decode: of('decode'),
      ...ceiling,
    };
  }),
);
console.log(`${source}, ${threads} threads, ${rounds} rounds; tokens per second, ratios to llama.cpp in brackets\n`);
console.log(
  'context  program        first token      prefill            decode             if memory were the only limit',
);
for (const { context, name, firstTokenMs, prefill, decode, decodeCeiling } of rows) {
  const peer = rows.find((row) => row.context === context && row.name === 'llama.cpp');
  const ratio = (value, base) => `${value.toFixed(1).padStart(8)} (${(value / base).toFixed(2)}x)`;
  console.log(
    `${String(context).padStart(7)}  ${name.padEnd(13)}  ${(firstTokenMs / 1000).toFixed(2).padStart(9)} s  ` +
      `${ratio(prefill, peer.prefill)}  ${ratio(decode, peer.decode)}` +
      (decodeCeiling
        ? `  ${ratio(decodeCeiling, peer.decode)}, ${((100 * decode) / decodeCeiling).toFixed(0)}% reached`
        : ''),
  );
}
writeRows('llama-cpp', { model: source, threads, rounds, generated: GENERATED, rows });

async function ours(weights) {
  const model = await loadLlama(path, { threads, weights, prefixCache: 'off' }); // every prompt is read
  const ids = await model.tokenize(text);
  for await (const _ of model.generate('Hello', { maxTokens: 8, ignoreEos: true })); // warm
  for (const context of contexts) {
    for (const [name, attention] of Object.entries(attentions)) {
      const start = performance.now();
      let first = 0;
      const prompt = ids.subarray(0, context);
      for await (const event of model.generate(prompt, { maxTokens: GENERATED, ignoreEos: true, attention })) {
        if (event.type === 'token') first ||= performance.now();
        if (event.type !== 'end') continue;
        const { prefillTokensPerSecond: prefill, decodeTokensPerSecond: decode } = event.timing; // tables are prefill
        const { readBandwidth } = machine.ceilings();
        const ceiling = readBandwidth / bytesRead(model.info, context + GENERATED / 2);
        runs.push({ name: `${name} ${weights}`, context, firstTokenMs: first - start, prefill, decode, ceiling });
      }
    }
  }
  await model.close();
}

/** Bytes that a token reads with exact attention over so many tokens of context. The model's embeddings are its output matrix. */
function bytesRead({ memory, config }, context) {
  const { layers, kvHeads, headDim } = config;
  return memory.weights + 2 * context * layers * kvHeads * headDim * 2;
}

async function llamaCpp() {
  const { getLlama } = await importPeer('node-llama-cpp');
  const llama = await getLlama({
    build: 'never',
    gpu: false,
    maxThreads: threads,
    progressLogs: false,
    logLevel: 'error',
  });
  const model = await llama.loadModel({ modelPath: path });
  const context = await model.createContext({
    contextSize: Math.max(...contexts) + GENERATED + 8,
    threads,
    batchSize: 512,
  });
  const sequence = context.getSequence();
  const ids = model.tokenize(text);
  const evaluate = async (tokens, count) => {
    await sequence.clearHistory();
    const start = performance.now();
    let first = 0;
    let generated = 0;
    for await (const _ of sequence.evaluate(tokens, { temperature: 0, yieldEogToken: true })) {
      first ||= performance.now();
      generated += 1;
      if (generated === count) break;
    }
    const firstTokenMs = first - start;
    return {
      firstTokenMs,
      prefill: (tokens.length * 1000) / firstTokenMs,
      decode: ((generated - 1) * 1000) / (performance.now() - first),
    };
  };
  await evaluate(ids.slice(0, 4), 8); // warm
  for (const length of contexts) {
    runs.push({ name: 'llama.cpp', context: length, ...(await evaluate(ids.slice(0, length), GENERATED)) });
  }
  await llama.dispose();
}

/** Path of a GGUF file: the peer opens nothing else. */
async function ggufPath(source) {
  const path = await locateModel(source);
  if (path.endsWith('.gguf')) return path;
  throw new Error(`${source} is ${path}; llama.cpp needs a .gguf file: pass its path as --model`);
}
