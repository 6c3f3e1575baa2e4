// Writes the tables of the READMEs from benchmarks/results/*.json: `node benchmarks/tables.mjs`.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { deviceTables } from './device-tables.mjs';

const root = new URL('../', import.meta.url);
const result = (name) => JSON.parse(readFileSync(new URL(`benchmarks/results/${name}.json`, root), 'utf8'));
const measured = (name) => (existsSync(new URL(`benchmarks/results/${name}.json`, root)) ? result(name) : undefined);
const percent = (share) => `${(100 * share).toFixed(1)}%`;

const LSH_PEERS = { lsh: '@magicpig/lsh', usearch: 'usearch 2.25.3', hnswlib: 'hnswlib-node 3.0.0' };
const SAMPLERS = {
  topk: () => 'exact TopK',
  magicpig: ({ K, L }) => `magicpig (${K}, ${L})`,
  sketch: ({ bits, share }) => (share === 1 ? 'every key (the noise)' : `sketch, ${bits} bit${bits > 1 ? 's' : ''}`),
  oracle: () => 'oracle',
};

const lshPeers = result('lsh-peers');

const readmes = {
  'README.md': {
    'llama-cpp': llamaCpp(result('llama-cpp')),
    'long-context': longContext(result('long-context')),
    'min-context': minContext(result('min-context')),
    memory: memory(result('memory')),
    stalls: stalls(result('serving')),
    'first-tokens': firstTokens(result('serving')),
    perplexity: perplexity(result('perplexity')),
    'sampling-error': samplingError(result('sampling-error')),
  },
  'docs/engine.md': {
    'long-context-operators': longContextOperators(result('long-context')),
  },
  'docs/samplers.md': {
    samplers: samplers(result('samplers')),
    'error-target': errorTarget(result('error-target')),
    'sampler-speed': samplerSpeed(result('sampler-speed')),
    'block-skips': blockSkips(result('block-skips')),
  },
  'packages/kv-offload/README.md': {
    'kv-attention': kvAttention(result('kv-attention')),
    'kv-reference': kvReference(result('kv-reference')),
    'kv-scaling': kvScaling(result('kv-scaling')),
  },
  'packages/cuda-kernels/README.md': {
    device: deviceTables(measured, markdown),
  },
  'packages/server/README.md': {
    'server-overhead': serverOverhead(result('server-overhead')),
  },
  'packages/lsh/README.md': {
    'peers-build': peersBuild(lshPeers),
    'peers-search': peersSearch(lshPeers),
    'peers-sums': peersSums(lshPeers),
  },
};

for (const [path, tables] of Object.entries(readmes)) {
  const file = new URL(path, root);
  let text = readFileSync(file, 'utf8');
  for (const [name, table] of Object.entries(tables)) {
    const section = new RegExp(`<!-- ${name} -->[^]*?<!-- /${name} -->`);
    if (!section.test(text)) throw new Error(`${path} has no section <!-- ${name} --> ... <!-- /${name} -->`);
    text = text.replace(section, `<!-- ${name} -->\n${table}\n<!-- /${name} -->`);
  }
  writeFileSync(file, text);
}

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
    [
      'context',
      'weights',
      'dense, ms',
      'of the memory speed',
      'sampled with',
      'ms',
      'possible',
      'keys drawn',
      'error',
      'index, keys and values',
    ],
    rows.flatMap(({ context, policy, keyBytes, indexBytes, sampledShare, error, formats }) =>
      formats.map(
        ({ format, weightBytes, readBandwidth, denseMs, bandwidthShare, sampledMs, ratio, possibleRatio }) => [
          context,
          `${format}, ${gigabytes(weightBytes)}`,
          denseMs.toFixed(0),
          `${percent(bandwidthShare)} of ${(readBandwidth / 1e9).toFixed(0)} GB/s`,
          policy,
          `${sampledMs.toFixed(0)} (${ratio.toFixed(2)}x)`,
          `${possibleRatio.toFixed(1)}x`,
          percent(sampledShare),
          error.toFixed(2),
          `${gigabytes(indexBytes)}, ${gigabytes(keyBytes)}`,
        ],
      ),
    ),
    `${model}, milliseconds a token. ${cpu}, ${date}.`,
  );
}

