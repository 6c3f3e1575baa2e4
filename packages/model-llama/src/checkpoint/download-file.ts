import { open, rename, rm, stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { type ExpectedHash, hasHash } from './hash-file.js';

export interface DownloadRequest {
  url: string;
  headers: Record<string, string>;
  /** Where the file goes, whole or not at all. What has arrived of it is kept beside it as `.part`. */
  path: string;
  /** Bytes, when known. */
  size?: number | undefined;
  hash?: ExpectedHash | undefined;
  signal?: AbortSignal | undefined;
  /** Bytes of the file on disk so far. */
  onProgress?: ((done: number) => void) | undefined;
  /** Without a byte for this long, the connection counts as dead. */
  stallMs?: number;
}

/** The server's answer was not the file. Going on trying would not help. */
export class DownloadRefused extends Error {
  readonly status: number;

  constructor(status: number, url: string) {
    super(`${url} answered ${status}${MEANINGS[status] === undefined ? '' : `: ${MEANINGS[status]}`}`);
    this.status = status;
  }
}

const MEANINGS: Readonly<Record<number, string>> = {
  401: 'there is no such model, or it needs a token (set HF_TOKEN)',
  403: 'your token may not read this model (accept its licence on the hub first)',
  404: 'there is no such model or file',
};

const STALL_MS = 30_000;
const ATTEMPTS_WITHOUT_PROGRESS = 3;
const RETRY_MS = 100; // doubled with every attempt that brings nothing

/**
 * Downloads a file, going on where an earlier attempt or a broken connection left off, checks its size and hash, and puts
 * it in place in one step.
 *
 * @throws DownloadRefused, the signal's reason, or an Error that says what went wrong.
 */
export async function downloadFile(request: DownloadRequest): Promise<void> {
  const part = `${request.path}.part`;
  let failures = 0;
  for (let restarted = false; ; ) {
    const before = await sizeOf(part);
    try {
      if (before === 0 || before !== request.size) await transfer(request, part, before);
    } catch (error) {
      request.signal?.throwIfAborted();
      if (error instanceof DownloadRefused) throw error;
      const after = await sizeOf(part);
      failures = after > before ? 1 : failures + 1;
      if (failures >= ATTEMPTS_WITHOUT_PROGRESS) throw new Error(`${request.url}: ${explain(error)}`, { cause: error });
      await sleep(RETRY_MS * 2 ** failures, undefined, request.signal ? { signal: request.signal } : {}).catch(() =>
        request.signal?.throwIfAborted(),
      );
      continue;
    }
    const problem = await mismatch(request, part);
    if (problem === undefined) break;
    // A part that was left by something else spoils the file once; fresh bytes that are wrong will be wrong again.
    await rm(part, { force: true });
    if (restarted || before === 0) throw new Error(`${request.url}: ${problem}`);
    restarted = true;
  }
  await rename(part, request.path);
}

async function transfer(request: DownloadRequest, part: string, have: number): Promise<void> {
  const { url, headers, signal, onProgress, size, stallMs = STALL_MS } = request;
  const stall = new AbortController();
  const timer = setTimeout(() => stall.abort(new Error(`no data for ${stallMs / 1000} s`)), stallMs);
  try {
    const response = await fetch(url, {
      headers: have > 0 ? { ...headers, Range: `bytes=${have}-` } : headers,
      signal: signal ? AbortSignal.any([signal, stall.signal]) : stall.signal,
    });
    if (response.status === 416) {
      // The part is as long as the file or longer: begin again.
      await response.body?.cancel();
      await rm(part, { force: true });
      throw new Error('the part that was kept does not fit the file');
    }
    if (!response.ok || response.body === null) {
      await response.body?.cancel();
      if (response.status >= 500 || response.status === 429) throw new Error(`the server answered ${response.status}`);
      throw new DownloadRefused(response.status, url);
    }
    const resumes = response.status === 206 && response.headers.get('content-range')?.startsWith(`bytes ${have}-`);
    let done = resumes ? have : 0;
    const file = await open(part, resumes ? 'a' : 'w');
    try {
      for await (const chunk of response.body) {
        timer.refresh();
        await file.appendFile(chunk);
        done += chunk.length;
        if (size !== undefined && done > size) throw new Error(`more than the ${size} bytes that were announced`);
        onProgress?.(done);
      }
      await file.sync(); // so that a file in place is whole even after a power failure
    } finally {
      await file.close();
    }
  } finally {
    clearTimeout(timer);
  }
}

async function mismatch({ size, hash, signal }: DownloadRequest, part: string): Promise<string | undefined> {
  const got = await sizeOf(part);
  if (size !== undefined && got !== size) return `${got} bytes arrived where ${size} were announced`;
  if (hash !== undefined && !(await hasHash(part, hash, signal)))
    return 'the file that arrived has another checksum than announced';
  return undefined;
}

async function sizeOf(path: string): Promise<number> {
  return stat(path).then(
    (info) => info.size,
    () => 0,
  );
}

/** fetch() says `fetch failed` and keeps what happened in the cause. */
export function explain(error: unknown): string {
  const { message, cause } = error as Error;
  const inner = cause as (Error & { code?: string }) | undefined;
  if (message === 'fetch failed' && inner) return inner.message || inner.code || message;
  return message;
}
