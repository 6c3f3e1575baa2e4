import type { Backend, Tensor } from './backend.js';
import type { LlamaConfig } from './checkpoint.js';

type RopeConfig = Pick<LlamaConfig, 'headDim' | 'ropeTheta' | 'ropeScaling'>;

/**
 * Inverse frequencies of rotary position embeddings, in radians a token [headDim / 2], and the factor on cosines and
 * sines, as Hugging Face's `modeling_rope_utils` computes them.
 *
 * @param contextTokens Length of the context; matters to `dynamic` scaling only.
 */
export function ropeFrequencies(
  config: RopeConfig,
  contextTokens: number,
): { inverseFrequencies: Float32Array; scale: number } {
  const { headDim, ropeTheta, ropeScaling: scaling } = config;
  const plain = (theta: number) => Float64Array.from({ length: headDim / 2 }, (_, j) => theta ** ((-2 * j) / headDim));
  const done = (inverse: Float64Array, scale = 1) => ({ inverseFrequencies: Float32Array.from(inverse), scale });

  switch (scaling.type) {
    case 'default':
      return done(plain(ropeTheta));
    case 'linear': // positions divided by the factor
      return done(plain(ropeTheta).map((f) => f / scaling.factor));
    case 'factors':
      return done(plain(ropeTheta).map((f, j) => f / scaling.factors[j]!));
    case 'dynamic': {
      // NTK-aware: the base grows with the context, once that is longer than the original one.
      const { factor, originalMaxPositions } = scaling;
      const length = Math.max(contextTokens, originalMaxPositions);
      const growth = (factor * length) / originalMaxPositions - (factor - 1);
      return done(plain(ropeTheta * growth ** (headDim / (headDim - 2))));
    }
    case 'llama3': {
      // Long wavelengths divided by the factor, short ones kept, a linear blend between.
      const { factor, lowFreqFactor, highFreqFactor, originalMaxPositions } = scaling;
      return done(
        plain(ropeTheta).map((f) => {
          const turns = (originalMaxPositions * f) / (2 * Math.PI); // in the original context
          if (turns < lowFreqFactor) return f / factor;
          if (turns > highFreqFactor) return f;
          const smooth = (turns - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
          return ((1 - smooth) * f) / factor + smooth * f;
        }),
      );
    }
    case 'yarn': {
      // YaRN (arXiv 2309.00071): a ramp over dimensions from extrapolation (kept) to interpolation (divided).
      const { factor, originalMaxPositions, betaFast, betaSlow, mscale, mscaleAllDim, truncate = true } = scaling;
      const dimensionOf = (turns: number) =>
        (headDim * Math.log(originalMaxPositions / (turns * 2 * Math.PI))) / (2 * Math.log(ropeTheta));
      let low = dimensionOf(betaFast);
      let high = dimensionOf(betaSlow);
      if (truncate) {
        low = Math.floor(low);
        high = Math.ceil(high);
      }
      low = Math.max(low, 0);
      high = Math.min(high, headDim - 1);
      if (low === high) high += 0.001;
      const temperature = (weight: number) => (factor <= 1 ? 1 : 0.1 * weight * Math.log(factor) + 1);
      const computed = mscale && mscaleAllDim ? temperature(mscale) / temperature(mscaleAllDim) : temperature(1);
      return done(
        plain(ropeTheta).map((f, j) => {
          const ramp = Math.min(Math.max((j - low) / (high - low), 0), 1);
          return (f / factor) * ramp + f * (1 - ramp);
        }),
        scaling.attentionFactor ?? computed,
      );
    }
  }
}

/** Fills the tables of cosines and sines that the forward pass rotates with. */
export class Rope {
  readonly #config: RopeConfig;
  readonly #original: { inverseFrequencies: Float32Array; scale: number };

  constructor(config: RopeConfig) {
    this.#config = config;
    this.#original = ropeFrequencies(config, 0);
  }

  /**
   * @param table [rows, headDim], at least `positions.length` rows.
   * @param positions [rows] absolute positions.
   * @param contexts [rows] length of the context each row belongs to: the prompt's, or its own for tokens after it. With
   *   `dynamic` scaling it picks the row's frequencies; keys in the cache keep theirs, as in Hugging Face's implementation.
   */
  fill(backend: Backend, table: Tensor, positions: Int32Array, contexts: Int32Array): void {
    const { ropeScaling: scaling, headDim } = this.#config;
    if (scaling.type !== 'dynamic' || contexts.every((length) => length <= scaling.originalMaxPositions)) {
      backend.ropeTable(table, positions, this.#original.inverseFrequencies, this.#original.scale);
      return;
    }
    const half = headDim / 2;
    let length = -1;
    let frequencies = this.#original;
    for (let row = 0; row < positions.length; row += 1) {
      if (contexts[row] !== length) {
        length = contexts[row]!;
        frequencies = ropeFrequencies(this.#config, length);
      }
      for (let j = 0; j < half; j += 1) {
        const angle = positions[row]! * frequencies.inverseFrequencies[j]!;
        table.host[row * headDim + j] = Math.cos(angle) * frequencies.scale;
        table.host[row * headDim + half + j] = Math.sin(angle) * frequencies.scale;
      }
    }
    backend.toDevice(table, positions.length * headDim);
  }
}
