import { ceilDiv } from '../validate.js';

/** What the memory of a model's steps depends on. */
export interface StepShape {
  hiddenSize: number;
  intermediateSize: number;
  queryHeads: number;
  kvHeads: number;
  headDim: number;
  vocabSize: number;
  /** Rows of a step, at most. */
  maxRows: number;
  /** Sequences that decode together, at most. */
  maxSequences: number;
  /** Tokens of a context, at most. */
  contextTokens: number;
}

/** Rows of the gated product at a time: its float32 results pass through memory. */
export const GATED_ROWS = 1024;
/** Keys of a split of attention in decoding. */
const SPLIT = 512;
/** cuBLASLt's, uploads, and what allocations are rounded up to. */
const RUNTIME_BYTES = 2 ** 26;

/**
 * Bytes of device memory that the operators of a model take for activations and scratch, at most; weights, and keys and values come
 * on top.
 */
export function deviceWorkingBytes(shape: StepShape): number {
  const { hiddenSize, intermediateSize, queryHeads, kvHeads, headDim, vocabSize } = shape;
  const { maxRows, maxSequences, contextTokens } = shape;
  const [queries, projected] = [queryHeads * headDim, (queryHeads + 2 * kvHeads) * headDim];
  const float32 = hiddenSize + projected + queries + headDim;
  const widest = Math.max(hiddenSize, intermediateSize, queries);
  const row = 4 * float32 + 2 * intermediateSize + 2 * widest;
  const gated = Math.min(maxRows, GATED_ROWS) * 2 * intermediateSize * 4;
  const logits = maxSequences * (hiddenSize + vocabSize) * 4;
  const splits = maxSequences * queryHeads * ceilDiv(contextTokens, SPLIT) * (headDim + 1) * 4;
  // Two groups of sequences take turns, each with its own activations.
  return (maxRows + maxSequences) * row + gated + 2 * logits + 2 * Math.ceil(1.25 * splits) + RUNTIME_BYTES;
}
