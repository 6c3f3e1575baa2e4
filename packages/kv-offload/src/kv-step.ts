import { InvalidArgumentError } from './errors.js';
import type { KvStore } from './kv-store.js';
import { native } from './native.js';
import { translateErrors } from './translate-errors.js';
import type { AttendOptions, Rows, Sampling } from './types.js';
import { checkInteger, checkRows } from './validate.js';

/**
 * Tokens being appended to some sequences, with pages reserved for them. Made by {@link KvStore.step}. Rows are those of
 * all entries in order. A step ends when one of its sequences is stepped again, truncated, forked or disposed of: its
 * methods then throw StaleStepError.
 */
export class KvStep {
  /** Rows: the sum of the entries' tokens. */
  readonly rows: number;
  readonly #store: KvStore;
  readonly #handle: object;
  readonly #tokens: readonly number[];

  /** @internal */
  constructor(store: KvStore, handle: object, tokens: readonly number[]) {
    this.#store = store;
    this.#handle = handle;
    this.#tokens = tokens;
    this.rows = tokens.reduce((sum, count) => sum + count, 0);
  }

  /**
   * Writes the step's keys (after RoPE) and values of one layer.
   * @param keys [rows, kvHeads * headDim] float32
   * @param values [rows, kvHeads * headDim] float32
   * @throws InvalidArgumentError, StaleStepError, DisposedError
   */
  append(layer: number, keys: Rows, values: Rows): void {
    const { layers, kvHeads, headDim } = this.#store;
    checkInteger('layer', layer, 0, layers - 1);
    checkRows('keys', keys, this.rows, kvHeads * headDim);
    checkRows('values', values, this.rows, kvHeads * headDim);
    translateErrors(() =>
      native.append(
        this.#handle,
        layer,
        keys.data,
        keys.offset,
        keys.stride,
        values.data,
        values.offset,
        values.stride,
      ),
    );
  }

  /**
   * Attention of the step's queries, scaled by 1/sqrt(headDim). The query at absolute position p attends to tokens 0..p
   * of its sequence: exactly, or with `sampling` (paper, Algorithm 1) to tokens [begin, end) as the selector draws them
   * and to all others exactly, in one softmax; or, with `sampledOnly`, to those that it draws alone.
   * @param queries [rows, queryHeads * headDim] float32, after RoPE
   * @param output [rows, queryHeads * headDim] float32; zeros where a query attends to nothing
   * @throws InvalidArgumentError for wrong shapes, or when this layer was not appended, unless all entries read tokens before the step
   * alone (`sampledOnly`)
   * @throws SelectorError for a foreign or unfit handle, or a selector that fails; `output` is then not valid
   * @throws StaleStepError, DisposedError
   */
  attend(layer: number, queries: Rows, output: Rows, options: AttendOptions = {}): void {
    const { layers, queryHeads, headDim } = this.#store;
    const { sampling, logSumExp, keysRead, standardError, sampledMs } = options;
    checkInteger('layer', layer, 0, layers - 1);
    checkRows('queries', queries, this.rows, queryHeads * headDim);
    checkRows('output', output, this.rows, queryHeads * headDim);
    if (sampling !== undefined) this.#checkSampling(sampling);
    for (const [name, array] of Object.entries({ logSumExp, standardError })) {
      if (array !== undefined && !(array instanceof Float32Array && array.length >= this.rows * queryHeads)) {
        throw new InvalidArgumentError(
          `${name} must be a Float32Array of at least ${this.rows * queryHeads} elements.`,
        );
      }
    }
    for (const [name, array, length] of [
      ['keysRead', keysRead, this.rows],
      ['sampledMs', sampledMs, 2],
    ] as const) {
      if (array !== undefined && !(array instanceof Float64Array && array.length >= length)) {
        throw new InvalidArgumentError(`${name} must be a Float64Array of at least ${length} elements.`);
      }
    }
    translateErrors(() =>
      native.attend(
        this.#handle,
        layer,
        queries.data,
        queries.offset,
        queries.stride,
        output.data,
        output.offset,
        output.stride,
        sampling,
        logSumExp,
        keysRead,
        standardError,
        sampledMs,
      ),
    );
  }

  /**
   * Truncates the sequences back to their lengths before the step, as if it had not been made.
   * @throws StaleStepError, DisposedError
   */
  rollback(): void {
    translateErrors(() => native.rollbackStep(this.#handle));
  }

  #checkSampling(sampling: readonly (Sampling | null)[]): void {
    if (sampling.length !== this.#tokens.length) {
      throw new InvalidArgumentError(
        `sampling has ${sampling.length} elements; pass one for each of the step's ${this.#tokens.length} entries (null for exact).`,
      );
    }
    for (const [i, entry] of sampling.entries()) {
      if (entry === null) continue;
      checkInteger(`sampling[${i}].begin`, entry.begin, 0, 2 ** 31 - 1);
      checkInteger(`sampling[${i}].end`, entry.end, entry.begin, 2 ** 31 - 1);
      if (!['undefined', 'boolean'].includes(typeof entry.sampledOnly)) {
        throw new InvalidArgumentError(`sampling[${i}].sampledOnly is ${entry.sampledOnly}; pass true or false.`);
      }
    }
  }
}
