// Sampled attention, selection included, beside the paper's authors' C++ (library/ of github.com/Infini-AI-Lab/MagicPIG,
// commit ac9aa36c866330ca6ad2ce342a7848d7df6f49bb) on the same keys, hash codes and queries, in alternating turns:
//   node bench/reference.mjs CHECKOUT [--json FILE] [--length N] [--rounds N] [--threads N]
// Compiles their kernels, which need AVX-512 BF16, unchanged and with -O3 -march=native; a stand-in replaces PyTorch's header.
// Both sides draw the same keys, and the outputs are compared before anything is reported.
import { execFileSync, spawn } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { availableParallelism, cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { KvStore, mergeStates } from '@magicpig/kv-offload';
import { SimHashProjection, SimHashTables } from '@magicpig/lsh';
import { fill, median, uniform } from './setting.mjs';

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    json: { type: 'string' },
    length: { type: 'string', default: '98304' },
    rounds: { type: 'string', default: '21' },
    threads: { type: 'string', default: '1' },
  },
});
const checkout = positionals[0];
if (checkout === undefined) throw new Error('usage: node bench/reference.mjs CHECKOUT [--json FILE]');
const [length, rounds, threads] = [values.length, values.rounds, values.threads].map(Number);
const [queryHeads, kvHeads, headDim, bits, tables] = [32, 8, 128, 10, 150];
const [kv, q] = [kvHeads * headDim, queryHeads * headDim];

/** Measured steps of a turn. */
const STEPS = 8;

const folder = mkdtempSync(join(tmpdir(), 'magicpig-reference-'));
process.on('exit', () => rmSync(folder, { recursive: true }));
const driver = build();

const store = new KvStore({ layers: 1, kvHeads, queryHeads, headDim, threads });
const sequence = store.open();
const random = uniform(1);
for (let at = 0; at < length; at += 2048) {
  const count = Math.min(2048, length - at);
  const [keys, data] = [fill(count, kv, headDim, random), fill(count, kv, headDim, random)];
  const step = store.step([{ sequence, tokens: count }]);
  step.append(0, { data: keys, offset: 0, stride: kv }, { data, offset: 0, stride: kv });
}
// Keys and queries as both sides see them: bfloat16. Centring is the same shift for both, so it is left out here.
const projection = new SimHashProjection({ dim: headDim, bits, tables, seed: 1 });
const index = new SimHashTables({ heads: kvHeads, projection, center: 'none' });
// Noise, since a query that is parallel to a key can make the reference take the arc cosine of more than 1.
const queries = fromBf16(toBf16(fill(1, q, headDim, random).map((x) => x + 0.2 * (random() - 0.5))));
const data = join(folder, 'layer');
writeLayer();

const selection = [{ selector: index.selector, begin: 0, end: length }];
const own = { data: fill(1, kv, headDim, random), offset: 0, stride: kv };
const output = new Float32Array(q);
const logSumExp = new Float32Array(queryHeads);
const keysRead = new Float64Array(1);
function attend(options) {
  const step = store.step([{ sequence, tokens: 1 }]);
  step.append(0, own, own);
  step.attend(0, { data: queries, offset: 0, stride: q }, { data: output, offset: 0, stride: q }, options);
  step.rollback();
}

const child = spawn(driver, [data], { stdio: ['pipe', 'pipe', 'inherit'] });
const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
const times = { retrieve: [], attend: [], theirs: [], ours: [] };
// In turns of several steps each: the first of a turn, after a wait for the other side, finds cold caches and a sleeping core.
for (let round = 0; round < rounds; round++) {
  for (let step = 0; step <= STEPS; step++) {
    child.stdin.write('\n');
    const [retrieve, attended] = (await lines.next()).value.split(' ').map(Number);
    if (step === 0) continue;
    times.retrieve.push(retrieve);
    times.attend.push(attended);
    times.theirs.push(retrieve + attended);
  }
  for (let step = 0; step <= STEPS; step++) {
    const start = performance.now();
    attend({ sampling: selection });
    if (step > 0) times.ours.push(performance.now() - start);
  }
}
child.stdin.end();
await new Promise((resolve) => child.on('exit', resolve));
attend({ sampling: selection, logSumExp, keysRead });
const error = compare();

const result = {
  cpu: cpus()[0].model,
  threads,
  length,
  sampledShare: keysRead[0] / queryHeads / length,
  outputDifference: error,
  reference: { retrieveMs: median(times.retrieve), attendMs: median(times.attend), totalMs: median(times.theirs) },
  magicpig: { totalMs: median(times.ours) },
};
result.ratio = result.reference.totalMs / result.magicpig.totalMs;
console.log(
  `n=${length}, ${queryHeads} query and ${kvHeads} KV heads, d=${headDim}, K=${bits}, L=${tables}, ${threads} thread(s), ` +
    `${(100 * result.sampledShare).toFixed(1)}% of keys; outputs differ by ${error.toExponential(1)} (relative)\n` +
    `reference  ${result.reference.totalMs.toFixed(3)} ms (retrieve ${result.reference.retrieveMs.toFixed(3)}, ` +
    `attend ${result.reference.attendMs.toFixed(3)})\nmagicpig   ${result.magicpig.totalMs.toFixed(3)} ms\n` +
    `ratio      ${result.ratio.toFixed(2)}`,
);
if (values.json) writeFileSync(values.json, `${JSON.stringify(result, null, 2)}\n`);

