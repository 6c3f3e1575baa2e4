// Draws the plots of the READMEs, results/*.svg, from results/*.json: `node benchmarks/plots.mjs`.
import { readFileSync, writeFileSync } from 'node:fs';
import * as vega from 'vega';
import { compile } from 'vega-lite';

const root = new URL('../', import.meta.url);
const result = (name) => JSON.parse(readFileSync(new URL(`benchmarks/results/${name}.json`, root), 'utf8'));

const LEGEND = { title: null, orient: 'bottom', labelLimit: 0 };

const plots = {
  'lsh-peers': softmaxSums(result('lsh-peers')),
  samplers: frontier(result('samplers')),
};

for (const [name, spec] of Object.entries(plots)) {
  const view = new vega.View(vega.parse(compile({ background: 'white', ...spec }).spec), { renderer: 'none' });
  writeFileSync(new URL(`benchmarks/results/${name}.svg`, root), `${await view.toSVG()}\n`);
}

/** Error of softmax sums over the share of vectors read, one panel a temperature. */
function softmaxSums({ engines, temperatures, concentration }) {
  const names = {
    lsh: '@magicpig/lsh, estimate',
    uniform: 'uniform sample',
    usearch: 'usearch, nearest only',
    hnswlib: 'hnswlib-node, nearest only',
  };
  const panels = temperatures.map((t, i) => `T = ${t}: top 1% carry ${Math.round(100 * concentration[i])}%`);
  const values = Object.entries(names).flatMap(([engine, name]) =>
    engines[engine].sums.flatMap(({ read, errors }) =>
      errors.map(({ rms }, t) => ({ name, read, error: Math.max(rms, 1e-4), panel: panels[t] })),
    ),
  );
  return {
    data: { values },
    title: {
      text: 'Relative error (root mean square) of the sum of exp(cosine / T) over all vectors',
      anchor: 'start',
    },
    facet: { field: 'panel', sort: panels, title: null, header: { labelFontSize: 12, labelFontWeight: 'bold' } },
    columns: 2,
    spec: {
      width: 300,
      height: 190,
      mark: { type: 'line', point: true },
      encoding: {
        x: {
          field: 'read',
          type: 'quantitative',
          scale: { type: 'log', domain: [0.004, 0.12] },
          axis: { title: 'share of vectors read', values: [0.005, 0.01, 0.02, 0.05, 0.1], format: '.1%' },
        },
        y: {
          field: 'error',
          type: 'quantitative',
          scale: { type: 'log', domain: [1e-4, 10] },
          axis: { title: 'relative error', values: [1e-4, 1e-3, 0.01, 0.1, 1, 10], format: '~g' },
        },
        color: {
          field: 'name',
          sort: Object.values(names),
          scale: { range: ['#0b6bcb', '#7a7a7a', '#d1540f', '#8a3fa0'] },
          legend: LEGEND,
        },
        strokeDash: {
          field: 'name',
          sort: Object.values(names),
          scale: {
            range: [
              [1, 0],
              [2, 2],
              [1, 0],
              [5, 4],
            ],
          },
          legend: LEGEND,
        },
        shape: { field: 'name', sort: Object.values(names), legend: LEGEND },
      },
    },
  };
}

/** Error of attention over the bytes read for each key and KV head: codes once, rows for each of its query heads. */
function frontier({ model, rows, shape }) {
  const { queryHeads, kvHeads, headDim } = shape;
  const rowBytes = 4 * headDim; // a key and a value in bfloat16
  const names = {
    topk: () => 'exact TopK, rows alone',
    magicpig: () => 'magicpig, rows alone',
    sketch: ({ bits }) => `sketch, ${bits} bit${bits > 1 ? 's' : ''}`,
    oracle: () => 'oracle, rows alone',
  };
  const values = rows
    .filter(({ share }) => share !== 1)
    .map((row) => ({
      name: names[row.kind](row),
      bytes: (row.kind === 'sketch' ? row.indexBytes : 0) + (queryHeads / kvHeads) * row.sampledShare * rowBytes,
      error: row.attentionError,
    }));
  const domain = [...new Set(values.map(({ name }) => name))];
  return {
    data: { values },
    title: {
      text: `${model}: error over bytes read a key, of ${rowBytes} that exact attention reads`,
      anchor: 'start',
    },
    width: 520,
    height: 320,
    mark: { type: 'line', point: true },
    encoding: {
      x: {
        field: 'bytes',
        type: 'quantitative',
        scale: { type: 'log', domain: [12, 150], nice: false },
        axis: { title: 'bytes', values: [15, 20, 30, 40, 60, 80, 100, 150] },
      },
      y: {
        field: 'error',
        type: 'quantitative',
        scale: { type: 'log', domain: [0.007, 0.2], nice: false },
        axis: { title: 'relative error', format: '~g', values: [0.01, 0.02, 0.05, 0.1, 0.2] },
      },
      color: {
        field: 'name',
        scale: { domain, range: ['#d1540f', '#8a3fa0', '#a9cdf0', '#5b9ddb', '#0b6bcb', '#063e77', '#7a7a7a'] },
        legend: { ...LEGEND, columns: 3 },
      },
    },
  };
}
