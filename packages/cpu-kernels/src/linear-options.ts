import type { Tensor } from './tensor.js';

/** What is fused into a matrix product. */
export interface LinearOptions {
  /** RMSNorm of each row of x before the product: x / sqrt(mean(x^2) + epsilon) * weight [cols]. */
  norm?: { weight: Tensor; epsilon: number };
  /** Added to each row of the result, [rows of W]. */
  bias?: Tensor;
  /** Add the result to `out` instead of overwriting it. */
  accumulate?: boolean;
}
