import type { ForwardOptions, ForwardTrace, LayerTrace } from './api.js';
import type { LlamaConfig } from './checkpoint.js';
import { InvalidRequestError } from './errors.js';
import type { ForwardTap, LayerRows } from './forward-tap.js';
import type { Rows } from './kv-cache.js';

/** Elements that a trace holds at most: 4 GiB of float32. */
const MOST_ELEMENTS = 2 ** 30;

/** What a trace of a layer may hold, and how wide its rows are. */
const WIDTHS = {
  queries: ({ queryHeads, headDim }: LlamaConfig) => queryHeads * headDim,
  keys: ({ kvHeads, headDim }: LlamaConfig) => kvHeads * headDim,
  values: ({ kvHeads, headDim }: LlamaConfig) => kvHeads * headDim,
  outputs: ({ queryHeads, headDim }: LlamaConfig) => queryHeads * headDim,
} as const;

/** Records what a forward pass over a prompt is to give, step by step. */
export class TraceRecorder implements ForwardTap {
  /** First token whose logits and layers are recorded. */
  readonly from: number;
  readonly trace: ForwardTrace;
  readonly #logits: 'none' | 'last' | 'all';
  readonly #vocabSize: number;
  readonly #layers: Map<number, LayerTrace>;
  readonly #queryHeads: number;
  #position = 0;

  /** @throws InvalidRequestError for an option out of range, or more elements than an array should have. */
  constructor(tokens: Int32Array, options: ForwardOptions, config: LlamaConfig) {
    const { logits = 'last', from = 0, tap } = options;
    if (!['none', 'last', 'all'].includes(logits)) {
      throw new InvalidRequestError(`logits must be none, last or all, not ${JSON.stringify(logits)}`, 'logits');
    }
    if (!Number.isInteger(from) || from < 0 || from >= tokens.length) {
      throw new InvalidRequestError(`from must be a position in 0..${tokens.length - 1}, not ${from}`, 'from');
    }
    const layers = tap ? (tap.layers ?? Array.from({ length: config.layers }, (_, layer) => layer)) : [];
    if (!layers.every((layer) => Number.isInteger(layer) && layer >= 0 && layer < config.layers)) {
      throw new InvalidRequestError(
        `tap.layers must be layer numbers in 0..${config.layers - 1}, not ${JSON.stringify(layers)}`,
        'tap.layers',
      );
    }
    const rows = tokens.length - from;
    const parts = (Object.keys(WIDTHS) as (keyof typeof WIDTHS)[]).filter((part) => tap?.[part]);
    const width = parts.reduce((sum, part) => sum + WIDTHS[part](config), 2 * config.queryHeads);
    const logitRows = { none: 0, last: 1, all: rows }[logits];
    if (layers.length * rows * width + logitRows * config.vocabSize > MOST_ELEMENTS) {
      throw new InvalidRequestError(
        `logits and tapped layers of ${rows} tokens are more than ${MOST_ELEMENTS} elements; ` +
          'ask for fewer layers or parts, or for later tokens (from)',
        'tap',
      );
    }
    this.from = from;
    this.#logits = logits;
    this.#vocabSize = config.vocabSize;
    this.#queryHeads = config.queryHeads;
    this.trace = {
      tokens,
      from,
      logits: new Float32Array(logitRows * config.vocabSize),
      layers: layers.map((layer) => ({
        layer,
        ...Object.fromEntries(parts.map((part) => [part, new Float32Array(rows * WIDTHS[part](config))])),
        logSumExp: new Float32Array(rows * config.queryHeads),
        keysRead: new Float64Array(rows),
      })),
    };
    this.#layers = new Map(this.trace.layers.map((layer) => [layer.layer, layer]));
  }

  /** Logits that a step which ends at `end` must give. */
  logitsOf(end: number): 'none' | 'last' | 'all' {
    const needed = this.#logits === 'last' ? end === this.trace.tokens.length : end > this.from;
    return needed ? this.#logits : 'none';
  }

  wants(layer: number): boolean {
    return this.#layers.has(layer);
  }

  /** The tap for a step whose rows begin at a position. */
  beginAt(position: number): this {
    this.#position = position;
    return this;
  }

  take(layer: number, rows: LayerRows): void {
    const trace = this.#layers.get(layer)!;
    const skip = Math.max(this.from - this.#position, 0);
    if (skip >= rows.count) return;
    const at = this.#position + skip - this.from;
    for (const part of Object.keys(WIDTHS) as (keyof typeof WIDTHS)[]) {
      const out = trace[part];
      if (out) copyRows(out, rows[part], at, skip, rows.count, out.length / trace.keysRead.length);
    }
    trace.logSumExp.set(rows.logSumExp.subarray(skip * this.#queryHeads), at * this.#queryHeads);
    trace.keysRead.set(rows.keysRead.subarray(skip), at);
  }

  /** Logits of the last rows of a step that ended at `end`, one array each. */
  takeLogits(end: number, rows: readonly Float32Array[]): void {
    for (const [i, row] of rows.entries()) {
      const at = this.#logits === 'last' ? 0 : end - rows.length + i - this.from;
      if (at >= 0) this.trace.logits.set(row, at * this.#vocabSize);
    }
  }
}

function copyRows(
  out: Float32Array,
  { data, offset, stride }: Rows,
  at: number,
  from: number,
  to: number,
  width: number,
) {
  for (let row = from; row < to; row += 1) {
    const begin = offset + row * stride;
    out.set(data.subarray(begin, begin + width), (at + row - from) * width);
  }
}
