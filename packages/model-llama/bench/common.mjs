import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const BENCHMARKS = new URL('../../../benchmarks/', import.meta.url);

/**
 * Command line: `--model`, `--threads`, `--rounds`, `--tokens 512,6000`, and `--attention`, options as JSON, where there is a
 * default for it; defaults other than these may be given.
 */
export function benchOptions({ model = 'smollm2', rounds = '3', tokens = '512,6000', attention } = {}) {
  const { values } = parseArgs({
    options: {
      model: { type: 'string', default: model },
      threads: { type: 'string' },
      rounds: { type: 'string', default: rounds },
      tokens: { type: 'string', default: tokens },
      ...(attention && { attention: { type: 'string', default: attention } }),
    },
  });
  return {
    model: values.model,
    threads: values.threads === undefined ? undefined : Number(values.threads),
    rounds: Number(values.rounds),
    contexts: values.tokens.split(',').map(Number),
    ...(values.attention && { attention: JSON.parse(values.attention) }),
  };
}

/** The text that prompts are cut from. */
export function benchText(name = 'esther') {
  return readFileSync(new URL(`texts/${name}.txt`, BENCHMARKS), 'utf8');
}

/** Imports a package that only benchmarks need, installing it first when it is not there (some minutes, 1 GB). */
export async function importPeer(name) {
  const peers = new URL('peers/', BENCHMARKS);
  const folder = new URL(`node_modules/${name}/`, peers);
  if (!existsSync(folder)) {
    console.error(`Installing ${name} into benchmarks/peers ...`);
    // The prebuilt binaries are packages of their own; no install script is needed.
    const { status } = spawnSync('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'], {
      cwd: fileURLToPath(peers),
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    if (status !== 0) throw new Error(`npm ci in benchmarks/peers failed (exit code ${status})`);
  }
  const { exports } = JSON.parse(readFileSync(new URL('package.json', folder), 'utf8'));
  const entry = exports['.'];
  return import(new URL(typeof entry === 'string' ? entry : (entry.import ?? entry.node ?? entry.default), folder));
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Writes benchmarks/results/<name>.json, with the machine and the date. */
export function writeResults(name, results) {
  const file = resultsFile(name);
  const about = {
    date: new Date().toISOString().slice(0, 10),
    cpu: cpus()[0].model,
    cores: cpus().length,
    node: process.version,
  };
  writeFileSync(file, `${JSON.stringify({ ...about, ...results }, null, 2)}\n`);
  console.log(`\nWritten to ${fileURLToPath(file)}`);
}

/** What {@link writeResults} wrote last, if anything. */
export function readResults(name) {
  const file = resultsFile(name);
  return existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : undefined;
}

/** As {@link writeResults}, for a benchmark that measures some of its rows in a run: rows that differ in one of `keys` are kept. */
export function writeRows(name, { rows, ...results }, keys = ['context']) {
  const before = readResults(name)?.rows ?? [];
  const kept = before.filter((one) => rows.every((row) => keys.some((key) => row[key] !== one[key])));
  writeResults(name, { ...results, rows: [...kept, ...rows].sort((a, b) => a.context - b.context) });
}

function resultsFile(name) {
  const folder = new URL('results/', BENCHMARKS);
  mkdirSync(folder, { recursive: true });
  return new URL(`${name}.json`, folder);
}
