// Sampled against exact attention, exact attention against the machine's read bandwidth, and the context length from
// which sampling pays. Prints tables and ratios; `node bench/run.mjs --json FILE` writes them too.
import { writeFileSync } from 'node:fs';
import { availableParallelism, cpus } from 'node:os';
import { median, setting } from './setting.mjs';

const threads = availableParallelism();
const MODELS = [
  { name: 'Llama-3.1-8B', queryHeads: 32, kvHeads: 8, headDim: 128 },
  { name: 'SmolLM2-135M', queryHeads: 9, kvHeads: 3, headDim: 64 },
];
const LENGTHS = process.argv.includes('--quick') ? [8192, 98304] : [1024, 2048, 4096, 8192, 16384, 32768, 98304];
const results = { cpu: cpus()[0].model, threads, rows: [], crossover: {} };

for (const { name, ...shape } of MODELS) {
  for (const count of new Set([1, threads])) {
    console.log(`\n${name}, ${count} of ${threads} threads, K=10, L=150, bf16`);
    let crossover = null;
    for (const length of LENGTHS) {
      const bench = setting({ ...shape, length, threads: count });
      const rounds = length > 20000 ? 15 : 60;
      const bandwidth = bench.store.readBandwidth();
      const exact = median(rounds, bench.exact);
      const sampled = median(rounds, bench.sampled);
      const row = {
        model: name,
        threads: count,
        length,
        exactMs: exact,
        sampledMs: sampled,
        ratio: exact / sampled,
        sampledShare: bench.sampledShare(),
        bandwidthShare: bench.bytes / (exact / 1e3) / bandwidth,
        bandwidthGBs: bandwidth / 1e9,
      };
      results.rows.push(row);
      if (sampled < exact) crossover ??= length;
      else crossover = null;
      console.log(
        `n=${String(length).padStart(6)}  exact ${exact.toFixed(3)} ms (${(100 * row.bandwidthShare).toFixed(0)}% of ` +
          `${row.bandwidthGBs.toFixed(1)} GB/s)  sampled ${sampled.toFixed(3)} ms  ${row.ratio.toFixed(1)}x  ` +
          `${(100 * row.sampledShare).toFixed(1)}% of keys`,
      );
      bench.dispose();
    }
    results.crossover[`${name}, ${count} threads`] = crossover;
    console.log(`sampling pays from a context of ${crossover ?? 'more than the longest measured'}`);
  }
}
const at = process.argv.indexOf('--json');
if (at > 0) writeFileSync(process.argv[at + 1], `${JSON.stringify(results, null, 2)}\n`);
