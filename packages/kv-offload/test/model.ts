import type { AttendOptions, KvSequence, KvStore } from '../src/index.js';
import { Random } from './random.js';
import { type ReferenceHead, referenceAttention } from './reference.js';

/** What a sequence should hold: for each token, the rows of all layers as they were appended. */
export interface Token {
  /** [layer]: [kvHeads * headDim] */
  keys: Float32Array[];
  values: Float32Array[];
}

export interface StepRows {
  /** [layer]: [rows, kvHeads * headDim] */
  keys: Float32Array[];
  values: Float32Array[];
  /** [layer]: [rows, queryHeads * headDim] */
  queries: Float32Array[];
}

export function randomRows(store: KvStore, rows: number, random: Random, scale = 1): StepRows {
  const { layers, kvHeads, queryHeads, headDim } = store;
  const make = (width: number, factor: number) =>
    Array.from({ length: layers }, () => random.normals(rows * width, factor));
  return {
    keys: make(kvHeads * headDim, scale),
    values: make(kvHeads * headDim, 1),
    queries: make(queryHeads * headDim, 1),
  };
}

/**
 * Tokens from `first` on, of one head of 64 dimensions: that at position 40 scores `score`, all others half of it. Integers and
 * powers of two, so that scores are exact in every arithmetic.
 */
export function extremeRows(store: KvStore, count: number, first: number, score: number): StepRows {
  const rows = randomRows(store, count, new Random(9));
  rows.queries[0]!.fill(0);
  rows.keys[0]!.fill(0);
  for (let i = 0; i < count; i++) {
    rows.queries[0]![i * 64] = 128; // / sqrt(64) = 16
    rows.keys[0]![i * 64] = (score / 16) * (first + i === 40 ? 1 : 0.5);
    rows.values[0]!.fill(first + i === 40 ? 2 : 1, i * 64, i * 64 + 64);
  }
  return rows;
}

export function rowsOf(data: Float32Array, stride: number): { data: Float32Array; offset: number; stride: number } {
  return { data, offset: 0, stride };
}

/** The tokens that `rows` are, one by one. */
export function tokensOf(store: KvStore, rows: StepRows, count: number): Token[] {
  const width = store.kvHeads * store.headDim;
  return Array.from({ length: count }, (_, i) => ({
    keys: rows.keys.map((layer) => layer.slice(i * width, (i + 1) * width)),
    values: rows.values.map((layer) => layer.slice(i * width, (i + 1) * width)),
  }));
}

/** One step in all layers. Returns outputs [layer]: [rows, queryHeads * headDim]. */
export function runStep(
  store: KvStore,
  entries: { sequence: KvSequence; tokens: number }[],
  rows: StepRows,
  options?: (layer: number) => AttendOptions,
): Float32Array[] {
  const { kvHeads, queryHeads, headDim } = store;
  const step = store.step(entries);
  return rows.keys.map((keys, layer) => {
    const output = new Float32Array(step.rows * queryHeads * headDim).fill(Number.NaN);
    step.append(layer, rowsOf(keys, kvHeads * headDim), rowsOf(rows.values[layer]!, kvHeads * headDim));
    step.attend(
      layer,
      rowsOf(rows.queries[layer]!, queryHeads * headDim),
      rowsOf(output, queryHeads * headDim),
      options?.(layer),
    );
    return output;
  });
}

/** The problem of one query head over chosen tokens, for the reference. */
export function headProblem(
  store: KvStore,
  tokens: Token[],
  layer: number,
  queryHead: number,
  query: Float32Array,
  ids: number[] = tokens.map((_, i) => i),
): ReferenceHead {
  const { headDim } = store;
  const kvHead = Math.floor(queryHead / (store.queryHeads / store.kvHeads));
  const slice = (row: Float32Array) => row.subarray(kvHead * headDim, (kvHead + 1) * headDim);
  return {
    query,
    keys: ids.map((id) => slice(tokens[id]!.keys[layer]!)),
    values: ids.map((id) => slice(tokens[id]!.values[layer]!)),
  };
}

/** Exact attention of one row (all query heads) at the position of the last token, by the reference. */
export function referenceRow(
  store: KvStore,
  tokens: Token[],
  layer: number,
  queries: Float32Array,
): { output: Float64Array; logSumExp: Float64Array } {
  const { queryHeads, headDim } = store;
  const output = new Float64Array(queryHeads * headDim);
  const logSumExp = new Float64Array(queryHeads);
  for (let head = 0; head < queryHeads; head++) {
    const query = queries.subarray(head * headDim, (head + 1) * headDim);
    const result = referenceAttention(headProblem(store, tokens, layer, head, query));
    output.set(result.output, head * headDim);
    logSumExp[head] = result.logSumExp;
  }
  return { output, logSumExp };
}
