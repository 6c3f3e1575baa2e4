export { collisionProbability } from './collision-probability.js';
export type { Vectors } from './engine.js';
export * from './errors.js';
export type { SimHashStats } from './head-stats.js';
export { type InclusionOptions, inclusionProbability } from './inclusion-probability.js';
export {
  type KeySample,
  KeySketch,
  type KeySketchOptions,
  type KeySketchStats,
  type KeySketchUse,
  type SampleOptions,
} from './key-sketch.js';
export type { SketchBudget } from './key-sketch-budget.js';
export { type LogInclusionTableOptions, logInclusionTable } from './log-inclusion-table.js';
export {
  type QueryBatchResult,
  type QueryOptions,
  type QueryResult,
  SimHashIndex,
  type SimHashIndexOptions,
} from './simhash-index.js';
export { SimHashProjection, type SimHashProjectionOptions } from './simhash-projection.js';
export { type SimHashSegment, SimHashTables, type SimHashTablesOptions } from './simhash-tables.js';
export { type OpenOptions, StoredTables } from './stored-tables.js';
export type { AsyncOptions } from './tables-access.js';
export { type TuneOptions, type Tuning, tune } from './tune.js';