/** Operators of exact decoding at long contexts: milliseconds of a token, and the share of the memory's speed. */
function longContextOperators({ rows, cpu, date }) {
  const contexts = rows.filter(({ context }, i) => rows.findIndex((row) => row.context === context) === i);
  const columns = contexts.flatMap(({ context, formats }) => formats.map((format) => ({ context, ...format })));
  const name = (operator, format) => operator.replace(new RegExp(` ${format}$`), '');
  const names = [
    ...new Set(columns.flatMap(({ operators, format }) => operators.dense.map((one) => name(one.operator, format)))),
  ];
  const cell = (operator, { operators, format }) => {
    const found = operators.dense.find((one) => name(one.operator, format) === operator);
    return found && found.ms >= 0.1 ? `${found.ms.toFixed(1)} (${Math.round(100 * found.bandwidthShare)}%)` : '';
  };
  const lines = names.map((operator) => [operator, ...columns.map((column) => cell(operator, column))]);
  return markdown(
    ['operator', ...columns.map(({ context, format }) => `${context}, ${format}`)],
    lines.filter(([, ...cells]) => cells.some((text) => text !== '')),
    `${cpu}, ${date}.`,
  );
}

function minContext({ rows }) {
  const policies = ['magicpig', 'sketch'];
  return markdown(
    ['context', 'dense, ms a token', ...policies.map((name) => `${name}, ms a token`)],
    rows.map((row) => [
      row.context,
      row.denseMs.toFixed(1),
      ...policies.map((name) => `${row[name].ms.toFixed(1)} (${row[name].ratio.toFixed(2)}x)`),
    ]),
  );
}

function stalls({ model, documentTokens, stalls, cpu, date }) {
  return markdown(
    ['maxStallMs', 'gaps', 'median, ms', '99%, ms', 'longest, ms', 'prompts read at, tokens/s'],
    stalls.map(({ maxStallMs, gaps, median, p99, longest, prefillTokensPerSecond }) => [
      maxStallMs,
      gaps,
      ...[median, p99, longest, prefillTokensPerSecond].map(Math.round),
    ]),
    `${model}, documents of ${documentTokens} tokens. ${cpu}, ${date}.`,
  );
}

function firstTokens({ firstTokens }) {
  return markdown(
    ['the document is', 'first sampled token, s', 'tokens known'],
    firstTokens.map(({ document, firstTokenMs, cachedTokens }) => [
      document,
      (firstTokenMs / 1e3).toFixed(2),
      cachedTokens,
    ]),
  );
}

function serverOverhead({ clients, model: { source, format, promptTokens, serverMs, directMs }, cpu, date }) {
  const milliseconds = (value) => value.toPrecision(3);
  return markdown(
    ['model', 'through the server, ms a token', 'without it'],
    [
      ...clients.map(({ clients, serverMicroseconds, directMicroseconds }) => [
        `one that costs nothing, ${clients === 1 ? 'one client' : `${clients} clients`}`,
        milliseconds(serverMicroseconds / 1e3),
        milliseconds(directMicroseconds / 1e3),
      ]),
      [
        `${source} ${format}, ${promptTokens} tokens of context`,
        `${milliseconds(serverMs)} (+${percent(serverMs / directMs - 1)})`,
        milliseconds(directMs),
      ],
    ],
    `${cpu}, ${date}.`,
  );
}

function memory({ rows }) {
  const megabytes = (bytes) => `${Math.round(bytes / 1e6)} MB`;
  return markdown(
    ['model', 'context', 'weights', 'keys, values, tables', 'peak of the process', 'of it Node.js alone'],
    rows.map(({ model, context, weightBytes, cacheBytes, peakBytes, emptyBytes }) => [
      model,
      context,
      megabytes(weightBytes),
      megabytes(cacheBytes),
      `${megabytes(peakBytes)} (${(peakBytes / (weightBytes + cacheBytes)).toFixed(2)}x)`,
      megabytes(emptyBytes),
    ]),
  );
}

