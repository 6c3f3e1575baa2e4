// What a GPU makes of long contexts: milliseconds a token with keys in host memory (`magicpig`, and `sketch`, drawn on the device) and
// with keys in the device's (`dense`), and where they go; tokens/s of `magicpig` and `dense` at equal device memory, the best batch of
// each; prompts read with and without tables being built; and whether a model answers as on the CPU. Weights are random; keys and
// queries of the long contexts are shaped as real ones (shaped-context.mjs).
//
//   node bench/cuda.mjs [--model random:llama-3.1-8b] [--tokens 98304,16384] [--vram 24,40,48,80] [--parts check,prefill,decode]
//
// Writes benchmarks/results/cuda.json, or cuda.json in the folder that MAGICPIG_RESULTS names, after each part.
// `--emulate --model random:tiny --check random:tiny --tokens 300 --vram 1` only shows that it runs.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { CpuBackend } from '@magicpig/cpu-kernels';
import { CudaBackend } from '@magicpig/cuda-kernels';
import { loadLlamaWeights, openCheckpoint } from '../dist/index.js';
import { writeResults } from './common.mjs';
import { checkAnswers } from './cuda/check.mjs';
import { measureContext } from './cuda/decode.mjs';
import { measurePrefill } from './cuda/prefill.mjs';

const { values: flags } = parseArgs({
  options: {
    model: { type: 'string', default: 'random:llama-3.1-8b' },
    check: { type: 'string', default: 'random:llama-3.2-1b' },
    tokens: { type: 'string', default: '98304,16384' },
    vram: { type: 'string', default: '24,40,48,80' },
    parts: { type: 'string', default: 'check,prefill,decode' },
    emulate: { type: 'boolean', default: false },
  },
});
const { emulate } = flags;
const parts = flags.parts.split(',');
const contexts = flags.tokens.split(',').map(Number);
const started = performance.now();

const cpu = new CpuBackend();
const backend = new CudaBackend({ pool: cpu.pool, threads: cpu.threads, emulate });
console.log(`${backend.description}\nhost: ${cpu.description}`);
const results = { device: backend.device.properties.name, host: cpu.description, model: flags.model, keys: 'shaped' };

if (parts.includes('check')) {
  results.check = [];
  for (const source of flags.check.split(',')) results.check.push(await checkAnswers(source, { cpu, backend }));
  write();
}
if (parts.includes('prefill') || parts.includes('decode')) {
  const checkpoint = await openCheckpoint(flags.model);
  const weights = await loadLlamaWeights(checkpoint, backend, { format: 'bf16' });
  const machine = { config: checkpoint.config, weights, backend, cpu, emulate };
  if (parts.includes('prefill')) {
    results.prefill = contexts.map((context) => measurePrefill(machine, context));
    write();
  }
  if (parts.includes('decode')) {
    const caps = flags.vram.split(',').map((gib) => Number(gib) * 2 ** 30);
    results.contexts = [];
    for (const context of contexts) {
      results.contexts.push(measureContext(machine, context, caps));
      write();
    }
  }
}

function write() {
  const folder = process.env.MAGICPIG_RESULTS;
  const date = new Date().toISOString().slice(0, 10);
  if (folder !== undefined)
    writeFileSync(join(folder, 'cuda.json'), `${JSON.stringify({ date, ...results }, null, 2)}\n`);
  else if (!emulate) writeResults('cuda', results);
  console.log(`(${Math.round((performance.now() - started) / 1000)} s)`);
}
