import type { Backend } from './backend.js';
import type { LlamaConfig } from './checkpoint.js';
import type { AttendOptions, Rows } from './kv-cache.js';
import type { AttentionTensors } from './layer-attention.js';

/** Looks into the layers of a forward pass; see {@link ForwardEntry}. */
export interface ForwardTap {
  /** Whether {@link take} is to be called for a layer. */
  wants(layer: number): boolean;
  /** One layer's rows of a step. The arrays are the model's own and are written over afterwards: copy what is to stay. */
  take(layer: number, rows: LayerRows): void;
}

/** A layer's attention over the R rows of one entry, with Hq query heads and Hkv KV heads of d elements. */
export interface LayerRows {
  /** R */
  count: number;
  /** After RoPE, [R, Hq d]. */
  queries: Rows;
  /** After RoPE, [R, Hkv d]. */
  keys: Rows;
  /** [R, Hkv d] */
  values: Rows;
  /** What attention gives, before the output projection, [R, Hq d]. */
  outputs: Rows;
  /** Logarithm of the sum of exp(scores), [R, Hq]; an estimate where keys were sampled. */
  logSumExp: Float32Array;
  /** Keys read, summed over query heads, [R]. */
  keysRead: Float64Array;
}

/** The taps of a step's entries. */
export class StepTaps {
  readonly #config: LlamaConfig;
  readonly #backend: Backend;
  readonly #rows: number;
  readonly #taps: { tap: ForwardTap; row: number; count: number }[] = [];
  #layer: { logSumExp: Float32Array; keysRead: Float64Array } | undefined;

  constructor(
    entries: readonly { tokens: Int32Array; tap?: ForwardTap | undefined }[],
    config: LlamaConfig,
    backend: Backend,
  ) {
    this.#config = config;
    this.#backend = backend;
    let row = 0;
    for (const { tap, tokens } of entries) {
      if (tap) this.#taps.push({ tap, row, count: tokens.length });
      row += tokens.length;
    }
    this.#rows = row;
  }

  /** Whether anybody looks at a layer. */
  want(layer: number): boolean {
    return this.#taps.some(({ tap }) => tap.wants(layer));
  }

  /** Options of a layer's attention, with those that the taps need. */
  options(layer: number, options: AttendOptions): AttendOptions {
    this.#layer = undefined;
    if (!this.want(layer)) return options;
    const logSumExp = new Float32Array(this.#rows * this.#config.queryHeads);
    const keysRead = new Float64Array(this.#rows);
    this.#layer = { logSumExp, keysRead };
    return { ...options, logSumExp, keysRead };
  }

  /** Shows a layer to the taps, after its attention. `keysRead` is added to that of the step, where it is counted. */
  show(layer: number, { qkv, output }: AttentionTensors, step: AttendOptions): void {
    if (!this.#layer) return;
    const { logSumExp, keysRead } = this.#layer;
    if (step.keysRead) for (const [row, keys] of keysRead.entries()) step.keysRead[row]! += keys;
    const { queryHeads, kvHeads, headDim } = this.#config;
    const stride = (queryHeads + 2 * kvHeads) * headDim;
    this.#backend.toHost(qkv, this.#rows * stride);
    this.#backend.toHost(output, this.#rows * queryHeads * headDim);
    for (const { tap, row, count } of this.#taps) {
      if (!tap.wants(layer)) continue;
      const part = (head: number) => ({ data: qkv.host, offset: row * stride + head * headDim, stride });
      const width = queryHeads * headDim;
      tap.take(layer, {
        count,
        queries: part(0),
        keys: part(queryHeads),
        values: part(queryHeads + kvHeads),
        outputs: { data: output.host, offset: row * width, stride: width },
        logSumExp: logSumExp.subarray(row * queryHeads, (row + count) * queryHeads),
        keysRead: keysRead.subarray(row, row + count),
      });
    }
  }
}
