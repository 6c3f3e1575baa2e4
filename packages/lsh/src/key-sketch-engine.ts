import type { EnginePool } from './engine.js';

/** How many keys a draw reads (native/sketch_plan.h): kind 0 a count, 1 a share, 2 a relative standard error. */
export interface EngineSketchBudget {
  kind: 0 | 1 | 2;
  value: number;
  /** Least and most share of the keys, for an error. */
  least: number;
  most: number;
}

/** What files say of a sketch. */
export interface EngineSketchShape {
  heads: number;
  dim: number;
  bits: number;
  seed: number;
  /** Centre each head on the mean of the keys of its first add. */
  centred: boolean;
}

export interface EngineSketchOptions extends EngineSketchShape {
  scale: number;
  floor: number;
  budget: EngineSketchBudget;
  pool: EnginePool;
  /** Start with the keys of an open file, whose shape must be that of these options. */
  file?: object;
}

/** An open file: `file` goes to {@link EngineSketchOptions}. */
export interface EngineSketchFile extends EngineSketchShape {
  file: object;
}

/** Keys drawn for one query. */
export interface EngineSketchSample {
  /** Ascending. */
  ids: Uint32Array;
  logProbabilities: Float32Array;
  /** Estimated relative standard error of the sum of e^score over all keys. */
  error: number;
}

export interface EngineSketchStats {
  draws: number;
  read: number;
  keys: number;
  error: number;
  largestError: number;
}

/** Key sketches of many heads, inside an engine. Arguments are checked by the caller. */
export interface EngineSketch {
  /** Bytes held. */
  bytes(): number;
  /** Keys of one head. */
  length(head: number): number;
  /** The head's centre [dim], zeros where it has none. */
  centre(head: number): Float32Array;
  /** Appends `keys` [n, dim]. Throws NON_FINITE, OUT_OF_MEMORY; then nothing has changed. */
  add(head: number, keys: Float32Array): void;
  /** Estimated scores of all keys. Throws NON_FINITE, OUT_OF_MEMORY. */
  scores(head: number, query: Float32Array): Float32Array;
  /** Keys drawn for `query` [dim]. Throws NON_FINITE, OUT_OF_MEMORY. */
  draw(head: number, query: Float32Array, step: number, budget: EngineSketchBudget): EngineSketchSample;
  /** Forgets all keys of a head from `length` on; the centre stays. */
  truncate(head: number, length: number): void;
  /** Forgets all keys and centres. */
  clear(): void;
  /** Of the draws of all selectors since the last reset. */
  stats(): EngineSketchStats;
  resetStats(): void;
  /** Writes a file, all or nothing. Throws IO, OUT_OF_MEMORY. */
  save(path: string): void;
  /** The bytes that `save` writes. Throws OUT_OF_MEMORY. */
  toBuffer(): Uint8Array;
  /** Frees everything. Holders of the selector then find it failing. */
  dispose(): void;
  /** Selector handle of include/magicpig/selector.h. Throws UNSUPPORTED. */
  selector(): object;
}

/** One implementation of key sketches: the native addon, or TypeScript. */
export interface SketchEngine {
  Sketch: new (options: EngineSketchOptions | { fork: EngineSketch }) => EngineSketch;
  /** Opens a file by its path, which stays mapped, or checks and copies its bytes. Throws IO, CORRUPT_FILE. */
  openSketch(source: string | Uint8Array): EngineSketchFile;
  /** Bytes of a head with `keys` keys. */
  sketchBytes(dim: number, bits: number, keys: number): number;
}
