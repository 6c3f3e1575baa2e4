import { randomUUID } from 'node:crypto';
import { link, open, readFile, rename, stat, unlink, utimes } from 'node:fs/promises';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';

// The holder touches its lock file every second; one untouched for ten belongs to a process that has died. On the same
// machine that is seen at once, by the process id in the file.
const HEARTBEAT_MS = 1_000;
const STALE_MS = 10_000;
const POLL_MS = 100;

/**
 * Runs `work` while no other process (or other call in this one) holds the lock at `path`. Waits for it as long as it
 * takes; the lock of a process that died is taken over.
 *
 * @param path The lock file; its directory must exist.
 * @param signal Aborts the waiting, not the work.
 */
export async function withFileLock<T>(
  path: string,
  signal: AbortSignal | undefined,
  work: () => Promise<T>,
): Promise<T> {
  const owner = `${hostname()} ${process.pid} ${randomUUID()}`;
  while (!(await tryLock(path, owner))) {
    await takeAwayIfStale(path);
    await sleep(POLL_MS, undefined, signal ? { signal } : {}).catch(() => signal?.throwIfAborted());
  }
  const heartbeat = setInterval(() => {
    const now = new Date();
    utimes(path, now, now).catch(() => {}); // gone with its directory: nothing to keep alive
  }, HEARTBEAT_MS);
  heartbeat.unref();
  try {
    return await work();
  } finally {
    clearInterval(heartbeat);
    // Taken over while this process was suspended: then it is not ours to remove.
    if ((await readFile(path, 'utf8').catch(() => '')) === owner) await unlink(path).catch(() => {});
  }
}

async function tryLock(path: string, owner: string): Promise<boolean> {
  try {
    const file = await open(path, 'wx');
    await file.writeFile(owner);
    await file.close();
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

async function takeAwayIfStale(path: string): Promise<void> {
  if (!(await isStale(path))) return;
  // Two waiters may both see a stale lock, and one of them be slow: whoever moves a lock away looks at it again, and
  // puts a living one back.
  const aside = `${path}.${randomUUID()}`;
  try {
    await rename(path, aside);
  } catch {
    return; // another waiter was faster
  }
  if (!(await isStale(aside))) await link(aside, path).catch(() => {});
  await unlink(aside).catch(() => {});
}

async function isStale(path: string): Promise<boolean> {
  try {
    const [{ mtimeMs }, owner] = await Promise.all([stat(path), readFile(path, 'utf8')]);
    const [host, pid] = owner.split(' ');
    return Date.now() - mtimeMs > STALE_MS || (host === hostname() && !isRunning(Number(pid)));
  } catch {
    return false; // released meanwhile
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH'; // another user's process may not be asked
  }
}
