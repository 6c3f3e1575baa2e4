import type { EnginePool, EngineTables } from './engine.js';
import { InvalidArgumentError } from './errors.js';
import { engine } from './load-engine.js';
import { logInclusionTable } from './log-inclusion-table.js';
import { SimHashProjection } from './simhash-projection.js';
import { translateErrors } from './translate-errors.js';
import { checkPath, show } from './validate.js';

/** Tables from a file, and what the file says about them. */
export interface OpenedTables {
  tables: EngineTables;
  projection: SimHashProjection;
  heads: number;
  minCollisions: number;
  minProbability: number;
  norms: boolean;
  keepsVectors: boolean;
  readOnly: boolean;
}

/** Opens a file of docs/format.md: by its path, or its bytes. `projection` is used when it is the file's; otherwise an error. */
export function openTables(
  source: unknown,
  mode: 'load' | 'view' | 'view-verified',
  pool: EnginePool,
  projection?: SimHashProjection,
): OpenedTables {
  const from = source instanceof Uint8Array ? source : checkPath(source);
  const file = translateErrors(() => engine().openTables(from));
  const { shape } = file;
  const kind = shape.hadamard ? 'hadamard' : 'gaussian';
  const used = projection ?? new SimHashProjection({ ...shape, kind });
  for (const [name, value] of Object.entries({ ...pick(shape), kind })) {
    if (used[name as keyof SimHashProjection] !== value) {
      throw new InvalidArgumentError(
        `${name} is ${show(value)} in the file but ${show(used[name as keyof SimHashProjection])} in the projection; leave the projection out or give the one that the file was made with.`,
      );
    }
  }
  const tables = translateErrors(() => file.tables(used.native, logInclusionTable(shape), pool, mode));
  const { heads, minCollisions, minProbability, norms } = shape;
  const readOnly = mode !== 'load';
  return {
    tables,
    projection: used,
    heads,
    minCollisions,
    minProbability,
    norms,
    keepsVectors: shape.keep !== 'none',
    readOnly,
  };
}

function pick({ dim, bits, tables, seed }: Record<'dim' | 'bits' | 'tables' | 'seed', number>) {
  return { dim, bits, tables, seed };
}
