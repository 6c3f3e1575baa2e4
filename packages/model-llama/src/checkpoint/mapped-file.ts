import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { CheckpointError } from '../errors.js';
import type { FileBytes } from './tensor-table.js';

export interface MappedFile extends FileBytes, Disposable {}
/** TEMP */
export function openMapped(path: string): MappedFile {
  try {
    const fd = openSync(path, 'r');
    const size = fstatSync(fd).size;
    if (size === 0) throw new Error('it is empty');
    return {
      path,
      size,
      view(o, n) {
        const b = Buffer.alloc(n);
        readSync(fd, b, 0, n, o);
        return b;
      },
      [Symbol.dispose]() {
        closeSync(fd);
      },
    };
  } catch (cause) {
    throw new CheckpointError(`cannot be read: ${(cause as Error).message}`, { file: path, cause });
  }
}
