// Exact and sampled attention over threads, context, batch and head dimension: a table in Markdown, JSON, and a plot.
//   node bench/scaling.mjs [--out FOLDER] [--bytes 2e9] [--quick]
import { mkdirSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus } from 'node:os';
import { join } from 'node:path';
import { median, setting } from './setting.mjs';

const option = (name, otherwise) => {
  const at = process.argv.indexOf(`--${name}`);
  return at > 0 ? process.argv[at + 1] : otherwise;
};
const quick = process.argv.includes('--quick');
const out = option('out', 'build/bench');
// Cache and tables of one setting; larger ones are left out.
const maxBytes = Number(option('bytes', 4e9));
const TABLE_BYTES = 310; // a key, at L = 150

const all = availableParallelism();
const threadCounts = [...new Set([1, 2, 4, 8, 16, 32, 64].filter((n) => n < all)), all];
const lengths = quick ? [1024, 8192] : [1024, 4096, 16384, 65536, 131072, 524288];
const batches = quick ? [1, 4] : [1, 4, 16];
const [queryHeads, kvHeads] = [32, 8];

const rows = [];
for (const headDim of [64, 128]) {
  for (const batch of batches) {
    for (const length of lengths) {
      if (batch * length * kvHeads * (4 * headDim + TABLE_BYTES) > maxBytes) continue;
      for (const threads of threadCounts) {
        const bench = setting({ length, queryHeads, kvHeads, headDim, threads, batch });
        const rounds = Math.max(7, Math.min(50, Math.round(4e6 / (length * batch))));
        const [exact, sampled] = [median(rounds, bench.exact), median(rounds, bench.sampled)];
        rows.push({ headDim, batch, length, threads, exact, sampled, gbs: bench.bytes / exact / 1e6 });
        bench.dispose();
        console.log(
          `d=${headDim} batch ${batch} n=${length} threads ${threads}: ` +
            `exact ${exact.toFixed(3)} ms, sampled ${sampled.toFixed(3)} ms`,
        );
      }
    }
  }
}

mkdirSync(out, { recursive: true });
writeFileSync(join(out, 'scaling.json'), `${JSON.stringify({ cpu: cpus()[0].model, rows }, null, 2)}\n`);
writeFileSync(
  join(out, 'scaling.md'),
  [
    `${cpus()[0].model}; ${queryHeads} query and ${kvHeads} KV heads, bf16, K=10, L=150; medians`,
    '',
    '| d | batch | context | threads | exact ms | GB/s | sampled ms | ratio |',
    '|---|---|---|---|---|---|---|---|',
    ...rows.map(
      (r) =>
        `| ${r.headDim} | ${r.batch} | ${r.length} | ${r.threads} | ${r.exact.toFixed(3)} | ${r.gbs.toFixed(1)} | ` +
        `${r.sampled.toFixed(3)} | ${(r.exact / r.sampled).toFixed(1)} |`,
    ),
    '',
  ].join('\n'),
);
writeFileSync(join(out, 'scaling.svg'), plot(rows.filter((r) => r.batch === 1)));
console.log(`wrote ${out}/scaling.{json,md,svg}`);

/** Milliseconds over context, both logarithmic, one line for each (dimension, threads, method). */
function plot(points) {
  const [width, height, margin] = [760, 440, 50];
  const scale = (values, size, flip) => {
    const [low, high] = [Math.log(Math.min(...values)), Math.log(Math.max(...values))];
    return (x) => {
      const share = (Math.log(x) - low) / (high - low || 1);
      return margin + (flip ? 1 - share : share) * (size - 2 * margin);
    };
  };
  const times = points.flatMap((p) => [p.exact, p.sampled]);
  const [x, y] = [
    scale(
      points.map((p) => p.length),
      width,
      false,
    ),
    scale(times, height, true),
  ];
  const lines = [];
  const keys = [...new Set(points.map((p) => `${p.headDim}/${p.threads}`))];
  for (const [i, key] of keys.entries()) {
    const line = points.filter((p) => `${p.headDim}/${p.threads}` === key);
    for (const method of ['exact', 'sampled']) {
      const colour = `hsl(${(360 * i) / keys.length} 70% ${method === 'exact' ? 40 : 60}%)`;
      const path = line.map((p) => `${x(p.length).toFixed(1)},${y(p[method]).toFixed(1)}`).join(' ');
      const dash = method === 'exact' ? '' : ' stroke-dasharray="6 4"';
      const last = line.at(-1);
      const [d, threads] = key.split('/');
      lines.push(
        `<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="2"${dash}/>`,
        `<text x="${x(last.length) - 4}" y="${y(last[method]) - 5}" text-anchor="end" fill="${colour}">${method}, d=${d}, ${threads} threads</text>`,
      );
    }
  }
  const ticks = [...new Set(points.map((p) => p.length))].map(
    (n) => `<text x="${x(n)}" y="${height - margin + 18}" text-anchor="middle">${n}</text>`,
  );
  const levels = [0.01, 0.1, 1, 10, 100]
    .filter((t) => t >= Math.min(...times) && t <= Math.max(...times))
    .map(
      (t) =>
        `<line x1="${margin}" x2="${width - margin}" y1="${y(t)}" y2="${y(t)}" stroke="#ddd"/>` +
        `<text x="${margin - 6}" y="${y(t) + 4}" text-anchor="end">${t}</text>`,
    );
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="11">
<rect width="100%" height="100%" fill="white"/>
<text x="${margin}" y="20" font-size="14">Attention of one layer, milliseconds over context (batch 1)</text>
${[...levels, ...ticks, ...lines].join('\n')}
</svg>
`;
}