function build() {
  const program = join(folder, 'driver');
  const library = join(checkout, 'library');
  const fbgemm = join(library, 'sparse_attention/3rdparty/FBGEMM');
  const here = join(import.meta.dirname, 'reference');
  execFileSync(process.env.CXX ?? 'c++', [
    ...[
      '-std=c++17',
      '-O3',
      '-march=native',
      '-fopenmp',
      '-w',
      '-ffunction-sections',
      `-DREFERENCE_THREADS=${threads}`,
    ],
    ...['-I', here, '-I', library, '-I', join(fbgemm, 'include'), join(here, 'driver.cc')],
    ...['FbgemmBfloat16ConvertAvx512', 'FbgemmBfloat16ConvertAvx2', 'RefImplementations'].map((name) =>
      join(fbgemm, 'src', `${name}.cc`),
    ),
    ...['-Wl,--gc-sections', '-o', program],
  ]);
  return program;
}

/** float32 to bfloat16, to nearest even. */
function toBf16(rows) {
  const bits = new Uint32Array(rows.buffer, rows.byteOffset, rows.length);
  const words = new Uint16Array(rows.length);
  for (let i = 0; i < words.length; i++) words[i] = (bits[i] + 0x7fff + ((bits[i] >>> 16) & 1)) >>> 16;
  return words;
}

function fromBf16(words) {
  return new Float32Array(Uint32Array.from(words, (word) => word << 16).buffer);
}

function norms(rows) {
  return Float32Array.from({ length: rows.length / headDim }, (_, i) => {
    let sum = 0;
    for (let j = i * headDim; j < (i + 1) * headDim; j++) sum += rows[j] ** 2;
    return Math.sqrt(sum);
  });
}

/** The layer as the driver reads it; fills the tables of this side on the way. */
function writeLayer() {
  const file = openSync(data, 'w');
  const write = (array) => writeSync(file, new Uint8Array(array.buffer, array.byteOffset, array.byteLength));
  write(Int32Array.of(length, queryHeads, kvHeads, headDim, bits, tables));
  const keys = Array.from({ length: kvHeads }, (_, head) => store.readKeys(sequence, 0, head, 0, length));
  for (const [head, rows] of keys.entries()) {
    index.add(head, rows);
    write(projection.hash(rows, { threads: availableParallelism() }));
  }
  write(projection.hash(queries));
  for (const rows of keys) write(toBf16(rows));
  for (let head = 0; head < kvHeads; head++) write(toBf16(store.readValues(sequence, 0, head, 0, length)));
  for (const rows of keys) write(norms(rows));
  write(toBf16(queries));
  write(norms(queries));
  closeSync(file);
}

/** Relative difference of the outputs; throws when they are not the same attention. */
function compare() {
  const file = readFileSync(`${data}.out`);
  const counts = new Int32Array(file.buffer.slice(file.byteOffset, file.byteOffset + 4 * queryHeads));
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (total + queryHeads !== keysRead[0])
    throw new Error(`the reference drew ${total} keys, not ${keysRead[0] - queryHeads}`);
  const at = file.byteOffset + 4 * queryHeads;
  const theirs = fromBf16(new Uint16Array(file.buffer.slice(at, at + 2 * q)));
  // They report log2 sum_i 2^..., the second row of (2, heads); the query's own token, exact here, is merged in.
  const logs = new Float32Array(file.buffer.slice(at + 2 * q + 4 * queryHeads, at + 2 * q + 8 * queryHeads));
  const repeated = (row) =>
    Float32Array.from(
      { length: q },
      (_, i) => row[Math.floor(i / headDim / (queryHeads / kvHeads)) * headDim + (i % headDim)],
    );
  const ownRows = repeated(fromBf16(toBf16(own.data)));
  const ownScores = Float32Array.from({ length: queryHeads }, (_, head) => {
    let score = 0;
    for (let i = head * headDim; i < (head + 1) * headDim; i++) score += queries[i] * ownRows[i];
    return score / Math.sqrt(headDim);
  });
  const merged = mergeStates([
    { output: theirs, logSumExp: logs.map((x) => x * Math.LN2) },
    { output: ownRows, logSumExp: ownScores },
  ]);
  let [difference, norm] = [0, 0];
  for (let i = 0; i < q; i++) {
    difference += (merged.output[i] - output[i]) ** 2;
    norm += output[i] ** 2;
  }
  const relative = Math.sqrt(difference / norm);
  // bfloat16 outputs, and 1e-4 that the reference adds to each probability.
  if (!(relative < 0.05)) throw new Error(`the outputs differ by ${relative}`);
  return relative;
}
