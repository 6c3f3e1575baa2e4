// Exact and sampled attention of one layer (32 query and 8 KV heads, bf16, K = 10, L = 150) over threads, context, batch and
// head dimension, and the context from which sampling pays. Measures what is asked for, merges it into a JSON file, and draws
// a plot beside it:
//   node bench/scaling.mjs [--json build/bench/scaling.json] [--dims 64,128] [--batches 1,4,16] [--lengths 1024,...] [--bytes 4e9]
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus } from 'node:os';
import { dirname } from 'node:path';
import { parseArgs } from 'node:util';
import { plot } from './plot.mjs';
import { medians, setting } from './setting.mjs';

const { values } = parseArgs({
  options: {
    json: { type: 'string', default: 'build/bench/scaling.json' },
    dims: { type: 'string', default: '64,128' },
    batches: { type: 'string', default: '1,4,16' },
    lengths: { type: 'string', default: '1024,2048,4096,8192,16384,32768,98304,262144,524288' },
    bytes: { type: 'string', default: '4e9' }, // cache and tables of one setting; larger ones are left out
  },
});
const [dims, batches, lengths] = [values.dims, values.batches, values.lengths].map((list) =>
  list.split(',').map(Number),
);
const TABLE_BYTES = 310; // a key, at L = 150
const [queryHeads, kvHeads] = [32, 8];
const all = availableParallelism();
const threadCounts = [...new Set([1, 2, 4, 8, 16, 32, 64].filter((n) => n < all)), all];

const key = (row) => [row.headDim, row.batch, row.length, row.threads].map((n) => String(n).padStart(8)).join();
const measured = existsSync(values.json) ? JSON.parse(readFileSync(values.json, 'utf8')).rows : [];
const rows = new Map(measured.map((row) => [key(row), row]));
for (const headDim of dims) {
  for (const batch of batches) {
    for (const length of lengths) {
      if (batch * length * kvHeads * (4 * headDim + TABLE_BYTES) > Number(values.bytes)) continue;
      for (const threads of threadCounts) {
        const bench = setting({ length, queryHeads, kvHeads, headDim, threads, batch });
        const rounds = Math.max(7, Math.min(101, Math.round(1e6 / (length * batch))));
        const [exactMs, sampledMs] = medians(rounds, [bench.exact, bench.sampled]);
        const row = { headDim, batch, length, threads, exactMs, sampledMs, exactGBs: bench.bytes / exactMs / 1e6 };
        rows.set(key(row), row);
        bench.dispose();
        console.log(
          `d=${headDim} batch ${batch} n=${length} threads ${threads}: exact ${exactMs.toFixed(3)} ms, ` +
            `sampled ${sampledMs.toFixed(3)} ms, ${(exactMs / sampledMs).toFixed(1)}x`,
        );
      }
    }
  }
}

const sorted = [...rows.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, row]) => row);
const lines = new Map();
for (const row of sorted) lines.set(lineOf(row), [...(lines.get(lineOf(row)) ?? []), row]);
/** For each line of the table, the first measured context from which sampling is faster there and in all longer ones. */
const crossover = [...lines].map(([line, points]) => ({
  ...JSON.parse(line),
  minContext: points[points.findLastIndex((row) => row.sampledMs >= row.exactMs) + 1]?.length ?? null,
}));
const result = { cpu: cpus()[0].model, date: new Date().toISOString().slice(0, 10), crossover, rows: sorted };
mkdirSync(dirname(values.json), { recursive: true });
writeFileSync(values.json, `${JSON.stringify(result, null, 2)}\n`);
const image = values.json.replace(/\.json$/, '.svg');
writeFileSync(image, plot(sorted.filter((row) => row.batch === 1)));
for (const { headDim, batch, threads, minContext } of crossover) {
  console.log(
    `d=${headDim} batch ${batch} threads ${threads}: sampling pays from ${minContext ?? 'beyond the longest'}`,
  );
}
console.log(`wrote ${values.json}, ${image}`);

function lineOf({ headDim, batch, threads }) {
  return JSON.stringify({ headDim, batch, threads });
}
