import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';

/** What a file must hash to: the SHA-256 of its bytes, or git's SHA-1 of it as a blob. Hexadecimal, lower case. */
export type ExpectedHash = { sha256: string } | { gitBlob: string };

/** Whether the file has that hash. */
export async function hasHash(path: string, expected: ExpectedHash, signal?: AbortSignal): Promise<boolean> {
  const isGit = 'gitBlob' in expected;
  const hash = createHash(isGit ? 'sha1' : 'sha256');
  if (isGit) hash.update(`blob ${(await stat(path)).size}\0`);
  await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), hash, signal ? { signal } : {});
  return hash.digest('hex') === (isGit ? expected.gitBlob : expected.sha256);
}
