import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, utimesSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { withFileLock } from '../../src/checkpoint/file-lock.js';
import { temporaryDirectory } from './temporary-directory.js';

let scratch: ReturnType<typeof temporaryDirectory>;
let path: string;
beforeEach(() => {
  scratch = temporaryDirectory();
  path = join(scratch.path, 'x.lock');
});
afterEach(() => scratch[Symbol.dispose]());

it('lets one in at a time, and leaves nothing behind', async () => {
  let inside = 0;
  let most = 0;
  const work = async (value: number) => {
    inside += 1;
    most = Math.max(most, inside);
    await sleep(20);
    inside -= 1;
    return value;
  };
  const results = await Promise.all([1, 2, 3, 4].map((value) => withFileLock(path, undefined, () => work(value))));
  expect(results).toEqual([1, 2, 3, 4]);
  expect(most).toBe(1);
  expect(readdirSync(scratch.path)).toEqual([]);
});

it('is released when the work fails', async () => {
  const failing = withFileLock(path, undefined, async () => {
    throw new Error('broken');
  });
  await expect(failing).rejects.toThrow('broken');
  expect(existsSync(path)).toBe(false);
});

it.each([
  ['on this machine', () => writeFileSync(path, `${hostname()} ${spawnSync(process.execPath, ['-e', '']).pid} x`)],
  [
    'on another machine',
    () => {
      writeFileSync(path, 'elsewhere 1 x');
      const old = new Date(Date.now() - 60_000);
      utimesSync(path, old, old);
    },
  ],
])('is taken over from a process that died %s, by one waiter only', async (_, leave) => {
  leave();
  let inside = 0;
  const work = async () => {
    inside += 1;
    expect(inside).toBe(1);
    await sleep(30);
    inside -= 1;
  };
  await Promise.all([1, 2, 3].map(() => withFileLock(path, undefined, work)));
  expect(readdirSync(scratch.path)).toEqual([]);
});

it('is waited for while its holder lives, unless aborted', async () => {
  writeFileSync(path, `${hostname()} ${process.pid} x`);
  const waiting = withFileLock(path, AbortSignal.timeout(250), async () => 'in');
  await expect(waiting).rejects.toThrow('timeout');
  expect(readFileSync(path, 'utf8')).toBe(`${hostname()} ${process.pid} x`);
});
