import { CheckpointError } from '../errors.js';
import { ByteReader } from './byte-reader.js';
import { BLOCKS, type FileBytes, refuseOverlaps, type StoredTensor } from './tensor-table.js';

/** A metadata value. Numeric arrays come as typed arrays (64-bit integers as float64), booleans in arrays as 0 and 1. */
export type GgufValue = number | boolean | string | string[] | Float64Array | Float32Array | Int32Array;

export interface GgufFile {
  metadata: ReadonlyMap<string, GgufValue>;
  /** By GGUF's names. Shapes are turned round: outermost first, as everywhere else. */
  tensors: ReadonlyMap<string, StoredTensor>;
}

// Ids of ggml.h's ggml_type. Formats without a name here are refused.
const TENSOR_TYPES = new Map<number, keyof typeof BLOCKS>([
  [0, 'f32'],
  [1, 'f16'],
  [2, 'q4_0'],
  [3, 'q4_1'],
  [6, 'q5_0'],
  [7, 'q5_1'],
  [8, 'q8_0'],
  [12, 'q4_k'],
  [13, 'q5_k'],
  [14, 'q6_k'],
  [30, 'bf16'],
]);

const MAGIC = 0x46554747; // 'GGUF', little-endian
const DEFAULT_ALIGNMENT = 32; // GGUF_DEFAULT_ALIGNMENT of ggml.h
const MAX_DIMENSIONS = 4; // GGML_MAX_DIMS
const MAX_HEADER_BYTES = 2 ** 28; // ten times the largest vocabularies; how far the parser looks

enum ValueType {
  Uint8,
  Int8,
  Uint16,
  Int16,
  Uint32,
  Int32,
  Float32,
  Bool,
  String,
  Array,
  Uint64,
  Int64,
  Float64,
}

/**
 * Parses a GGUF file (versions 2 and 3, little-endian), checking everything that its header says against its size.
 *
 * @param source The file. Only the header is read; tensors stay where they are.
 * @throws CheckpointError naming file, tensor and offset.
 */
export function parseGguf(source: FileBytes): GgufFile {
  const file = source.path;
  const reader = new ByteReader(source.view(0, Math.min(source.size, MAX_HEADER_BYTES)), file);
  if (reader.u32() !== MAGIC) reader.fail("not a GGUF file: it does not start with 'GGUF'", 0);
  const version = reader.u32();
  if (version !== 2 && version !== 3) {
    reader.fail(`GGUF version ${version}, of which 2 and 3 (little-endian) can be read; convert the model again`, 4);
  }
  // A tensor takes at least 24 bytes of header (name length, dimensions, type, offset), a metadata entry 13.
  const tensorCount = reader.count('tensors', 24);
  const entryCount = reader.count('metadata entries', 13);

  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < entryCount; i += 1) {
    const at = reader.offset;
    const key = reader.string();
    if (metadata.has(key)) reader.fail(`metadata key ${key} comes twice`, at);
    metadata.set(key, readValue(reader, reader.u32()));
  }

  const headers: { name: string; shape: number[]; type: number; offset: number; at: number }[] = [];
  for (let i = 0; i < tensorCount; i += 1) {
    const at = reader.offset;
    const name = reader.string();
    const dimensions = reader.u32();
    if (dimensions < 1 || dimensions > MAX_DIMENSIONS) {
      throw new CheckpointError(`it has ${dimensions} dimensions (1 to ${MAX_DIMENSIONS} are possible)`, {
        file,
        tensor: name,
        offset: at,
      });
    }
    const shape = Array.from({ length: dimensions }, () => reader.u64()).reverse();
    headers.push({ name, shape, type: reader.u32(), offset: reader.u64(), at });
  }

  const alignment = metadata.get('general.alignment') ?? DEFAULT_ALIGNMENT;
  if (typeof alignment !== 'number' || !Number.isInteger(alignment) || alignment < 1 || alignment % 8 !== 0) {
    return reader.fail(`general.alignment is ${String(alignment)}, not a positive multiple of 8`);
  }
  const dataStart = Math.ceil(reader.offset / alignment) * alignment;

  const tensors = new Map<string, StoredTensor>();
  for (const { name, shape, type, offset, at } of headers) {
    const refuse = (message: string, where: number): never => {
      throw new CheckpointError(message, { file, tensor: name, offset: where });
    };
    if (tensors.has(name)) refuse('two tensors have that name', at);
    const dtype = TENSOR_TYPES.get(type);
    if (dtype === undefined) {
      return refuse(
        `its format is GGML type ${type}, which cannot be read here (${[...TENSOR_TYPES.values()].join(', ')} can)`,
        at,
      );
    }
    const block = BLOCKS[dtype];
    const elements = shape.reduce((product, size) => product * size, 1);
    if (!Number.isSafeInteger(elements) || shape.at(-1)! % block.elements !== 0) {
      refuse(`its shape [${shape.join(', ')}] is not possible for ${dtype}`, at);
    }
    if (offset % alignment !== 0) refuse(`its data offset ${offset} is not a multiple of ${alignment}`, at);
    const start = dataStart + offset;
    const length = (elements / block.elements) * block.bytes;
    if (start + length > source.size) {
      refuse(
        `its ${length} bytes of data end at byte ${start + length}, but the file has ${source.size}: it is truncated`,
        start,
      );
    }
    tensors.set(name, { file: source, offset: start, length, shape, dtype });
  }
  refuseOverlaps(tensors);
  return { metadata, tensors };
}

