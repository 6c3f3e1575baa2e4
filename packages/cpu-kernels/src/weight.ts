/** An output-major matrix [rows, cols] packed for the instruction set in use: y = W x. */
export interface Weight extends Disposable {
  /** Outputs; with `gated`, those of gate and up together. */
  readonly rows: number;
  /** Inputs. */
  readonly cols: number;
  /** Bytes it holds in memory, padding included. */
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
      /** Integer from 0 to 2^53 - 1. The same seed gives the same values on every instruction set and any number of threads. */
      seed: number;
      /** Standard deviation of the normal values. */
      std: number;
      /** Added to every value; 0 when absent. */
      mean?: number;
    };

/**
 * How weights are held, and what products see:
 * - `f32`: everything float32, the reference.
 * - `bf16`: weights and inputs rounded to bfloat16, sums in float32.
 * - `q8`, `q4`: blocks of 32 weights as integers with a scale. A quantised source stays about as it is with either: 4-bit
 *   sources (`q4_0`, `q4_1`, `q4_k`) keep their 4-bit values, `q8_0` its 8-bit values, and those of 5 and 6 bits are rounded to the
 *   nearest of 255 levels. Floating-point and random sources are rounded to 255 levels with `q8`, and with `q4` to 16
 *   levels between the block's least and largest weight.
 *
 * With `q8` and `q4` inputs are rounded to 16-bit integers in blocks of 32, products of a block are exact integers (the same on
 * every instruction set), and the blocks are summed in float32. `cols` must be a multiple of 32.
 */
export type WeightFormat = 'f32' | 'bf16' | 'q8' | 'q4';
