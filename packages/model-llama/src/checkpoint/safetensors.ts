import { CheckpointError } from '../errors.js';
import { type FileBytes, refuseOverlaps, type StoredTensor } from './tensor-table.js';

// Bytes an element of each dtype of the format. Only F32, F16 and BF16 can be read as weights; the others may be in the
// file (index buffers, say) as long as nobody asks for them.
const ELEMENT_BYTES: Readonly<Record<string, number>> = {
  F64: 8,
  I64: 8,
  U64: 8,
  F32: 4,
  I32: 4,
  U32: 4,
  F16: 2,
  BF16: 2,
  I16: 2,
  U16: 2,
  I8: 1,
  U8: 1,
  BOOL: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
};
const MAX_HEADER_BYTES = 100_000_000; // the format's own limit

/**
 * Parses a safetensors file: 8 bytes of header length, a JSON header, the data. Offsets, shapes and lengths are checked
 * against each other and the file's size.
 *
 * @param source The file. Only the header is read; tensors stay where they are.
 * @throws CheckpointError naming file, tensor and offset.
 */
export function parseSafetensors(source: FileBytes): Map<string, StoredTensor> {
  const { path: file, size } = source;
  const refuse = (message: string, offset: number, tensor?: string): never => {
    throw new CheckpointError(message, { file, offset, tensor });
  };
  if (size < 8) refuse(`the file has ${size} bytes, too few for a safetensors header`, 0);
  const prefix = source.view(0, 8);
  const headerBytes = Number(new DataView(prefix.buffer, prefix.byteOffset, 8).getBigUint64(0, true));
  const dataStart = 8 + headerBytes;
  if (headerBytes > MAX_HEADER_BYTES) refuse(`a header of ${headerBytes} bytes: not a safetensors file`, 0);
  if (dataStart > size) {
    refuse(`the header ends at byte ${dataStart}, but the file has ${size}: it is truncated`, 0);
  }

  let header: unknown;
  try {
    header = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(source.view(8, headerBytes)));
  } catch (cause) {
    throw new CheckpointError(`the header is not JSON: ${(cause as Error).message}`, { file, offset: 8, cause });
  }
  if (typeof header !== 'object' || header === null || Array.isArray(header)) refuse('the header is not an object', 8);

  const tensors = new Map<string, StoredTensor>();
  let end = dataStart;
  for (const [name, entry] of Object.entries(header as Record<string, unknown>)) {
    if (name === '__metadata__') continue;
    const { dtype, shape, data_offsets: range } = (entry ?? {}) as Record<string, unknown>;
    if (typeof dtype !== 'string' || !isCounts(shape) || !isCounts(range) || range.length !== 2) {
      return refuse('its header entry needs dtype, shape and data_offsets', 8, name);
    }
    if (!Object.hasOwn(ELEMENT_BYTES, dtype)) return refuse(`its dtype ${dtype} is not known`, 8, name);
    const [from, to] = range as [number, number];
    const length = shape.reduce((product, size) => product * size, ELEMENT_BYTES[dtype]!);
    if (to - from !== length) {
      refuse(
        `${dtype} of shape [${shape.join(', ')}] takes ${length} bytes, but its data_offsets span ${to - from}`,
        dataStart + from,
        name,
      );
    }
    if (dataStart + to > size) {
      refuse(
        `its data end at byte ${dataStart + to}, but the file has ${size}: it is truncated`,
        dataStart + from,
        name,
      );
    }
    tensors.set(name, { file: source, offset: dataStart + from, length, shape, dtype: dtype.toLowerCase() });
    end = Math.max(end, dataStart + to);
  }
  refuseOverlaps(tensors);
  if (end !== size) refuse(`${size - end} bytes after the last tensor belong to none`, end);
  return tensors;
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}
