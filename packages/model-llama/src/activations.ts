import type { Backend, Tensor } from './backend.js';
import type { LlamaConfig } from './checkpoint.js';

/** Activations of a step of R rows, R <= `rows`. Hq query heads and Hkv KV heads of d elements, MLP width F. */
export class Activations implements Disposable {
  readonly rows: number;
  readonly x: Tensor; // [R, hidden] residual stream
  readonly qkv: Tensor; // [R, (Hq + 2 Hkv) d]
  readonly attended: Tensor; // [R, Hq d]
  readonly gated: Tensor; // [R, F]
  readonly rotations: Tensor; // [R, d] cosines, sines
  readonly #config: LlamaConfig;
  readonly #backend: Backend;
  #last: Tensor; // [rows with logits, hidden]
  #logits: Tensor; // [rows with logits, vocab]

  constructor(config: LlamaConfig, backend: Backend, rows: number) {
    const { hiddenSize, intermediateSize, queryHeads, kvHeads, headDim } = config;
    this.#config = config;
    this.#backend = backend;
    this.rows = rows;
    this.x = backend.tensor(rows * hiddenSize);
    this.qkv = backend.tensor(rows * (queryHeads + 2 * kvHeads) * headDim);
    this.attended = backend.tensor(rows * queryHeads * headDim);
    this.gated = backend.tensor(rows * intermediateSize);
    this.rotations = backend.tensor(rows * headDim);
    this.#last = backend.tensor(hiddenSize);
    this.#logits = backend.tensor(config.vocabSize);
  }

  /** Room for the hidden states and the logits of so many rows. */
  output(rows: number): { last: Tensor; logits: Tensor } {
    const { hiddenSize, vocabSize } = this.#config;
    if (this.#logits.length < rows * vocabSize) {
      this.#last[Symbol.dispose]();
      this.#logits[Symbol.dispose]();
      this.#last = this.#backend.tensor(rows * hiddenSize);
      this.#logits = this.#backend.tensor(rows * vocabSize);
    }
    return { last: this.#last, logits: this.#logits };
  }

  [Symbol.dispose](): void {
    const { x, qkv, attended, gated, rotations } = this;
    for (const tensor of [x, qkv, attended, gated, rotations, this.#last, this.#logits]) tensor[Symbol.dispose]();
  }
}