function readValue(reader: ByteReader, type: number): GgufValue {
  switch (type as ValueType) {
    case ValueType.Uint8:
      return reader.u8();
    case ValueType.Int8:
      return reader.i8();
    case ValueType.Uint16:
      return reader.u16();
    case ValueType.Int16:
      return reader.i16();
    case ValueType.Uint32:
      return reader.u32();
    case ValueType.Int32:
      return reader.i32();
    case ValueType.Float32:
      return reader.f32();
    case ValueType.Bool:
      return reader.u8() !== 0;
    case ValueType.String:
      return reader.string();
    case ValueType.Uint64:
      return reader.u64();
    case ValueType.Int64:
      return reader.i64();
    case ValueType.Float64:
      return reader.f64();
    case ValueType.Array:
      return readArray(reader);
    default:
      return reader.fail(`metadata of type ${type}, which GGUF does not know`, reader.offset - 4);
  }
}

function readArray(reader: ByteReader): GgufValue {
  const type = reader.u32();
  const numbers = <T extends Float64Array | Float32Array | Int32Array>(
    bytesEach: number,
    make: (count: number) => T,
    read: () => number,
  ): T => {
    const array = make(reader.count('array elements', bytesEach));
    for (let i = 0; i < array.length; i += 1) array[i] = read();
    return array;
  };
  const int32s = (count: number) => new Int32Array(count);
  const float64s = (count: number) => new Float64Array(count);
  switch (type as ValueType) {
    case ValueType.Uint8:
    case ValueType.Bool:
      return numbers(1, int32s, () => reader.u8());
    case ValueType.Int8:
      return numbers(1, int32s, () => reader.i8());
    case ValueType.Uint16:
      return numbers(2, int32s, () => reader.u16());
    case ValueType.Int16:
      return numbers(2, int32s, () => reader.i16());
    case ValueType.Uint32:
      return numbers(4, float64s, () => reader.u32());
    case ValueType.Int32:
      return numbers(4, int32s, () => reader.i32());
    case ValueType.Float32:
      return numbers(
        4,
        (count) => new Float32Array(count),
        () => reader.f32(),
      );
    case ValueType.Uint64:
      return numbers(8, float64s, () => reader.u64());
    case ValueType.Int64:
      return numbers(8, float64s, () => reader.i64());
    case ValueType.Float64:
      return numbers(8, float64s, () => reader.f64());
    case ValueType.String: {
      const count = reader.count('strings', 8);
      const strings: string[] = [];
      for (let i = 0; i < count; i += 1) strings.push(reader.string());
      return strings;
    }
    default:
      return reader.fail(`a metadata array of type ${type}, which is not supported`, reader.offset - 4);
  }
}
