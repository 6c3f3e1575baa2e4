// Hashes vectors on the GPU: node examples/hash-a-million-vectors.mjs [--rows N] [--emulate]
import { parseArgs } from 'node:util';
import {
  availability,
  columnMean,
  Device,
  fillNormal,
  projectionLength,
  simhash,
  simhashProjections,
} from '@magicpig/cuda-kernels';

const { values } = parseArgs({ options: { rows: { type: 'string' }, emulate: { type: 'boolean' } } });
const rows = Number(values.rows ?? 1_000_000);
const found = availability();
if (!found.available && !values.emulate) {
  console.error(`${found.reason} To see it work on the CPU: --emulate --rows 1000`);
  process.exit(1);
}

const sizes = { dim: 128, bits: 10, tables: 150 };
const device = new Device({ emulate: values.emulate });
try {
  const stream = device.stream();
  const x = device.array('bf16', rows * sizes.dim);
  const centre = device.array('f32', sizes.dim);
  const projections = device.array('i8', projectionLength(sizes));
  const codes = device.array('u16', rows * sizes.tables);

  fillNormal(stream, { out: x, seed: 1 });
  simhashProjections(stream, { out: projections, ...sizes, seed: 42 });
  columnMean(stream, { mean: centre, x, rows, dim: sizes.dim });
  stream.synchronize();

  const start = device.event({ timed: true });
  const end = device.event({ timed: true });
  stream.record(start);
  simhash(stream, { codes, x, rows, centre, projections, ...sizes });
  stream.record(end);
  await end.done();
  const time = end.millisecondsSince(start).toFixed(2);
  console.log(`${rows} vectors, ${sizes.tables} codes each: ${time} ms on ${device.properties.name}`);
  console.log('codes of the first vector:', [...codes.view(0, sizes.tables).read()].slice(0, 10).join(' '), '...');
} finally {
  device[Symbol.dispose]();
}
