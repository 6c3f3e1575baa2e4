import { fileURLToPath } from 'node:url';
import type { Engine, EngineFile, EngineProjection, EngineTables, EngineTablesOptions } from './engine.js';
import type { SketchEngine } from './key-sketch-engine.js';
import { loadAddon } from './load-addon.js';

/** Name of the CMake target, and of the prebuilt folders (see `prepack` in package.json). */
const ADDON = 'magicpig_lsh';

/** What native/binding.cc exports. */
type Addon = Engine &
  SketchEngine & {
    Projection: new (...options: Parameters<Engine['createProjection']>) => EngineProjection;
    Tables: new (options: EngineTablesOptions | { fork: EngineTables }) => EngineTables;
    File: new (source: string | Uint8Array, tables: Addon['Tables']) => EngineFile;
  };

/** Loads the addon, built here or prebuilt for this platform; throws when there is none. */
export function loadNativeEngine(): Engine {
  const addon = loadAddon(fileURLToPath(new URL('..', import.meta.url)), ADDON) as Addon;
  return {
    isa: addon.isa,
    sketches: addon,
    createProjection: (...options) => new addon.Projection(...options),
    createTables: (options) => new addon.Tables(options),
    openTables: (source) => new addon.File(source, addon.Tables),
    headBytes: addon.headBytes,
  };
}
