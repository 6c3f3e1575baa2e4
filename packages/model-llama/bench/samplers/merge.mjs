import { meanInterval } from './divergence.mjs';

/** One row a sampler, over all texts that were measured. */
export function mergeTexts(texts) {
  const parts = Object.values(texts);
  return Object.keys(parts[0]).map((name) => {
    const { kind, bits, K, L, share } = parts[0][name];
    const all = parts.flatMap((part) => (part[name] ? [part[name]] : []));
    const sum = (value) => all.reduce((total, part) => total + value(part), 0);
    const klBlocks = all.flatMap((part) => part.klBlocks);
    const { mean, halfWidth } = meanInterval(klBlocks);
    const count = sum(({ errors }) => errors.count);
    return {
      name,
      ...{ kind, bits, K, L, share },
      sampledShare: sum(({ sampledShare }) => sampledShare) / all.length,
      indexBytes: sum(({ indexBytes }) => indexBytes) / all.length,
      attentionError: Math.sqrt(sum(({ errors }) => errors.squares) / count),
      coverage: sum(({ errors }) => errors.covered) / sum(({ errors }) => errors.estimated) || undefined,
      kl: mean,
      klHalfWidth: halfWidth,
      same: sum(({ same }) => same) / all.length,
    };
  });
}

export function printTable(rows) {
  console.log(
    'sampler            keys read  index, bytes a key  attention error  KL to exact             same top  coverage',
  );
  for (const row of rows) {
    console.log(
      `${row.name.padEnd(18)} ${percent(row.sampledShare).padStart(9)}  ${row.indexBytes.toFixed(1).padStart(18)}  ` +
        `${row.attentionError.toFixed(4).padStart(15)}  ${row.kl.toFixed(5)} +- ${row.klHalfWidth.toFixed(5)}     ` +
        `${percent(row.same).padStart(8)}  ${row.coverage === undefined ? '' : percent(row.coverage)}`,
    );
  }
}

function percent(share) {
  return `${(100 * share).toFixed(1)}%`;
}
