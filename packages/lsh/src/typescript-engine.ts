import type { Engine, EngineFile } from './engine.js';
import { typescriptSketches } from './key-sketch-typescript.js';
import { openFile } from './typescript-engine-container.js';
import { readHeads, readShape } from './typescript-engine-file.js';
import { HeadIndex } from './typescript-engine-head.js';
import { TypeScriptProjection } from './typescript-engine-projection.js';
import { TypeScriptTables } from './typescript-engine-tables.js';

/** A viewed file is read into memory too, but is not checked unless that is asked for. */
function openTables(source: string | Uint8Array): EngineFile {
  const { file, shape } = readShape(typeof source === 'string' ? openFile(source) : source);
  return {
    shape,
    tables(projection, logTable, pool, mode) {
      const { heads, center } = readHeads(file, shape, mode !== 'view');
      return new TypeScriptTables({ ...shape, projection, logTable, pool, center }, heads);
    },
  };
}

/** Everything in TypeScript: the same codes, ids, probabilities and files as the native addon, on one thread and slower. */
export const typescriptEngine: Engine = {
  isa: 'typescript',
  sketches: typescriptSketches,
  createProjection: (...options) => new TypeScriptProjection(...options),
  createTables: (options) =>
    'fork' in options ? (options.fork as TypeScriptTables).fork() : new TypeScriptTables(options),
  openTables,
  // Growing arrays have an eighth to spare.
  headBytes: (bits, tables, keys, dim, norms, vectors) =>
    Math.ceil(HeadIndex.mostBytes(bits, tables, keys) + (9 / 8) * keys * ((norms ? 4 : 0) + vectors)) + 4 * dim,
};
