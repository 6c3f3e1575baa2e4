import { type MappedFile, mapFile } from '@magicpig/cpu-kernels';
import { CheckpointError } from '../errors.js';

export type { MappedFile };

/**
 * Maps a file into memory, read-only. Nothing is read until it is used.
 * @throws CheckpointError when it cannot be opened or is empty.
 */
export function openMapped(path: string): MappedFile {
  try {
    return mapFile(path);
  } catch (cause) {
    throw new CheckpointError((cause as Error).message, { file: path, cause });
  }
}
