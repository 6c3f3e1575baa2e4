import type { Device } from '../device.js';
import type { DeviceArray } from '../device-array.js';
import { InvalidArgumentError } from '../errors.js';
import { fillNormal } from '../kernels/fill-normal.js';
import { packWeight, type WeightKind, weightSourceBytes } from '../kernels/weights.js';
import type { Stream } from '../stream.js';
import { checkInteger, checkMultiple } from '../validate.js';
import type { CudaWeight } from './cuda-weight.js';
import type { WeightFormat, WeightSource } from './types.js';

/** Device memory that checkpoints pass through on their way into a weight, at most. */
export const STAGING_BYTES = 2 ** 26;

/** The kind that holds sources in the format asked for: 4-bit types stay in 4 bits, other quantised ones go into 8. */
export function weightKind(format: WeightFormat, sources: readonly WeightSource[]): WeightKind {
  if (format === 'bf16') return 'bf16';
  if (format !== 'q8' && format !== 'q4') {
    throw new InvalidArgumentError(
      `format must be bf16, q8 or q4 on a GPU, not ${String(format)}; float32 is the CPU's reference.`,
    );
  }
  const kinds = sources.map(({ type }) => {
    if (type === 'q4_0' || type === 'q4_1' || type === 'q4_k') return 'q4';
    return type === 'f32' || type === 'f16' || type === 'bf16' || type === 'random' ? format : 'q8';
  });
  return kinds.includes('q8') ? 'q8' : 'q4';
}

/** @throws InvalidArgumentError for a source whose sizes do not fit together */
export function checkSource(source: WeightSource): void {
  checkInteger('rows', source.rows, 1);
  checkMultiple('cols', source.cols, 8);
  if (source.type === 'random') {
    checkInteger('seed', source.seed, 0, Number.MAX_SAFE_INTEGER);
    return;
  }
  const bytes = weightSourceBytes(source.type, source.cols);
  const { rowOrder } = source;
  if (rowOrder !== undefined && rowOrder.length !== source.rows) {
    throw new InvalidArgumentError(`rowOrder holds ${rowOrder.length} rows, but the source has ${source.rows}.`);
  }
  const held = Math.floor(source.data.byteLength / bytes);
  const last = rowOrder === undefined ? source.rows - 1 : rowOrder.reduce((most, row) => Math.max(most, row), 0);
  if (last >= held)
    throw new InvalidArgumentError(`data holds ${held} rows of ${bytes} bytes, but row ${last} is named.`);
}

/** Brings a source into rows `firstRow` .. of a weight, a stretch of rows at a time. Returns when the data is not needed any more. */
export function packSource(
  device: Device,
  stream: Stream,
  weight: CudaWeight,
  source: WeightSource,
  firstRow: number,
): void {
  const { rows, cols } = source;
  const type = source.type === 'random' ? 'f32' : source.type;
  const rowBytes = weightSourceBytes(type, cols);
  const most = Math.min(rows, Math.max(1, Math.floor(STAGING_BYTES / rowBytes)));
  using staging = device.array('u8', most * rowBytes);
  for (let row = 0; row < rows; row += most) {
    const count = Math.min(most, rows - row);
    fillStaging(stream, staging, source, row, count, rowBytes);
    packWeight(stream, {
      weight: weight.matrix,
      source: staging,
      type,
      rows: count,
      columns: cols,
      firstRow: firstRow + row,
    });
    stream.synchronize();
  }
}

function fillStaging(
  stream: Stream,
  staging: DeviceArray<'u8'>,
  source: WeightSource,
  row: number,
  count: number,
  rowBytes: number,
): void {
  if (source.type === 'random') {
    const out = staging.view(0, count * rowBytes).as('f32');
    const { seed, std: deviation, mean = 0 } = source;
    fillNormal(stream, { out, seed, deviation, mean, first: row * source.cols });
    return;
  }
  const { data, rowOrder } = source;
  if (rowOrder === undefined) {
    staging.write(data.subarray(row * rowBytes, (row + count) * rowBytes));
    return;
  }
  const ordered = new Uint8Array(count * rowBytes);
  for (let i = 0; i < count; i += 1) {
    const from = rowOrder[row + i]! * rowBytes;
    ordered.set(data.subarray(from, from + rowBytes), i * rowBytes);
  }
  staging.write(ordered);
}
