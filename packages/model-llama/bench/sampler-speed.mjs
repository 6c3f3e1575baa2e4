// What do samplers cost, and what does the time buy? One layer of attention over a context whose keys are shaped as real ones:
// the time to select and attend for one token, the error against exact attention, and the bytes read, for `magicpig` and for
// `sketch` of all bits and several budgets. The ratio is to the fastest sketch that errs no more than the tables do.
//
//   node bench/sampler-speed.mjs --shape llama-3.1-8b --tokens 98304     some 100 s; results of other shapes are kept

import { parseArgs } from 'node:util';
import { CpuBackend } from '@magicpig/cpu-kernels';
import { KvStore } from '@magicpig/kv-offload';
import { MagicPigPolicy, resolveAttention, SketchPolicy } from '../dist/index.js';
import { median, readResults, writeResults } from './common.mjs';
import { comparedCache, emptyErrors } from './samplers/compared-cache.mjs';
import { normalValues, ShapedContext } from './shaped-context.mjs';

const SHAPES = {
  'llama-3.1-8b': { layers: 1, kvHeads: 8, queryHeads: 32, headDim: 128 },
  smollm2: { layers: 1, kvHeads: 3, queryHeads: 9, headDim: 64 },
};
const SHARES = [0.005, 0.01, 0.0125, 0.015, 0.02, 0.03, 0.04, 0.05];
/** Query tokens: each one's error counts, and its time. */
const QUERIES = 12;
const { values: flags } = parseArgs({
  options: {
    shape: { type: 'string', default: 'llama-3.1-8b' },
    tokens: { type: 'string', default: '98304' },
    threads: { type: 'string', default: '1' },
  },
});
const config = SHAPES[flags.shape];
const tokens = Number(flags.tokens);
const { kvHeads, queryHeads, headDim } = config;
const backend = new CpuBackend({ threads: Number(flags.threads) });
const store = new KvStore({ ...config, pool: backend.pool });
const normal = normalValues(backend);
const shapes = new ShapedContext(config, normal);
const sequence = shapes.fill(store, tokens);
const queries = Array.from({ length: QUERIES }, () => shapes.queries(0));
const own = { data: normal(kvHeads * headDim), offset: 0, stride: kvHeads * headDim };
const output = new Float32Array(queryHeads * headDim);
const compared = comparedCache(store, config);
const context = { config, cache: store, pool: backend.pool };
/** Bytes of a key and a value. */
const ROW_BYTES = 2 * 2 * headDim;

console.log(`${flags.shape}, ${tokens} tokens, ${backend.description}\n`);
const exactMs = median(queries.map((query) => attend(store, query, null)));
console.log(
  `exact: ${exactMs.toFixed(2)} ms\n\nsampler               drawn   error  index, bytes a key  read, bytes a key       ms`,
);
const rows = [
  { policy: 'magicpig', K: 10, L: 150 },
  { policy: 'magicpig', K: 10, L: 300 },
  ...[1, 2, 3, 4].flatMap((bits) => SHARES.map((share) => ({ policy: 'sketch', bits, budget: { share } }))),
].map(measure);
for (const tables of rows.filter(({ policy }) => policy === 'magicpig')) {
  const equal = rows.filter(({ policy, error }) => policy === 'sketch' && error <= tables.error);
  const best = equal.reduce((a, b) => (b.ms < a.ms ? b : a), equal[0]);
  if (!best) continue;
  tables.equal = { bits: best.bits, share: best.budget.share, ratio: tables.ms / best.ms };
  console.log(
    `${tables.name}: ${tables.equal.ratio.toFixed(2)} times the time of ${best.name}, which errs ${best.error.toFixed(3)}`,
  );
}
const before = readResults('sampler-speed');
const key = `${flags.shape}, ${tokens} tokens, threads ${flags.threads}`;
const about = { ...config, tokens, threads: backend.threads, description: backend.description, exactMs };
writeResults('sampler-speed', { settings: { ...before?.settings, [key]: { ...about, rows } } });

function measure(options) {
  const settings = resolveAttention({ ...options, denseLayers: [], minContext: 0 }, 1);
  const policy = new { magicpig: MagicPigPolicy, sketch: SketchPolicy }[options.policy]({ ...context, settings });
  const attention = policy.open(sequence);
  while (!attention.ready) attention.prepare(Number.POSITIVE_INFINITY);
  const errors = emptyErrors();
  compared.watch([{ errors }]);
  const keysRead = new Float64Array(1);
  for (const query of queries) attend(compared.cache, query, attention.sampling(0), keysRead);
  const times = Array.from({ length: 3 }, () =>
    queries.map((query) => attend(store, query, attention.sampling(0))),
  ).flat();
  const { begin, end } = attention.sampling(0);
  const drawn = keysRead[0] / QUERIES / queryHeads - (tokens + 1 - (end - begin));
  const indexBytes = attention.bytes / kvHeads / (end - begin);
  attention[Symbol.dispose]();
  const name = options.K
    ? `magicpig (${options.K}, ${options.L})`
    : `sketch ${options.bits} bits ${percent(options.budget.share)}`;
  const row = {
    name,
    ...options,
    share: drawn / (end - begin),
    error: Math.sqrt(errors.squares / errors.count),
    indexBytes,
    // Codes are read once for the query heads of a KV head, rows for each; what the tables read of their buckets is not counted.
    readBytes:
      (options.policy === 'sketch' ? indexBytes : 0) + ((queryHeads / kvHeads) * drawn * ROW_BYTES) / (end - begin),
    ms: median(times),
  };
  console.log(
    `${name.padEnd(20)} ${percent(row.share).padStart(6)}  ${row.error.toFixed(4)}  ${indexBytes.toFixed(1).padStart(18)}  ` +
      `${row.readBytes.toFixed(1).padStart(17)}  ${row.ms.toFixed(3).padStart(7)}`,
  );
  return row;
}

/** Milliseconds of one token's attention. */
function attend(cache, query, sampling, keysRead) {
  const step = cache.step([{ sequence, tokens: 1 }]);
  step.append(0, own, own);
  const start = performance.now();
  const rows = { data: query, offset: 0, stride: query.length };
  step.attend(
    0,
    rows,
    { data: output, offset: 0, stride: output.length },
    { sampling: [sampling], ...(keysRead && { keysRead }) },
  );
  const took = performance.now() - start;
  step.rollback();
  return took;
}

function percent(share) {
  return `${(100 * share).toFixed(2)}%`;
}
