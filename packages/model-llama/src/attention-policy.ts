import type { AttentionReport } from './api.js';
import type { LlamaConfig } from './checkpoint.js';
import type { KvCache, KvSequence, Sampling } from './kv-cache.js';

/**
 * How decoded tokens attend to their context. The engine knows policies only through this interface: `dense` and
 * `magicpig` are two of them, and a module can bring another, see {@link AttentionPolicyModule}.
 */
export interface AttentionPolicy {
  readonly name: AttentionReport['policy'];
  /** The prompt's last tokens that are treated like decoded ones. */
  readonly sampledPromptTokens: number;
  /** Bytes that a context of so many tokens needs beside the KV cache, at most. */
  bytesFor(tokens: number): number;
  /**
   * State for one sequence.
   *
   * @param sequence Its cache. Empty, but for tokens that another sequence computed before.
   * @param kept What {@link SequenceAttention.keep} of an equal policy gave, and with how many tokens both sequences begin:
   *   what was derived from later ones must go. It belongs to the new state from now on.
   * @param neighbours Sequences of an equal policy, those first that begin with the most of the same tokens: what they have
   *   derived from these may be shared, at any time.
   */
  open(
    sequence: KvSequence,
    kept?: { state: KeptAttention; tokens: number },
    neighbours?: () => Iterable<Neighbour>,
  ): SequenceAttention;
  /**
   * What {@link KeptAttention.save} wrote, again.
   *
   * @throws anything, when the bytes are not what `save` wrote
   */
  load?(saved: Readonly<Record<string, Uint8Array>>): KeptAttention;
}

/** A sequence that begins with the same tokens as another: one that is running, or what was kept of it. */
export interface Neighbour {
  state: SequenceAttention | KeptAttention;
  /** How many tokens both begin with. */
  tokens: number;
}

/** One sequence's part of a policy. Between two steps, in this order: `prepare` until `ready`, a step, `afterDecode`. */
export interface SequenceAttention extends Disposable {
  /** Bytes held beside the KV cache; what several sequences share is divided among them. */
  readonly bytes: number;
  /** Nothing is due before the next step that may sample. */
  readonly ready: boolean;
  /** What is due is being done for another sequence, to be shared then: until that is ready, `prepare` need not be called. */
  readonly waiting?: boolean;
  /**
   * Does what is due (building tables, indexing tokens that left the window), in pieces so that other sequences need not
   * wait for long.
   *
   * @param keys Stop after about so many keys, counted for each layer and KV head.
   * @param layers Only in the first so many layers: those whose keys a step that is under way has computed. Default all.
   */
  prepare(keys: number, layers?: number): void;
  /**
   * Forgets what comes from tokens of a step that failed, and what else it must. A policy that has this may also be prepared while a
   * step over its sequence is under way.
   */
  abandon?(): void;
  /**
   * Does a part of what will be due later, before a step that decodes: about as much as it takes at every step for little to be left
   * when it is due. No result depends on it.
   *
   * @param keys As with `prepare`.
   * @param mostTokens That its cache may come to hold: what is due later than that is due never.
   */
  prepareAhead?(keys: number, mostTokens: number): void;
  /** Tokens to sample in this layer in the next step, or `null` for exact attention. */
  sampling(layer: number): Sampling | null;
  /**
   * Takes note of one decoded token.
   *
   * @param context Tokens it attended to, itself included.
   * @param keysRead Keys read for it, summed over layers and query heads; unused when nothing was sampled.
   */
  afterDecode(context: number, keysRead: number): void;
  /** Of the last decoded token, where the policy has an estimate; see {@link AttentionReport.samplingError}. */
  readonly samplingError?: number | undefined;
  report(): AttentionReport;
  /**
   * Gives away what a later sequence that begins with the same tokens can go on from, if there is anything; afterwards this
   * state can only be reported on and disposed of. A policy without it keeps nothing between requests.
   */
  keep?(): KeptAttention | undefined;
}

/** State of a policy that outlives its sequence, for the next one with the same first tokens. */
export interface KeptAttention extends Disposable {
  /** As of {@link SequenceAttention}. */
  readonly bytes: number;
  /** Sequences that begin with fewer of its tokens have no use for it. */
  readonly leastTokens: number;
  /** The same state for another sequence, if it can be shared; otherwise the next sequence takes it away. */
  fork?(): KeptAttention | undefined;
  /** The state as bytes by name, for a file. Without it nothing is kept across restarts. */
  save?(): Record<string, Uint8Array>;
}

/** What a policy is made from, besides its options. */
export interface PolicyContext {
  readonly config: LlamaConfig;
  /** The model's KV cache: a `KvStore` of `@magicpig/kv-offload`. */
  readonly cache: KvCache;
  /** Thread pool that hashes and builds (a native handle). */
  readonly pool: object;
}

/**
 * What a module of `LoadOptions.policies` exports by default: makes a policy from a request's options, in the thread that
 * computes. Equal options make one policy. What it throws refuses the request.
 */
export type AttentionPolicyModule = (options: Record<string, unknown>, context: PolicyContext) => AttentionPolicy;
