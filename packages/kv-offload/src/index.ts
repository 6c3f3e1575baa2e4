export * from './errors.js';
export { KvSequence } from './kv-sequence.js';
export { KvStep } from './kv-step.js';
export { KvStore, type KvStoreOptions, type StepEntry } from './kv-store.js';
export type { AttendOptions, KvDtype, KvStats, Rows, Sampling } from './types.js';
