import type { FileBytes } from '../../src/checkpoint/tensor-table.js';

/** Bytes as a file that is not on disk; looking beyond its end fails, as it does for a mapped one. */
export function inMemoryFile(bytes: Uint8Array, path = '/models/test.bin'): FileBytes {
  return {
    path,
    size: bytes.length,
    view(offset, length) {
      if (offset < 0 || offset + length > bytes.length)
        throw new Error(`view [${offset}, ${offset + length}) of ${bytes.length}`);
      return new Uint8Array(bytes.buffer, bytes.byteOffset + offset, length);
    },
  };
}
