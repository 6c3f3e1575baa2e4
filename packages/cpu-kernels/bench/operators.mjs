// How close are the products to the machine? Weights of SmolLM2-135M in each format: decode (one row: share of the measured
// read bandwidth) per matrix and for a pass over the whole model, and prefill (512 rows: share of the measured peak).
//   node bench/operators.mjs [--threads 2] [--formats q4,q8,bf16,f32] [--isa avx2] [--json out.json]
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { CpuBackend, cpuInfo } from '../dist/index.js';

const { values: flags } = parseArgs({
  options: {
    threads: { type: 'string' },
    formats: { type: 'string', default: 'q4,q8,bf16,f32' },
    isa: { type: 'string' },
    json: { type: 'string' },
  },
});

// [name, outputs (gated: of gate and up), inputs, matrices in the model]
const LAYERS = 30;
const MATRICES = [
  ['qkv', 960, 576, LAYERS],
  ['attention output', 576, 576, LAYERS],
  ['gate and up', 3072, 576, LAYERS],
  ['down', 576, 1536, LAYERS],
  ['logits', 49152, 576, 1],
];
const PREFILL_ROWS = 512;
const PASSES = 15;

const backend = new CpuBackend({ threads: flags.threads && Number(flags.threads), isa: flags.isa });
const ceilings = backend.ceilings();
const results = {
  date: new Date().toISOString(),
  cpu: cpuInfo().model,
  isa: backend.isa,
  threads: backend.threads,
  ceilings,
  formats: {},
};
console.log(`${backend.description}`);
console.log(`read ${(ceilings.readBandwidth / 1e9).toFixed(1)} GB/s`);

const x = backend.tensor(PREFILL_ROWS * 1536);
for (let i = 0; i < x.length; ++i) x.host[i] = Math.sin(i);
const out = backend.tensor(PREFILL_ROWS * 49152);
const norm = {
  weight: backend.vector({ type: 'random', rows: 1, cols: 576, seed: 1, std: 0, mean: 1 }),
  epsilon: 1e-5,
};

for (const format of flags.formats.split(',')) {
  const peak = ceilings.operations[format];
  console.log(`\n${format}: peak ${(peak / 1e9).toFixed(0)} GFLOP/s`);
  const model = [];
  let seed = 0;
  for (let layer = 0; layer < LAYERS; ++layer) {
    for (const [name, rows, cols, count] of MATRICES) {
      if (layer >= count) continue;
      const gated = name === 'gate and up';
      const half = { type: 'random', rows: gated ? rows / 2 : rows, cols, seed: ++seed, std: 0.02 };
      const weight = backend.weight(gated ? [half, { ...half, seed: ++seed }] : [half], { format, gated });
      model.push({ name, weight, gated, options: cols === 576 && name !== 'attention output' ? { norm } : {} });
    }
  }
  const run = ({ weight, gated, options }, rows) =>
    gated ? backend.linearGated(out, x, weight, rows, options) : backend.linear(out, x, weight, rows, options);
  const bytes = model.reduce((sum, { weight }) => sum + weight.bytes, 0);

  // Decode: passes over the whole model, as in use, so that no matrix is still in a cache.
  const times = Object.fromEntries(MATRICES.map(([name]) => [name, []]));
  const passes = [];
  for (let pass = 0; pass < PASSES; ++pass) {
    const start = performance.now();
    for (const matrix of model) {
      const before = performance.now();
      run(matrix, 1);
      times[matrix.name].push(performance.now() - before);
    }
    passes.push(performance.now() - start);
  }
  const table = { decode: {}, prefill: {} };
  const decode = (name, size, ms) => {
    const share = size / (ms / 1e3) / ceilings.readBandwidth;
    table.decode[name] = { microseconds: ms * 1e3, bytes: size, bandwidthShare: share };
    console.log(
      `  decode   ${name.padEnd(18)} ${(ms * 1e3).toFixed(1).padStart(9)} us  ${(size / ms / 1e6).toFixed(1).padStart(6)} GB/s  ${(share * 100).toFixed(0).padStart(4)}% of read bandwidth`,
    );
  };
  for (const [name] of MATRICES)
    decode(name, model.find((matrix) => matrix.name === name).weight.bytes, fastest(times[name]));
  decode('whole model', bytes, fastest(passes));

  // Prefill: one layer and the logits of few rows would do in use; here the same rows for all, to compare shapes.
  let flops = 0;
  let layerMs = 0;
  for (const [name, rows, cols] of MATRICES) {
    const matrix = model.find((candidate) => candidate.name === name);
    const ms = fastest(
      Array.from({ length: name === 'logits' ? 5 : PASSES }, () => {
        const start = performance.now();
        run(matrix, PREFILL_ROWS);
        return performance.now() - start;
      }),
    );
    const operations = 2 * rows * cols * PREFILL_ROWS;
    if (name !== 'logits') {
      flops += operations;
      layerMs += ms;
    }
    prefill(name, operations, ms);
  }
  prefill('a layer', flops, layerMs);
  function prefill(name, operations, ms) {
    const share = operations / (ms / 1e3) / peak;
    table.prefill[name] = { rows: PREFILL_ROWS, microseconds: ms * 1e3, operations, peakShare: share };
    console.log(
      `  prefill  ${name.padEnd(18)} ${(ms * 1e3).toFixed(1).padStart(9)} us  ${(operations / ms / 1e6).toFixed(0).padStart(6)} GFLOP/s  ${(share * 100).toFixed(0).padStart(4)}% of peak`,
    );
  }
  results.formats[format] = table;
  for (const { weight } of model) weight[Symbol.dispose]();
}
if (flags.json) writeFileSync(flags.json, `${JSON.stringify(results, null, 2)}\n`);

// The fastest pass, as for the ceilings: other processes only ever slow a pass down.
function fastest(values) {
  return Math.min(...values);
}
