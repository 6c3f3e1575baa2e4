import type { DeviceArray } from '../device-array.js';
import { InvalidArgumentError } from '../errors.js';
import type { Address } from '../native.js';
import type { Stream } from '../stream.js';
import { checkArray, checkInteger, checkMultiple, checkOptional } from '../validate.js';

/**
 * How a matrix lies on the device. `bf16`, `f32`: row after row; products do not take `f32`, which is for norms and biases. `q8`, `q4`: blocks of 32 weights in 8 or 4 bits with a scale (and with
 * 4 bits a minimum) in half precision: 1.0625 and 0.625 bytes a weight.
 */
export type WeightKind = 'bf16' | 'q8' | 'q4' | 'f32';

/** A matrix of weights [rows, columns] on the device. */
export interface WeightMatrix {
  kind: WeightKind;
  /** {@link weightLengths} bytes. */
  values: DeviceArray<'u8'>;
  /** {@link weightLengths} elements, for `q8` and `q4`. */
  scales?: DeviceArray<'u16'>;
}

/** Element formats of checkpoints that {@link packWeight} reads; the `q*` are ggml's blocks. */
export type WeightSourceType =
  | 'f32'
  | 'f16'
  | 'bf16'
  | 'q8_0'
  | 'q4_0'
  | 'q4_1'
  | 'q5_0'
  | 'q5_1'
  | 'q4_k'
  | 'q5_k'
  | 'q6_k';

/** Columns of the kinds come in multiples of these; the order is the kernel's. */
const MULTIPLE: Record<WeightKind, number> = { bf16: 8, q8: 32, q4: 32, f32: 8 };
const PAIR = 64;
const KINDS = Object.keys(MULTIPLE) as WeightKind[];

/** `values` consecutive values of a row take `bytes` bytes; in the order of the kernel's enumeration. */
const SOURCES: Record<WeightSourceType, { values: number; bytes: number }> = {
  f32: { values: 1, bytes: 4 },
  f16: { values: 1, bytes: 2 },
  bf16: { values: 1, bytes: 2 },
  q8_0: { values: 32, bytes: 34 },
  q4_0: { values: 32, bytes: 18 },
  q4_1: { values: 32, bytes: 20 },
  q5_0: { values: 32, bytes: 22 },
  q5_1: { values: 32, bytes: 24 },
  q4_k: { values: 256, bytes: 144 },
  q5_k: { values: 256, bytes: 176 },
  q6_k: { values: 256, bytes: 210 },
};
const SOURCE_TYPES = Object.keys(SOURCES) as WeightSourceType[];

function checkShape(kind: WeightKind, rows: number, columns: number, name = 'columns'): void {
  if (!KINDS.includes(kind)) {
    throw new InvalidArgumentError(`kind must be one of ${KINDS.join(', ')}, not ${String(kind)}.`);
  }
  checkInteger('rows', rows, 0);
  checkMultiple(name, columns, MULTIPLE[kind]);
}

/**
 * Bytes of `values` and elements of `scales` of a matrix.
 *
 * @param columns a multiple of 8, of 32 for `q8` and `q4`
 */
export function weightLengths(kind: WeightKind, rows: number, columns: number): { values: number; scales: number } {
  checkShape(kind, rows, columns);
  if (kind === 'bf16' || kind === 'f32') return { values: (kind === 'f32' ? 4 : 2) * rows * columns, scales: 0 };
  const pairs = rows * Math.ceil(columns / PAIR);
  return kind === 'q8'
    ? { values: pairs * PAIR, scales: pairs * 2 }
    : { values: (pairs * PAIR) / 2, scales: pairs * 4 };
}

/** Bytes of a row of `columns` values in a checkpoint's format. */
export function weightSourceBytes(type: WeightSourceType, columns: number): number {
  const source = SOURCES[type];
  if (source === undefined) {
    throw new InvalidArgumentError(`type must be one of ${SOURCE_TYPES.join(', ')}, not ${String(type)}.`);
  }
  return (checkMultiple('columns', columns, source.values) / source.values) * source.bytes;
}

/** @internal Kind, values and scales as the kernels take them. */
export function checkWeight(
  stream: Stream,
  weight: WeightMatrix,
  rows: number,
  columns: number,
  columnsName?: string,
): [number, Address, Address] {
  checkShape(weight.kind, rows, columns, columnsName);
  const lengths = weightLengths(weight.kind, rows, columns);
  const values = checkArray(stream, 'weight.values', weight.values, 'u8', lengths.values);
  if (lengths.scales > 0 && weight.scales === undefined) {
    throw new InvalidArgumentError(`weight.scales is missing; ${weight.kind} needs ${lengths.scales} elements.`);
  }
  const scales = checkOptional(stream, 'weight.scales', weight.scales, 'u16', lengths.scales);
  return [KINDS.indexOf(weight.kind), values, scales];
}

/**
 * Brings rows of a checkpoint into a matrix on the device. ggml's blocks keep their codes where the kind holds them: q8_0 and q4_0
 * in `q8`; q4_0, q4_1 and q4_k in `q4`. All else is rounded, as `@magicpig/cpu-kernels` rounds it.
 *
 * @param args.source rows [rows, columns] in the checkpoint's format, on the device
 * @param args.firstRow row of the matrix that the first one becomes; default 0
 */
export function packWeight(
  stream: Stream,
  args: {
    weight: WeightMatrix;
    source: DeviceArray<'u8'>;
    type: WeightSourceType;
    rows: number;
    columns: number;
    firstRow?: number;
  },
): void {
  const { weight, type, rows, columns } = args;
  const firstRow = checkInteger('firstRow', args.firstRow ?? 0, 0);
  checkShape(weight.kind, rows, columns);
  const view = checkWeight(stream, weight, firstRow + rows, columns);
  const source = checkArray(stream, 'source', args.source, 'u8', rows * weightSourceBytes(type, columns));
  stream.run('packWeight', (native, queue) =>
    native.packWeight(queue, ...view, firstRow, source, SOURCE_TYPES.indexOf(type), rows, columns),
  );
}

/**
 * Rows of a matrix as numbers: the embeddings of tokens, or a whole matrix for a product of many rows.
 *
 * @param args.out [rows, columns] f32 or bf16
 * @param args.indices [rows] i32: row r of the result is row indices[r]; row r when absent. An index outside gives NaN.
 * @param args.matrixRows rows of the matrix; default rows
 */
export function unpackWeight(
  stream: Stream,
  args: {
    out: DeviceArray<'f32'> | DeviceArray<'bf16'>;
    weight: WeightMatrix;
    indices?: DeviceArray<'i32'>;
    rows: number;
    columns: number;
    matrixRows?: number;
  },
): void {
  const { weight, rows, columns } = args;
  checkShape(weight.kind, rows, columns);
  const matrixRows = checkInteger('matrixRows', args.matrixRows ?? rows, 0);
  const view = checkWeight(stream, weight, matrixRows, columns);
  const out = checkArray(stream, 'out', args.out, ['f32', 'bf16'], rows * columns);
  const indices = checkOptional(stream, 'indices', args.indices, 'i32', rows);
  const [f32, bf16] = args.out.dtype === 'f32' ? [out, 0] : [0, out];
  stream.run('unpackWeight', (native, queue) =>
    native.unpackWeight(queue, f32, bf16, ...view, indices, rows, columns, matrixRows),
  );
}
