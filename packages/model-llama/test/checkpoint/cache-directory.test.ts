import { homedir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { defaultCacheDirectory } from '../../src/checkpoint/cache-directory.js';

it.each<[NodeJS.ProcessEnv, NodeJS.Platform, string]>([
  [{ MAGICPIG_CACHE: '/a', XDG_CACHE_HOME: '/b' }, 'linux', '/a'],
  [{ XDG_CACHE_HOME: '/b' }, 'linux', join('/b', 'magicpig')],
  [{}, 'linux', join(homedir(), '.cache', 'magicpig')],
  [{}, 'darwin', join(homedir(), 'Library', 'Caches', 'magicpig')],
  [{ LOCALAPPDATA: 'C:\\L' }, 'win32', join('C:\\L', 'magicpig', 'Cache')],
])('is the platform’s place unless the environment names one: %j on %s', (environment, platform, expected) => {
  expect(defaultCacheDirectory(environment, platform)).toBe(expected);
});
