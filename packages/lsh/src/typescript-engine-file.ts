/** Tables in files, in TypeScript: native/tables_file.cc, docs/format.md. */
import type { EngineFile, EngineTablesOptions, KeptVectors, Vectors } from './engine.js';
import { Container, corrupt, type Section, writeContainer } from './typescript-engine-container.js';
import { HeadIndex } from './typescript-engine-head.js';
import type { TypeScriptProjection } from './typescript-engine-projection.js';

/** Keys of one head, and what is kept of them. */
export interface Head {
  index: HeadIndex;
  /** [dim] of a head that is centred on the mean of its first keys. */
  centre?: Float32Array;
  /** 1 / |vector - centre|, [index.size] and room for more; empty when not kept. */
  inverseNorms: Float32Array;
  /** [index.size][dim] and room for more; empty when not kept. */
  vectors: Vectors;
}

const KIND = { kind: 'TABL', version: 1 };
const SHAPE_BYTES = 64;
const CENTRING = ['none', 'auto', 'given'] as const;
const KEEP = ['none', 'f32', 'bf16'] as const;

type FileShape = EngineFile['shape'];

/** The bytes of a file. */
export function writeTables(
  options: EngineTablesOptions,
  projection: TypeScriptProjection,
  heads: readonly (Head | undefined)[],
): Uint8Array {
  const { dim, bits, tables, seed, hadamard } = projection;
  const center = options.center instanceof Float32Array ? 'given' : options.center;
  const record = new DataView(new ArrayBuffer(SHAPE_BYTES));
  record.setBigUint64(0, BigInt(seed), true);
  record.setFloat64(8, options.minProbability, true);
  [
    hadamard ? 1 : 0,
    dim,
    bits,
    tables,
    options.heads,
    options.minCollisions,
    CENTRING.indexOf(center),
    KEEP.indexOf(options.keep),
    options.norms ? 1 : 0,
  ].forEach((value, i) => {
    record.setUint32(16 + 4 * i, value, true);
  });
  const sections: Section[] = [{ index: 0, kind: 'SHAP', pieces: [record] }];
  if (options.center instanceof Float32Array) sections.push({ index: 0, kind: 'CENT', pieces: [options.center] });
  heads.forEach((head, h) => {
    if (!head) return;
    const { size, segments, listed } = head.index;
    const add = (kind: string, piece: ArrayBufferView) => sections.push({ index: h + 1, kind, pieces: [piece] });
    add('HEAD', Uint32Array.of(size, segments.length, listed, head.centre ? 1 : 0));
    sections.push(...head.index.write(h + 1));
    if (head.centre) add('CENT', head.centre);
    if (options.norms) add('NORM', head.inverseNorms.subarray(0, size));
    if (options.keep !== 'none') add('VECS', head.vectors.subarray(0, size * dim));
  });
  return writeContainer(KIND, sections);
}

/** Opens the bytes of a file. Throws CORRUPT_FILE. */
export function readShape(bytes: Uint8Array): { file: Container; shape: FileShape } {
  const file = new Container(bytes, KIND);
  const record = new DataView(file.get(0, 'SHAP', SHAPE_BYTES, Uint8Array).buffer);
  const seed = record.getBigUint64(0, true);
  const minProbability = record.getFloat64(8, true);
  const word = (i: number) => record.getUint32(16 + 4 * i, true);
  const [hadamard, dim, bits, tables, heads, minCollisions, centring, keep, norms] = Array.from({ length: 9 }, (_, i) =>
    word(i),
  ) as [number, number, number, number, number, number, number, number, number];
  const within = (value: number, least: number, most: number) => least <= value && value <= most;
  const good =
    hadamard <= 1 &&
    within(dim, 1, 32_768) &&
    within(bits, 1, 16) &&
    within(tables, 1, 4096) &&
    within(heads, 1, 2 ** 20) &&
    within(minCollisions, 1, tables) &&
    minProbability > 0 &&
    minProbability <= 1 &&
    centring <= 2 &&
    keep <= 2 &&
    norms <= 1 &&
    seed < 2n ** 53n &&
    (word(9) | word(10) | word(11)) === 0;
  if (!good) throw corrupt("The file's description of its tables is malformed.");
  const shape = {
    heads,
    minCollisions,
    minProbability,
    norms: norms === 1,
    keep: KEEP[keep] as KeptVectors,
    hadamard: hadamard === 1,
    dim,
    bits,
    tables,
    seed: Number(seed),
    center: CENTRING[centring]!,
  };
  return { file, shape };
}

/** The heads of a file, and its given centres. With `check`, everything is read and checked. Throws CORRUPT_FILE. */
export function readHeads(
  file: Container,
  shape: FileShape,
  check: boolean,
): { heads: (Head | undefined)[]; center: EngineTablesOptions['center'] } {
  if (check) file.verify();
  const { dim, bits, tables, norms, keep } = shape;
  const center = shape.center === 'given' ? file.get(0, 'CENT', shape.heads * dim, Float32Array) : shape.center;
  const heads = Array.from({ length: shape.heads }, (_, h): Head | undefined => {
    if (!file.has(h + 1, 'HEAD')) return undefined;
    const [size, segments, listed, centred] = file.get(h + 1, 'HEAD', 4, Uint32Array) as unknown as number[];
    if (centred! > (center === 'auto' ? 1 : 0)) throw corrupt("The file's heads are malformed.");
    const kept = keep === 'none' ? 0 : size! * dim;
    const index = new HeadIndex(bits, tables);
    index.read(file, h + 1, size!, segments!, listed!, check);
    return {
      index,
      ...(centred === 1 && { centre: file.get(h + 1, 'CENT', dim, Float32Array) }),
      inverseNorms: file.get(h + 1, 'NORM', norms ? size! : 0, Float32Array),
      vectors:
        keep === 'bf16' ? file.get(h + 1, 'VECS', kept, Uint16Array) : file.get(h + 1, 'VECS', kept, Float32Array),
    };
  });
  return { heads, center };
}
