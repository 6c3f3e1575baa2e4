import type { LlamaConfig } from '../src/checkpoint.js';
import type { KvCache, KvSequence, KvStep, Rows } from '../src/kv-cache.js';

interface ReferenceSequence extends KvSequence {
  length: number;
  /** By layer, then token: [kvHeads * headDim] each. */
  keys: Float32Array[][];
  values: Float32Array[][];
}

/** Exact attention over plain arrays, float64 sums: the independent reference for the KV cache. */
export class ReferenceCache implements KvCache {
  readonly pageTokens = 8;
  readonly #config: LlamaConfig;
  readonly #open = new Set<ReferenceSequence>();

  constructor(config: LlamaConfig) {
    this.#config = config;
  }

  bytesFor(tokens: number): number {
    return tokens;
  }

  /** A token takes a byte; rows that sequences share are counted once. */
  get bytes(): number {
    return new Set([...this.#open].flatMap(({ keys }) => keys[0]!)).size;
  }

  open(): ReferenceSequence {
    const perLayer = () => Array.from({ length: this.#config.layers }, () => [] as Float32Array[]);
    return this.#sequence(0, perLayer(), perLayer());
  }

  #sequence(length: number, keys: Float32Array[][], values: Float32Array[][]): ReferenceSequence {
    const all = this.#open;
    const fork = (self: ReferenceSequence) =>
      this.#sequence(
        self.length,
        self.keys.map((rows) => [...rows]),
        self.values.map((rows) => [...rows]),
      );
    const sequence: ReferenceSequence = {
      length,
      keys,
      values,
      fork: () => fork(sequence),
      truncate(to) {
        sequence.length = to;
        for (const rows of [...keys, ...values]) rows.length = Math.min(rows.length, to);
      },
      [Symbol.dispose]() {
        if (!all.delete(sequence)) throw new Error('disposed of twice');
      },
    };
    all.add(sequence);
    return sequence;
  }

  step(entries: readonly { sequence: KvSequence; tokens: number }[]): KvStep {
    const { queryHeads, kvHeads, headDim } = this.#config;
    // One item a row: its sequence and position.
    const rows = entries.flatMap((entry) => {
      const sequence = entry.sequence as ReferenceSequence;
      const begin = sequence.length;
      sequence.length += entry.tokens;
      return Array.from({ length: entry.tokens }, (_, i) => ({ sequence, position: begin + i }));
    });
    const slice = (from: Rows, row: number, width: number) =>
      from.data.slice(from.offset + row * from.stride, from.offset + row * from.stride + width);
    return {
      append(layer, keys, values) {
        for (const [row, { sequence, position }] of rows.entries()) {
          sequence.keys[layer]![position] = slice(keys, row, kvHeads * headDim);
          sequence.values[layer]![position] = slice(values, row, kvHeads * headDim);
        }
      },
      attend(layer, queries, output) {
        for (const [row, { sequence, position }] of rows.entries()) {
          const query = slice(queries, row, queryHeads * headDim);
          for (let head = 0; head < queryHeads; head += 1) {
            const from = Math.floor(head / (queryHeads / kvHeads)) * headDim;
            const scores = new Float64Array(position + 1);
            for (let token = 0; token <= position; token += 1) {
              const key = sequence.keys[layer]![token]!;
              for (let i = 0; i < headDim; i += 1) scores[token]! += query[head * headDim + i]! * key[from + i]!;
              scores[token]! /= Math.sqrt(headDim);
            }
            const largest = scores.reduce((a, b) => Math.max(a, b));
            const weights = scores.map((score) => Math.exp(score - largest));
            const total = weights.reduce((a, b) => a + b);
            for (let i = 0; i < headDim; i += 1) {
              let sum = 0;
              for (let token = 0; token <= position; token += 1) {
                sum += weights[token]! * sequence.values[layer]![token]![from + i]!;
              }
              output.data[output.offset + row * output.stride + head * headDim + i] = sum / total;
            }
          }
        }
      },
      rollback() {
        for (const { sequence, position } of rows.slice().reverse()) sequence.truncate(position);
      },
    };
  }

  readKeys(sequence: KvSequence, layer: number, kvHead: number, begin: number, end: number): Float32Array {
    const { headDim } = this.#config;
    const keys = (sequence as ReferenceSequence).keys[layer]!.slice(begin, end);
    return Float32Array.from(keys.flatMap((key) => [...key.subarray(kvHead * headDim, (kvHead + 1) * headDim)]));
  }

  [Symbol.dispose](): void {}
}
