import type { AttentionReport } from './api.js';
import type { KvSequence, Sampling } from './kv-cache.js';

/**
 * How decoded tokens attend to their context. The engine knows policies only through this interface: `dense` and
 * `magicpig` are two of them.
 */
export interface AttentionPolicy {
  readonly name: AttentionReport['policy'];
  /** The prompt's last tokens that are treated like decoded ones. */
  readonly sampledPromptTokens: number;
  /** Bytes that a context of so many tokens needs beside the KV cache, at most. */
  bytesFor(tokens: number): number;
  /** State for one sequence, whose cache is still empty. */
  open(sequence: KvSequence): SequenceAttention;
}

/** One sequence's part of a policy. Between two steps, in this order: `prepare` until `ready`, a step, `afterDecode`. */
export interface SequenceAttention extends Disposable {
  /** Bytes held beside the KV cache. */
  readonly bytes: number;
  /** Nothing is due before the next step that may sample. */
  readonly ready: boolean;
  /**
   * Does what is due (building tables, indexing tokens that left the window), in pieces so that other sequences need not
   * wait for long.
   *
   * @param keys Stop after about so many keys, counted for each layer and KV head.
   */
  prepare(keys: number): void;
  /** Tokens to sample in this layer in the next step, or `null` for exact attention. */
  sampling(layer: number): Sampling | null;
  /**
   * Takes note of one decoded token.
   *
   * @param context Tokens it attended to, itself included.
   * @param keysRead Keys read for it, summed over layers and query heads; unused when nothing was sampled.
   */
  afterDecode(context: number, keysRead: number): void;
  report(): AttentionReport;
}
