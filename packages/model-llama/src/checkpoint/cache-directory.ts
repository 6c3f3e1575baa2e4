import { homedir } from 'node:os';
import { join } from 'node:path';

/**
 * Where downloads are kept: MAGICPIG_CACHE, or the platform's cache directory (XDG_CACHE_HOME/magicpig or
 * ~/.cache/magicpig, ~/Library/Caches/magicpig, %LOCALAPPDATA%\magicpig\Cache).
 */
export function defaultCacheDirectory(
  environment: NodeJS.ProcessEnv = process.env,
  platform: NodeJS.Platform = process.platform,
): string {
  if (environment.MAGICPIG_CACHE) return environment.MAGICPIG_CACHE;
  if (environment.XDG_CACHE_HOME) return join(environment.XDG_CACHE_HOME, 'magicpig');
  if (platform === 'darwin') return join(homedir(), 'Library', 'Caches', 'magicpig');
  if (platform === 'win32' && environment.LOCALAPPDATA) return join(environment.LOCALAPPDATA, 'magicpig', 'Cache');
  return join(homedir(), '.cache', 'magicpig');
}
