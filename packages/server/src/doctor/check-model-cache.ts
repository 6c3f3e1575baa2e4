import { constants } from 'node:fs';
import { access, readdir, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { formatBytes } from '../format-bytes.js';
import type { Check } from './check.js';

/** The folder that downloaded models are kept in: what it holds, and whether more can be written. */
export async function checkModelCache(cacheDir: string | undefined): Promise<Check> {
  const { defaultCacheDirectory } = await import('@magicpig/model-llama');
  const folder = cacheDir ?? defaultCacheDirectory();
  const { files, bytes } = await contents(folder);
  const details = { folder, files, bytes };
  const holds = files === 0 ? 'empty' : `${formatBytes(bytes)} in ${files} files`;
  try {
    await access(await nearestExisting(folder), constants.W_OK);
    return { name: 'model cache', status: 'ok', message: `${folder}: ${holds}`, details };
  } catch {
    const message = `${folder}: ${holds}, and not writable: pass --cache-dir or set MAGICPIG_CACHE to download models`;
    return { name: 'model cache', status: 'warning', message, details };
  }
}

async function contents(folder: string): Promise<{ files: number; bytes: number }> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []);
  let [files, bytes] = [0, 0];
  for (const entry of entries) {
    if (!entry.isFile()) continue;
    files += 1;
    bytes += (await stat(join(entry.parentPath, entry.name))).size;
  }
  return { files, bytes };
}

/** The folder itself, or the first one above it that exists: where it would be made. */
async function nearestExisting(folder: string): Promise<string> {
  for (let current = folder; ; current = dirname(current)) {
    const exists = await access(current).then(
      () => true,
      () => false,
    );
    if (exists || current === dirname(current)) return current;
  }
}
