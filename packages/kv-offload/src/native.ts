import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { KvStats, Sampling } from './types.js';

/** The addon's functions. Arguments are checked by the callers; handles are opaque and type-tagged. */
export interface Native {
  readonly isa: string;
  createStore(options: {
    layers: number;
    kvHeads: number;
    queryHeads: number;
    headDim: number;
    dtype: string;
    pageTokens: number;
    maxBytes: number;
    threads: number;
    pool: object | undefined;
  }): object;
  storeStats(store: object): Omit<KvStats, 'isa'>;
  storeBytes(store: object): number;
  readBandwidth(store: object, bytes: number, rounds: number): number;
  disposeStore(store: object): void;
  openSequence(store: object): object;
  sequenceLength(sequence: object): number;
  forkSequence(sequence: object): object;
  truncateSequence(sequence: object, length: number): void;
  disposeSequence(sequence: object): void;
  readRows(
    sequence: object,
    kind: 0 | 1,
    layer: number,
    kvHead: number,
    begin: number,
    end: number,
    out: Float32Array | Uint16Array,
  ): void;
  save(sequence: object, path: string, names: string[], attachments: Uint8Array[]): void;
  load(store: object, path: string): { sequence: object; attachments: [string, Uint8Array][] };
  createStep(store: object, sequences: object[], tokens: number[]): object;
  append(
    step: object,
    layer: number,
    keys: Float32Array,
    keysOffset: number,
    keysStride: number,
    values: Float32Array,
    valuesOffset: number,
    valuesStride: number,
  ): void;
  attend(
    step: object,
    layer: number,
    queries: Float32Array,
    queriesOffset: number,
    queriesStride: number,
    output: Float32Array,
    outputOffset: number,
    outputStride: number,
    sampling: readonly (Sampling | null)[] | undefined,
    logSumExp: Float32Array | undefined,
    keysRead: Float64Array | undefined,
    standardError: Float32Array | undefined,
    sampledMs: Float64Array | undefined,
  ): void;
  rollbackStep(step: object): void;
  createGivenSelector(store: object): object;
  createWindowSelector(store: object, sink: number, window: number): object;
  createSequenceSelector(
    sequence: object,
    kind: 'topk' | 'oracle' | 'quest' | 'ivf' | 'h2o',
    begin: number,
    keys: number,
    seed: number,
    cells: number,
  ): object;
  disposeSelector(selector: object): void;
  setSelection(selector: object, index: number, ids: Uint32Array, logProbability: Float32Array | undefined): void;
  clearSelections(selector: object): void;
  indexSelector(selector: object, end: number): boolean;
  observeSelector(
    selector: object,
    layer: number,
    queries: Float32Array,
    queriesOffset: number,
    queriesStride: number,
    rows: number,
    first: number,
  ): boolean;
}

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

function load(): Native {
  const require = createRequire(import.meta.url);
  try {
    return require('pkg-prebuilds')(root, { name: 'magicpig_kv_offload', napi_versions: [8] });
  } catch (cause) {
    throw new Error(
      `@magicpig/kv-offload: no native addon for ${process.platform}-${process.arch} in ${root}. ` +
        'Build it with `npx cmake-js compile` in that folder (needs CMake and a C++20 compiler).',
      { cause },
    );
  }
}

export const native: Native = load();