function perplexity({ rows }) {
  return markdown(
    ['weights', 'perplexity', 'against f32'],
    rows.map(({ format, perplexity, ratio }) => [
      format,
      perplexity.toFixed(3),
      `${ratio >= 1 ? '+' : ''}${(100 * (ratio - 1)).toFixed(2)}%`,
    ]),
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

function peersBuild({ engines, count, dim, cpu, node, date }) {
  return markdown(
    ['index', 'built in, s', 'bytes a vector'],
    Object.entries(LSH_PEERS).map(([engine, name]) => {
      const { buildMs, bytesPerVector } = engines[engine];
      const ratio = buildMs / engines.lsh.buildMs;
      return [
        name,
        `${(buildMs / 1000).toFixed(2)} (${ratio.toFixed(ratio < 10 ? 1 : 0)}x)`,
        bytesPerVector.toFixed(0),
      ];
    }),
    `${count.toLocaleString('en')} vectors of ${dim} float32 values (${4 * dim} of the bytes), one thread. ${cpu}, Node ${node}, ${date}.`,
  );
}

function peersSearch({ engines }) {
  return markdown(
    ['index', 'setting', 'recall at 10', 'one query, µs'],
    Object.entries(LSH_PEERS).flatMap(([engine, name]) =>
      engines[engine].search.map(({ setting, recall, queryMs }) => [
        name,
        setting,
        recall.toFixed(3),
        (1000 * queryMs).toFixed(0),
      ]),
    ),
  );
}

/** The middle three budgets; the plot has all. */
function peersSums({ engines, temperatures, concentration }) {
  const rows = { ...LSH_PEERS, uniform: 'uniform sample' };
  return markdown(
    ['estimate', 'read', ...temperatures.map((t, i) => `T = ${t} (top 1% carry ${percent(concentration[i])})`)],
    [1, 2, 3].flatMap((budget) =>
      Object.entries(rows).map(([engine, name]) => {
        const { read, errors } = engines[engine].sums[budget];
        return [name, percent(read), ...errors.map(({ rms, bias }) => `${rms.toFixed(3)} (${bias.toFixed(3)})`)];
      }),
    ),
    'Root mean square of the relative error, and its mean (the bias) in parentheses.',
  );
}

function samplers({ model, contextTokens, steps, texts, rows, cpu, date }) {
  return markdown(
    [
      'sampler',
      'keys read',
      'index, bytes a key',
      'error of attention',
      'KL of the next token, thousandths of a nat',
      'same token first',
      'under twice its standard error',
    ],
    rows.map((row) => [
      SAMPLERS[row.kind](row),
      percent(row.sampledShare),
      row.kind === 'topk' || row.kind === 'oracle' ? '-' : row.indexBytes.toFixed(0),
      row.attentionError.toFixed(3),
      `${(1e3 * row.kl).toFixed(2)} ± ${(1e3 * row.klHalfWidth).toFixed(2)}`,
      percent(row.same),
      row.coverage === undefined ? '-' : percent(row.coverage),
    ]),
    `${model}, ${contextTokens} tokens of ${Object.keys(texts).length} texts (${Object.keys(texts).join(', ')}), ${steps} decoded after each. ${cpu}, ${date}.`,
  );
}

function errorTarget({ rows }) {
  return markdown(
    ['bits', 'target', 'keys read', 'true error', 'true error under twice the estimate'],
    rows.map(({ bits, target, sampledShare, trueError, coverage }) => [
      bits,
      target,
      percent(sampledShare),
      trueError.toFixed(3),
      percent(coverage),
    ]),
    `${rows[0].draws.toLocaleString('en')} draws a row.`,
  );
}

/** Errors of attention by what is looked at, and in parentheses how many of the keys that are, by budget. */
function blockSkips({ model, contextTokens, texts, layers, rows, cpu, date }) {
  const shares = [...new Set(rows.map(({ share }) => share))];
  const lines = new Map();
  for (const { context, look, bits, residual, looked, error } of rows) {
    const codes = residual ? `${bits}, of the distance to the mean of the block` : bits;
    const key = [context, look, codes].join();
    if (!lines.has(key)) lines.set(key, [context, look, codes]);
    lines.get(key).push(looked === 1 ? error.toFixed(3) : `${error.toFixed(3)} (${percent(looked)})`);
  }
  return markdown(
    ['context', 'looked at', 'bits', ...shares.map((share) => `error at ${100 * share}% of the keys`)],
    [...lines.values()],
    `${model}, ${contextTokens} tokens of each of ${texts.length} texts, layers ${layers.join(', ')}. ${cpu}, ${date}.`,
  );
}

function samplerSpeed({ settings, cpu, date }) {
  return markdown(
    ['setting', 'exact, ms', 'magicpig', 'error', 'ms', 'sketch that errs no more', 'error', 'ms', 'ratio'],
    Object.entries(settings).flatMap(([setting, { exactMs, rows }]) =>
      rows
        .filter(({ equal }) => equal)
        .map(({ K, L, error, ms, equal }) => {
          const sketch = rows.find(({ bits, budget }) => bits === equal.bits && budget.share === equal.share);
          return [
            setting,
            exactMs.toFixed(2),
            `(${K}, ${L})`,
            error.toFixed(2),
            ms.toFixed(2),
            `${equal.bits} bits, ${percent(sketch.share)}`,
            sketch.error.toFixed(2),
            sketch.ms.toFixed(2),
            `${equal.ratio.toFixed(2)}x`,
          ];
        }),
    ),
    `Selection and attention of one layer for one token, shaped keys, bfloat16. ${cpu}, ${date}.`,
  );
}

function kvAttention({ rows, cpu, date }) {
  return markdown(
    ['rows', 'threads', 'exact, ms', 'of the read bandwidth', 'sampled, ms', 'of the keys', 'ratio', 'error'],
    rows.map((row) => [
      row.dtype,
      row.threads,
      row.exactMs.toFixed(2),
      `${percent(row.bandwidthShare)} of ${row.bandwidthGBs.toFixed(1)} GB/s`,
      row.sampledMs.toFixed(2),
      percent(row.sampledShare),
      `${row.ratio.toFixed(1)}x`,
      row.error === 0 ? '-' : row.error.toExponential(1),
    ]),
    `${cpu}, ${date}.`,
  );
}

function kvReference({ reference, magicpig, ratio, length, sampledShare, cpu }) {
  return markdown(
    ['', 'retrieve, ms', 'attend, ms', 'together, ms'],
    [
      ['reference', reference.retrieveMs.toFixed(2), reference.attendMs.toFixed(2), reference.totalMs.toFixed(2)],
      ['@magicpig/kv-offload', '', '', `${magicpig.totalMs.toFixed(2)} (${ratio.toFixed(1)}x faster)`],
    ],
    `${length.toLocaleString('en')} tokens, ${percent(sampledShare)} of the keys, medians. ${cpu}.`,
  );
}

function kvScaling({ rows, crossover, cpu, date }) {
  const lengths = [...new Set(rows.map((row) => row.length))].sort((a, b) => a - b);
  return markdown(
    ['d', 'batch', 'threads', ...lengths.map((length) => length.toLocaleString('en')), 'sampling pays from'],
    crossover.map(({ headDim, batch, threads, minContext }) => [
      headDim,
      batch,
      threads,
      ...lengths.map((length) => {
        const row = rows.find(
          (row) => row.headDim === headDim && row.batch === batch && row.threads === threads && row.length === length,
        );
        if (row === undefined) return '';
        const { exactMs, sampledMs } = row;
        return `${exactMs.toPrecision(3)} / ${sampledMs.toPrecision(3)} (${(exactMs / sampledMs).toFixed(1)}x)`;
      }),
      minContext?.toLocaleString('en') ?? 'beyond',
    ]),
    `${cpu}, ${date}.`,
  );
}

function markdown(head, rows, note) {
  const lines = [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`);
  return [...lines, ...(note ? ['', note] : [])].join('\n');
}
