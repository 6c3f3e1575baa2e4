import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import type { Engine } from './engine.js';

/** Name of the addon's file, of the prebuilt folders and of the CMake target. */
const ADDON = 'magicpig_lsh';

let loaded: Engine | undefined;

/** The engine of this process: the native addon. */
export function engine(): Engine {
  loaded ??= loadNative();
  return loaded;
}

function loadNative(): Engine {
  const root = fileURLToPath(new URL('..', import.meta.url));
  return createRequire(import.meta.url)('pkg-prebuilds')(root, { name: ADDON, napi_versions: [8] });
}
