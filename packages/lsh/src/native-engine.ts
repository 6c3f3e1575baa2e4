import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import type { Engine, EngineProjection, EngineTables } from './engine.js';

/** Name of the addon's file, of the prebuilt folders and of the CMake target. */
const ADDON = 'magicpig_lsh';

/** What native/binding.cc exports. */
interface Addon {
  isa: string;
  Projection: new (hadamard: boolean, dim: number, bits: number, tables: number, seed: number) => EngineProjection;
  Tables: new (
    projection: EngineProjection,
    heads: number,
    minCollisions: number,
    logTable: Float32Array,
    centred: boolean,
    pool: object | number,
  ) => EngineTables;
}

/** Loads the addon, built here or prebuilt for this platform; throws when there is none. */
export function loadNativeEngine(): Engine {
  const root = fileURLToPath(new URL('..', import.meta.url));
  const addon: Addon = createRequire(import.meta.url)('pkg-prebuilds')(root, { name: ADDON, napi_versions: [8] });
  return {
    isa: addon.isa,
    createProjection: (hadamard, dim, bits, tables, seed) => new addon.Projection(hadamard, dim, bits, tables, seed),
    createTables: (options) =>
      new addon.Tables(
        options.projection,
        options.heads,
        options.minCollisions,
        options.logTable,
        options.centred,
        options.pool,
      ),
  };
}
