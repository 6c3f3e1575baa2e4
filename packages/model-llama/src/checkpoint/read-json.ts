import { readFileSync } from 'node:fs';
import { CheckpointError } from '../errors.js';

/**
 * A parsed JSON file, or nothing when there is no such file.
 * @throws CheckpointError when it cannot be read or is not JSON.
 */
export function readJson(path: string): unknown {
  const text = readText(path);
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new CheckpointError(`not JSON: ${(cause as Error).message}`, { file: path, cause });
  }
}

/**
 * A text file, or nothing when there is no such file.
 * @throws CheckpointError when it cannot be read.
 */
export function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new CheckpointError(`cannot be read: ${(cause as Error).message}`, { file: path, cause });
  }
}
