import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import type { Engine, EngineProjection, EngineTables, EngineTablesOptions } from './engine.js';

/** Name of the addon's file, of the prebuilt folders and of the CMake target. */
const ADDON = 'magicpig_lsh';

/** What native/binding.cc exports. */
type Addon = Engine & {
  Projection: new (...options: Parameters<Engine['createProjection']>) => EngineProjection;
  Tables: new (options: EngineTablesOptions) => EngineTables;
};

/** Loads the addon, built here or prebuilt for this platform; throws when there is none. */
export function loadNativeEngine(): Engine {
  const root = fileURLToPath(new URL('..', import.meta.url));
  const addon: Addon = createRequire(import.meta.url)('pkg-prebuilds')(root, { name: ADDON, napi_versions: [8] });
  return {
    isa: addon.isa,
    createProjection: (...options) => new addon.Projection(...options),
    createTables: (options) => new addon.Tables(options),
    openTables: addon.openTables,
    headBytes: addon.headBytes,
  };
}
