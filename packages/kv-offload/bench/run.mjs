// One layer of Llama-3.1-8B (32 query heads, 8 KV heads, d = 128) at 98,304 tokens, for each element type: exact attention
// against the measured read bandwidth, sampled attention (K = 10, L = 150, selection included) against exact, and the error
// of the stored type. `node bench/run.mjs [--json FILE] [--length N]`.
import { writeFileSync } from 'node:fs';
import { availableParallelism, cpus } from 'node:os';
import { parseArgs } from 'node:util';
import { median, medians, setting } from './setting.mjs';

const { values } = parseArgs({ options: { json: { type: 'string' }, length: { type: 'string', default: '98304' } } });
const length = Number(values.length);
const shape = { queryHeads: 32, kvHeads: 8, headDim: 128, length };
const rounds = 11;
const rows = [];
let reference; // exact attention over float32 rows

for (const dtype of ['f32', 'bf16', 'f16', 'int8']) {
  for (const threads of new Set([1, availableParallelism()])) {
    const bench = setting({ ...shape, dtype, threads });
    const bandwidths = [];
    const [exact, sampled] = medians(rounds, [
      bench.exact,
      bench.sampled,
      () => bandwidths.push(bench.store.readBandwidth(2 ** 27, 1)),
    ]);
    bench.exact();
    reference ??= bench.output.slice();
    const error = difference(bench.output, reference);
    const bandwidth = median(bandwidths);
    const row = {
      dtype,
      threads,
      exactMs: exact,
      bandwidthShare: bench.bytes / (exact / 1e3) / bandwidth,
      bandwidthGBs: bandwidth / 1e9,
      sampledMs: sampled,
      ratio: exact / sampled,
      sampledShare: bench.sampledShare(),
      error,
    };
    rows.push(row);
    console.log(
      `${dtype.padEnd(4)}  ${threads} of ${availableParallelism()} threads  exact ${exact.toFixed(2)} ms ` +
        `(${(100 * row.bandwidthShare).toFixed(0)}% of ${row.bandwidthGBs.toFixed(1)} GB/s)  sampled ${sampled.toFixed(2)} ms ` +
        `(${(100 * row.sampledShare).toFixed(1)}% of keys)  ${row.ratio.toFixed(1)}x  error ${row.error.toExponential(1)}`,
    );
    bench.dispose();
  }
}
if (values.json) {
  const date = new Date().toISOString().slice(0, 10);
  writeFileSync(values.json, `${JSON.stringify({ cpu: cpus()[0].model, date, length, rows }, null, 2)}\n`);
}

function difference(output, expected) {
  let [sum, norm] = [0, 0];
  for (const [i, x] of expected.entries()) {
    sum += (output[i] - x) ** 2;
    norm += x ** 2;
  }
  return Math.sqrt(sum / norm);
}
