import type { AttentionReport } from './api.js';

/** Adds up what a sequence's decode steps attended to, for {@link AttentionReport}. */
export class AttentionMeter {
  readonly #policy: string;
  readonly #heads: number;
  readonly #sampledHeads: number;
  #steps = 0;
  #sampledSteps = 0;
  #exactTokens = 0; // sum over sampled steps
  #share = 0; // sum over sampled steps of the share of sampled keys drawn
  #keysRead = 0; // summed over layers and query heads
  #keys = 0; // the same, had all keys been read
  #errors = 0; // sum over the steps that have an estimated error
  #errorSteps = 0;

  /**
   * @param policy Its name.
   * @param shape Of the model; `sampledLayers` of its layers sample.
   */
  constructor(policy: string, shape: { layers: number; queryHeads: number; sampledLayers: number }) {
    this.#policy = policy;
    this.#heads = shape.layers * shape.queryHeads;
    this.#sampledHeads = shape.sampledLayers * shape.queryHeads;
  }

  /**
   * Takes note of one decoded token.
   *
   * @param context Tokens it attended to, itself included.
   * @param sampled How many of them the sampled layers drew from; 0 when all layers were exact.
   * @param keysRead Summed over layers and query heads; ignored when nothing was sampled.
   * @param error Estimated relative error, where the policy has one; see {@link AttentionReport.samplingError}.
   */
  add(context: number, sampled: number, keysRead: number, error?: number): void {
    this.#steps += 1;
    this.#keys += context * this.#heads;
    if (sampled === 0 || this.#sampledHeads === 0) {
      this.#keysRead += context * this.#heads;
      return;
    }
    const exactHeads = this.#heads - this.#sampledHeads;
    const drawn = keysRead - exactHeads * context - this.#sampledHeads * (context - sampled);
    this.#sampledSteps += 1;
    this.#exactTokens += context - sampled;
    this.#share += drawn / (this.#sampledHeads * sampled);
    this.#keysRead += keysRead;
    if (error === undefined) return;
    this.#errors += error;
    this.#errorSteps += 1;
  }

  report(): AttentionReport {
    const steps = Math.max(this.#sampledSteps, 1);
    return {
      policy: this.#policy,
      decodeSteps: this.#steps,
      sampledSteps: this.#sampledSteps,
      exactTokens: this.#exactTokens / steps,
      sampledShare: this.#share / steps,
      keysReadShare: this.#keys === 0 ? 1 : this.#keysRead / this.#keys,
      ...(this.#errorSteps > 0 && { samplingError: this.#errors / this.#errorSteps }),
    };
  }
}
