// What a GPU makes of long contexts, a part at a time:
//
//   check       whether a model answers as on the CPU
//   decode      milliseconds a token of one sequence with keys in host memory (`magicpig`, and `sketch`, drawn on the device) and with
//               keys in the device's (`dense`), and where they go
//   throughput  tokens/s of `magicpig` over `dense` at equal device memory, the best batch of each
//   prefill     prompts read with and without tables being built
//
//   node bench/cuda.mjs PART [--model random:llama-3.1-8b] [--tokens 98304] [--vram 24,40,48,80] [--seconds 480] [--emulate]
//
// Weights are random; keys and queries of the long contexts are shaped as real ones (shaped-context.mjs). Nothing is begun after so many
// seconds. Writes benchmarks/results/cuda-PART.json, or cuda-PART.json in the folder that MAGICPIG_RESULTS names; of throughput one file
// for each length of context. --emulate takes a tiny model on the emulated device, which only shows that it runs.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { writeResults } from './common.mjs';
import { checkAnswers } from './cuda/check.mjs';
import { measureDecode } from './cuda/decode.mjs';
import { gib, Machine } from './cuda/machine.mjs';
import { measurePrefill } from './cuda/prefill.mjs';
import { measureThroughput } from './cuda/throughput.mjs';

const PARTS = {
  check: { model: 'random:llama-3.2-1b', tokens: '200', emulated: '200' },
  decode: { model: 'random:llama-3.1-8b', tokens: '98304', emulated: '300' },
  throughput: { model: 'random:llama-3.1-8b', tokens: '98304,16384', emulated: '300' },
  prefill: { model: 'random:llama-3.1-8b', tokens: '16384,98304', emulated: '300' },
};

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    model: { type: 'string' },
    tokens: { type: 'string' },
    vram: { type: 'string' },
    seconds: { type: 'string', default: '480' },
    emulate: { type: 'boolean', default: false },
  },
});
const [part] = positionals;
if (!Object.hasOwn(PARTS, part ?? '')) throw new RangeError(`name a part: ${Object.keys(PARTS).join(', ')}`);
const { emulate, seconds } = flags;
const model = flags.model ?? (emulate ? 'random:tiny' : PARTS[part].model);
const contexts = (flags.tokens ?? (emulate ? PARTS[part].emulated : PARTS[part].tokens)).split(',').map(Number);
const vram = (flags.vram ?? (emulate ? '1,16' : '24,40,48,80')).split(',').map(Number);

const machine = new Machine({ emulate, seconds: Number(seconds) });
const about = { device: machine.backend.device.properties.name, host: machine.cpu.description, model };
console.log(`${machine.backend.description}\nhost: ${about.host}, ${gib(machine.hostBytes)} to be had`);
if (part === 'check') {
  const rows = [];
  for (const tokens of contexts) rows.push(...(await checkAnswers(model, machine, tokens)));
  write('cuda-check', { rows });
} else {
  await machine.load(model);
  console.log(`${model}: ${gib(machine.weights.bytes)} of weights, loaded after ${machine.seconds.toFixed(0)} s`);
  if (part === 'prefill') {
    const rows = [];
    for (const context of contexts) {
      rows.push(measurePrefill(machine, context));
      write('cuda-prefill', { rows });
    }
  } else if (part === 'decode') {
    for (const context of contexts) write('cuda-decode', { keys: 'shaped', ...measureDecode(machine, context) });
  } else {
    for (const context of contexts) {
      write(`cuda-throughput-${context}`, { keys: 'shaped', ...measureThroughput(machine, context, vram) });
    }
  }
}

function write(name, results) {
  const folder = process.env.MAGICPIG_RESULTS;
  const date = new Date().toISOString().slice(0, 10);
  if (folder !== undefined) {
    writeFileSync(join(folder, `${name}.json`), `${JSON.stringify({ date, ...about, ...results }, null, 2)}\n`);
  } else if (!emulate) writeResults(name, { ...about, ...results });
  console.log(`(${machine.seconds.toFixed(0)} s)`);
}
