// The plot of bench/scaling.mjs: SVG, by hand.

/** Milliseconds over context, both logarithmic, one line for each (dimension, threads, method). */
export function plot(points) {
  const [width, height, margin] = [760, 440, 50];
  const scale = (values, size, flip) => {
    const [low, high] = [Math.log(Math.min(...values)), Math.log(Math.max(...values))];
    return (x) => {
      const share = (Math.log(x) - low) / (high - low || 1);
      return margin + (flip ? 1 - share : share) * (size - 2 * margin);
    };
  };
  const times = points.flatMap((p) => [p.exactMs, p.sampledMs]);
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
      const path = line.map((p) => `${x(p.length).toFixed(1)},${y(p[`${method}Ms`]).toFixed(1)}`).join(' ');
      const dash = method === 'exact' ? '' : ' stroke-dasharray="6 4"';
      const last = line.at(-1);
      const [d, threads] = key.split('/');
      lines.push(
        `<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="2"${dash}/>`,
        `<text x="${x(last.length) - 4}" y="${y(last[`${method}Ms`]) - 5}" text-anchor="end" fill="${colour}">${method}, d=${d}, ${threads} threads</text>`,
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
