// Beside usearch and hnswlib-node, on one thread and the same 100,000 unit vectors: building, nearest neighbours (which is
// what those are for), and softmax sums (which is what SimHash tables are for). `node bench/peers.mjs` prints ratios and
// writes benchmarks/results/lsh-peers.json; the tables and the plot of the README come from that (benchmarks/tables.mjs).
import { execFileSync, fork } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { fileURLToPath } from 'node:url';
import { budgets, count, dim, dot, makeData, queryCount, rowOf, temperatures, uniforms } from './peers-data.mjs';

const ENGINES = ['lsh', 'usearch', 'hnswlib'];

const peers = fileURLToPath(new URL('peers/', import.meta.url));
if (!existsSync(`${peers}node_modules`)) {
  console.log('Installing usearch and hnswlib-node ...');
  execFileSync('npm', ['ci', '--no-audit', '--no-fund'], { cwd: peers, stdio: 'inherit' });
}

const { vectors, queries } = makeData();
const products = Array.from({ length: queryCount }, (_, i) =>
  Float64Array.from({ length: count }, (_, id) => dot(rowOf(queries, i), rowOf(vectors, id))),
);
const nearest = products.map((row) => largest(row, 10));
const cosine = nearest.reduce((sum, ids, i) => sum + products[i][ids[9]], 0) / queryCount;
const exact = temperatures.map((temperature) => products.map((row) => sumOf(row, temperature)));
// How much of the sum the largest hundredth carries: from a few vectors that matter to nearly all.
const concentration = temperatures.map((temperature, t) => {
  const shares = products.map(
    (row, i) =>
      sumOf(
        row
          .slice()
          .sort()
          .subarray(count - count / 100),
        temperature,
      ) / exact[t][i],
  );
  return shares.reduce((sum, share) => sum + share, 0) / queryCount;
});

const results = {};
for (const engine of ENGINES) {
  const child = fork(fileURLToPath(new URL('peers-engines.mjs', import.meta.url)), { execArgv: ['--expose-gc'] });
  child.send({ engine, exact, nearest, cosine });
  const answer = await Promise.race([
    once(child, 'message'),
    once(child, 'exit').then(([code]) => {
      throw new Error(`The process of ${engine} ended early, with ${code}.`);
    }),
  ]);
  results[engine] = answer[0];
  print(engine, results[engine]);
}
results.uniform = { sums: budgets.map(uniformSample) };

const result = {
  cpu: cpus()[0].model,
  node: process.version,
  date: new Date().toISOString().slice(0, 10),
  dim,
  count,
  queryCount,
  cosineOfTenth: cosine,
  temperatures,
  concentration,
  engines: results,
};
mkdirSync(new URL('../../../benchmarks/results/', import.meta.url), { recursive: true });
writeFileSync(
  new URL('../../../benchmarks/results/lsh-peers.json', import.meta.url),
  `${JSON.stringify(result, (_, value) => (typeof value === 'number' ? Number(value.toPrecision(4)) : value), 2)}\n`,
);

/** Ids of the k largest values, largest first. */
function largest(values, k) {
  return Array.from(values.keys())
    .sort((a, b) => values[b] - values[a])
    .slice(0, k);
}

function sumOf(row, temperature) {
  return row.reduce((sum, product) => sum + Math.exp(product / temperature), 0);
}

/** The plainest unbiased estimate: as many vectors drawn evenly, with replacement. */
function uniformSample(budget) {
  const uniform = uniforms(2);
  const draws = budget * count;
  const errors = temperatures.map((temperature, t) => {
    const all = products.map((row, i) => {
      let sum = 0;
      for (let draw = 0; draw < draws; draw++) sum += Math.exp(row[Math.floor(count * uniform())] / temperature);
      return (sum * count) / draws / exact[t][i] - 1;
    });
    const square = all.reduce((sum, error) => sum + error * error, 0) / queryCount;
    return { rms: Math.sqrt(square), bias: all.reduce((sum, error) => sum + error, 0) / queryCount };
  });
  return { read: budget, errors };
}

function print(engine, { buildMs, bytesPerVector, search, sums }) {
  const base = results.lsh;
  console.log(
    `${engine}: built in ${(buildMs / 1000).toFixed(1)} s (${(buildMs / base.buildMs).toFixed(1)} times lsh), ` +
      `${bytesPerVector.toFixed(0)} bytes a vector (${(bytesPerVector / base.bytesPerVector).toFixed(2)})`,
  );
  for (const { setting, recall, queryMs } of search) {
    console.log(`  recall at 10 ${recall.toFixed(3)} in ${(1000 * queryMs).toFixed(0)} us (${setting})`);
  }
  sums.forEach(({ read, errors }, b) => {
    const rows = errors.map(({ rms, bias }, t) => {
      const ratio = rms / base.sums[b].errors[t].rms;
      return `T ${temperatures[t]}: ${rms.toFixed(3)}, ${ratio.toFixed(1)} times lsh, bias ${bias.toFixed(3)}`;
    });
    console.log(`  sums, ${(100 * read).toFixed(1)}% read: ${rows.join(' | ')}`);
  });
}
