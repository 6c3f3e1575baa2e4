// What packages/cuda-kernels/scripts/measure-device.sh measured, as one section of tables.

const HOW = '`bash packages/cuda-kernels/scripts/measure-device.sh`';
const milliseconds = (value) => value.toFixed(2);
const ratio = (value) => (value === null || value === undefined ? '-' : `${value.toFixed(2)}x`);

/**
 * @param read What a part wrote, by the name of its file, or undefined.
 * @param markdown (head, rows, note) => a table
 */
export function deviceTables(read, markdown) {
  const sections = [
    kernels(read('cuda-kernels'), markdown),
    check(read('cuda-check'), markdown),
    decode(read('cuda-decode'), markdown),
    ...[98304, 16384].map((context) => throughput(read(`cuda-throughput-${context}`), markdown)),
    prefill(read('cuda-prefill'), markdown),
  ].filter((section) => section !== undefined);
  return sections.length > 0
    ? sections.join('\n\n')
    : `**No such measurement has been made yet: this package has not met a GPU.** ${HOW} makes them.`;
}

function kernels(measured, markdown) {
  if (measured === undefined) return undefined;
  const { device, date, ceilings, results, pytorch } = measured;
  const share = (value) => (value > 0 ? `${(100 * value).toFixed(0)}%` : '-');
  const rate = (value, unit) => `${value.toPrecision(3)} ${unit}`;
  return markdown(
    ['kernel', 'shape', 'ms', 'of copy bandwidth', 'of the matrix rate', 'PyTorch'],
    results.map(({ kernel, shape, milliseconds, shareOfCopy, shareOfGemm, pytorchMilliseconds }) => [
      kernel,
      shape,
      milliseconds.toPrecision(3),
      share(shareOfCopy),
      share(shareOfGemm),
      pytorchMilliseconds
        ? `${pytorchMilliseconds.toPrecision(3)} ms (${ratio(pytorchMilliseconds / milliseconds)})`
        : '-',
    ]),
    `${device}, ${date.slice(0, 10)}. Copy ${rate(ceilings.copyGBs, 'GB/s')}, matrix product ${rate(ceilings.gemmTflops, 'TFLOP/s')}` +
      `${pytorch ? `; PyTorch ${pytorch}` : ''}.`,
  );
}

function check(measured, markdown) {
  if (measured === undefined) return undefined;
  return markdown(
    ['attention', 'greedy tokens as on the CPU', 'largest relative error of logits'],
    measured.rows.map(({ policy, sameTokens, tokens, largestError }) => [
      policy,
      `${sameTokens} of ${tokens}`,
      largestError.toExponential(1),
    ]),
    about(measured),
  );
}

function decode(measured, markdown) {
  if (measured === undefined) return undefined;
  const dense = measured.rows.find(({ policy }) => policy === 'dense');
  return markdown(
    [
      `${measured.context} tokens, one sequence`,
      'ms a token',
      'over dense',
      'device computes',
      'rows under way',
      'host chooses and attends',
      'of it choosing',
      'host waits',
    ],
    measured.rows.map((row) => [
      row.policy === 'magicpig' ? `magicpig (${row.K}, ${row.L})` : row.policy,
      milliseconds(row.stepMs),
      ratio(dense && dense.stepMs / row.stepMs),
      milliseconds(row.gpuMs),
      milliseconds(row.transferMs),
      milliseconds(row.attendMs),
      row.selectMs === undefined ? '-' : milliseconds(row.selectMs),
      milliseconds(row.idleMs),
    ]),
    `${about(measured)} Goal: ${measured.goalMs} ms with magicpig. What chooses keys was timed alone.`,
  );
}

function throughput(measured, markdown) {
  if (measured === undefined) return undefined;
  const batch = (best) => (best ? `${best.tokensPerSecond.toFixed(1)} (${best.sequences})` : 'does not fit');
  return markdown(
    [`${measured.context} tokens, device memory`, 'dense, tokens/s (sequences)', 'magicpig', 'ratio'],
    measured.rows.map(({ vramGiB, dense, magicpig, ratio: over }) => [
      `${vramGiB} GiB`,
      batch(dense),
      batch(magicpig),
      ratio(over),
    ]),
    `${about(measured)} ${measured.distinctContexts} different contexts in host memory.`,
  );
}

function prefill(measured, markdown) {
  if (measured === undefined) return undefined;
  const seconds = (ms) => (ms / 1e3).toFixed(2);
  return markdown(
    ['prompt, tokens', 'read in, s', 'with tables, s', 'ratio'],
    measured.rows.map(({ context, readMs, withTablesMs, ratio: over }) => [
      context,
      seconds(readMs),
      seconds(withTablesMs),
      ratio(over),
    ]),
    about(measured),
  );
}

function about({ model, device, host, date }) {
  return `${model}; ${device}; ${host}; ${date}.`;
}
