// Writes the tables of the root README from benchmarks/results/*.json: `node benchmarks/tables.mjs`.
import { readFileSync, writeFileSync } from 'node:fs';

const root = new URL('../', import.meta.url);
const result = (name) => JSON.parse(readFileSync(new URL(`benchmarks/results/${name}.json`, root), 'utf8'));
const percent = (share) => `${(100 * share).toFixed(1)}%`;

const tables = {
  'llama-cpp': llamaCpp(result('llama-cpp')),
  'long-context': longContext(result('long-context')),
  'sampling-error': samplingError(result('sampling-error')),
};

const file = new URL('README.md', root);
let text = readFileSync(file, 'utf8');
for (const [name, table] of Object.entries(tables)) {
  const section = new RegExp(`<!-- ${name} -->[^]*?<!-- /${name} -->`);
  if (!section.test(text)) throw new Error(`README.md has no section <!-- ${name} --> ... <!-- /${name} -->`);
  text = text.replace(section, `<!-- ${name} -->\n${table}\n<!-- /${name} -->`);
}
writeFileSync(file, text);

function llamaCpp({ rows, cpu, date }) {
  const peer = (context) => rows.find((row) => row.context === context && row.name === 'llama.cpp');
  const speed = (value, base) => `${value.toFixed(1)} (${(value / base).toFixed(1)}x)`;
  return markdown(
    ['context', 'program', 'first token, s', 'prefill, tokens/s', 'decode, tokens/s'],
    rows.map(({ context, name, firstTokenMs, prefill, decode }) => [
      context,
      name,
      (firstTokenMs / 1000).toFixed(2),
      speed(prefill, peer(context).prefill),
      speed(decode, peer(context).decode),
    ]),
    `${cpu}, ${date}. Ratios are to llama.cpp at the same context.`,
  );
}

function longContext({ model, rows, cpu, date }) {
  const gigabytes = (bytes) => `${(bytes / 1e9).toFixed(1)} GB`;
  return markdown(
    ['context', 'keys and values', 'weights', 'dense, ms', 'of the memory speed', 'magicpig, ms', 'of all keys read'],
    rows.flatMap(({ context, keyBytes, keysReadShare, formats }) =>
      formats.map(({ format, weightBytes, denseMs, denseBandwidthShare, magicpigMs, magicpigRatio }) => [
        context,
        gigabytes(keyBytes),
        `${format}, ${gigabytes(weightBytes)}`,
        denseMs.toFixed(0),
        percent(denseBandwidthShare),
        `${magicpigMs.toFixed(0)} (${magicpigRatio.toFixed(1)}x)`,
        percent(keysReadShare),
      ]),
    ),
    `${model}, milliseconds a token. ${cpu}, ${date}.`,
  );
}

function samplingError({ rows }) {
  return markdown(
    [
      'K, L',
      'of the sampled keys drawn',
      'of all keys read',
      'relative error of attention',
      'same next token as dense',
    ],
    rows.map(({ K, L, sampledShare, keysReadShare, attentionError, agreement }) => [
      `${K}, ${L}`,
      percent(sampledShare),
      percent(keysReadShare),
      attentionError.toFixed(3),
      percent(agreement),
    ]),
  );
}

function markdown(head, rows, note) {
  const lines = [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`);
  return [...lines, ...(note ? ['', note] : [])].join('\n');
}
