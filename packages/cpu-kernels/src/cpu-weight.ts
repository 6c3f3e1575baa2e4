import { DisposedError } from './errors.js';
import { type NativeWeight, native } from './native.js';
import type { Weight, WeightFormat } from './weight.js';

/** Weight packed by the addon for one code path. */
export class CpuWeight implements Weight {
  readonly rows: number;
  readonly cols: number;
  readonly bytes: number;
  readonly format: WeightFormat;
  readonly gated: boolean;
  #handle: NativeWeight | undefined;

  constructor(
    handle: NativeWeight,
    shape: { rows: number; cols: number; bytes: number; format: WeightFormat; gated: boolean },
  ) {
    this.#handle = handle;
    this.rows = shape.rows;
    this.cols = shape.cols;
    this.bytes = shape.bytes;
    this.format = shape.format;
    this.gated = shape.gated;
  }

  get handle(): NativeWeight {
    if (!this.#handle) throw new DisposedError(`weight [${this.rows}, ${this.cols}]`);
    return this.#handle;
  }

  [Symbol.dispose](): void {
    if (this.#handle) native.disposeWeight(this.#handle);
    this.#handle = undefined;
  }
}
