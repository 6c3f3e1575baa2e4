/**
 * The operators a Llama needs, as one interface. `@magicpig/cpu-kernels` and `@magicpig/cuda-kernels` satisfy it; a new
 * backend means writing this interface, nothing else. Attention over the KV cache is not here: `@magicpig/kv-offload`
 * owns the cache, reading queries, keys and values through {@link Tensor.host}.
 *
 * All activations are float32 rows, one row a token. Operators are queued in call order; those of the CPU are done when
 * the call returns.
 */

/** A float32 buffer of the backend, 64-byte aligned, zeroed when made. */
export interface Tensor extends Disposable {
  /** Number of elements. */
  readonly length: number;
  /** The elements, in host memory and in place. A backend with its own memory copies here and back in {@link Backend.toHost} and {@link Backend.toDevice}. */
  readonly host: Float32Array;
}

/** An output-major matrix [rows, cols] in the backend's own format: y = W x. */
export interface Weight extends Disposable {
  readonly rows: number;
  readonly cols: number;
  /** Bytes the backend holds for it. */
  readonly bytes: number;
}

/** Element formats a checkpoint may hold. The `q*` are GGUF's blocks. */
export type SourceType = 'f32' | 'f16' | 'bf16' | 'q8_0' | 'q4_0' | 'q4_1' | 'q5_0' | 'q5_1' | 'q4_k' | 'q5_k' | 'q6_k';

/** Values of one tensor of a checkpoint, or the recipe for random ones. */
export type WeightSource =
  | {
      type: SourceType;
      /** Row-major [rows, cols] in `type`'s encoding. May be a view of a memory-mapped file of any alignment. */
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

/**
 * `f32`: everything float32, the reference. `bf16`: bfloat16 weights and inputs, float32 sums. `q8`, `q4`: blocks of 32
 * weights in 8 or 4 bits, with inputs of more bits than the weights; block-quantised sources stay in their own bits with either.
 */
export type WeightFormat = (typeof WEIGHT_FORMATS)[number];

export const WEIGHT_FORMATS = ['f32', 'bf16', 'q8', 'q4'] as const;

export interface LinearOptions {
  /** RMSNorm of each row of x before the product: x / sqrt(mean(x^2) + epsilon) * weight [cols]. */
  norm?: { weight: Tensor; epsilon: number };
  /** Added to each row of the result, [rows of W]. */
  bias?: Tensor;
  /** Add the result to `out` instead of overwriting it. */
  accumulate?: boolean;
}

export interface Backend extends Disposable {
  /** `cpu`, `cuda`. */
  readonly name: string;
  /** One line for people: instruction set or device, threads. */
  readonly description: string;
  /** Threads that run host-side work. */
  readonly threads: number;
  /** Thread pool shared with `@magicpig/kv-offload` and `@magicpig/lsh` (a native handle). */
  readonly pool: object;

  /** Operators run beside the host: sequences whose keys the host samples are computed in two groups that take turns. */
  readonly overlaps?: boolean;

  /** Why nothing can be computed any more (a device was lost), when that is so. */
  readonly failure?: string | undefined;

  /** A zeroed buffer of `length` float32. */
  tensor(length: number): Tensor;
  /** A one-dimensional tensor of a checkpoint (norm weights, biases) as float32. */
  vector(source: WeightSource): Tensor;
  /**
   * Brings weights into the backend's format, the rows of all `parts` stacked (q|k|v in one matrix).
   * With `gated`, `parts` are [gate, up] of equal shape, the result is fit for {@link linearGated}, and `rows` counts both.
   */
  weight(parts: WeightSource[], options: { format: WeightFormat; gated?: boolean }): Weight;

  /** out[i] = row tokens[i] of `table` [vocab, hidden]. */
  embed(out: Tensor, table: Weight, tokens: Int32Array): void;
  /** out [rows, W.rows] (+)= norm(x) [rows, W.cols] W^T + bias. Each row's sum keeps one order, whatever `rows` is. */
  linear(out: Tensor, x: Tensor, weight: Weight, rows: number, options?: LinearOptions): void;
  /** SwiGLU: out [rows, F] = silu(norm(x) G^T) * (norm(x) U^T), `weight` made with `gated` [2 F, cols]. */
  linearGated(out: Tensor, x: Tensor, weight: Weight, rows: number, options?: Pick<LinearOptions, 'norm'>): void;
  /** table [rows, headDim]: cos(position * f_j) * scale for j < headDim/2, then the sines. f in radians a token [headDim/2]. */
  ropeTable(table: Tensor, positions: Int32Array, inverseFrequencies: Float32Array, scale: number): void;
  /**
   * Rotates the first `heads` heads of each row of x [rows, stride], in place, pairing element j with j + headDim/2
   * (Hugging Face's convention).
   */
  rope(x: Tensor, table: Tensor, shape: { rows: number; stride: number; heads: number; headDim: number }): void;
  /** out[i] = row indices[i] of x [*, width]. */
  copyRows(out: Tensor, x: Tensor, indices: Int32Array, width: number): void;
  /** Makes `tensor.host`'s first `length` elements current, waiting for queued operators. Nothing to do on the CPU. */
  toHost(tensor: Tensor, length: number): void;
  /** Makes the device's copy of the first `length` elements current after the host wrote them. Nothing to do on the CPU. */
  toDevice(tensor: Tensor, length: number): void;
}
