import type { WeightSourceType } from '../kernels/weights.js';

/** A float32 buffer of the backend, zeroed when made. */
export interface Tensor extends Disposable {
  /** Number of elements. */
  readonly length: number;
  /** A copy in pinned host memory, made at the first use; current after `toHost`, and taken over by `toDevice`. */
  readonly host: Float32Array;
}

/** An output-major matrix [rows, cols] on the device: y = W x. */
export interface Weight extends Disposable {
  readonly rows: number;
  readonly cols: number;
  /** Bytes of device memory. */
  readonly bytes: number;
}

/** Values of one tensor of a checkpoint, or the recipe for random ones. */
export type WeightSource =
  | {
      type: WeightSourceType;
      /** Row-major [rows, cols] in `type`'s encoding. */
      data: Uint8Array;
      rows: number;
      cols: number;
      /** Row r of the result is row `rowOrder[r]` of `data`; the rows as they are when absent. */
      rowOrder?: Uint32Array;
    }
  | {
      type: 'random';
      rows: number;
      cols: number;
      /** The same seed gives the same values on every backend. */
      seed: number;
      /** Standard deviation of the normal values. */
      std: number;
      /** Added to every value; 0 when absent. */
      mean?: number;
    };

/** What weights are asked to be kept in; block-quantised sources stay in their own bits with `q8` and `q4`. */
export type WeightFormat = 'f32' | 'bf16' | 'q8' | 'q4';

/** Options of a product. */
export interface LinearOptions {
  /** RMSNorm of each row of x before the product: x / sqrt(mean(x^2) + epsilon) * weight [cols]. */
  norm?: { weight: Tensor; epsilon: number } | undefined;
  /** Added to each row of the result, [rows of W]. */
  bias?: Tensor | undefined;
  /** Add the result to `out` instead of overwriting it. Default false. */
  accumulate?: boolean;
}
