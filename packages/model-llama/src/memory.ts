import type { KeptAttention, Neighbour } from './attention-policy.js';
import type { KvCache, KvSequence } from './kv-cache.js';
import { cut, PrefixCache, type PrefixMatch, type PrefixNode } from './prefix-cache.js';
import type { Sequence } from './sequence.js';
import type { Snapshots } from './snapshots.js';

/** What later requests may go on from; see `LoadOptions.prefixCache`. */
export const PREFIX_REUSE = ['all', 'prompts', 'off'] as const;

export type PrefixReuse = (typeof PREFIX_REUSE)[number];

export interface MemoryOptions {
  cache: KvCache;
  /** For keys, values and tables, in use and kept. */
  maxBytes: number;
  reuse: PrefixReuse;
  /** Keeps beginnings across restarts. */
  snapshots?: Snapshots | undefined;
}

/** Shorter beginnings are computed again as fast as they are read from a file. */
const LEAST_SNAPSHOT_TOKENS = 256;

/**
 * The memory of sequences: what each gets, what is kept of it for later ones, and whether there is room for another.
 *
 * A sequence is let in when all that the running ones and itself may come to need is free, so that none has to be thrown out
 * later. What is kept for later gives way first.
 */
export class Memory implements Disposable {
  readonly prefixes: PrefixCache | undefined;
  readonly #cache: KvCache;
  readonly #maxBytes: number;
  readonly #keepAnswers: boolean;
  readonly #snapshots: Snapshots | undefined;
  /** Those for which snapshots were looked through. */
  readonly #looked = new WeakSet<Sequence>();
  /** Up to which token those were written, or could not be. */
  readonly #saved = new WeakMap<PrefixNode, number>();

  constructor({ cache, maxBytes, reuse, snapshots }: MemoryOptions) {
    this.#cache = cache;
    this.#maxBytes = maxBytes;
    this.#keepAnswers = reuse === 'all';
    if (reuse !== 'off') {
      this.#snapshots = snapshots;
      const blockTokens = cache.pageTokens;
      this.prefixes = new PrefixCache(cache.open(), { blockTokens, blockBytes: cache.bytesFor(blockTokens) });
    }
  }

  /** Bytes in use, by running sequences and for later ones. */
  bytes(running: readonly Sequence[]): number {
    let sum = this.#cache.bytes + (this.prefixes?.keptBytes ?? 0);
    for (const { memory } of running) sum += memory?.attention.bytes ?? 0;
    return sum;
  }

  /** Whether a sequence can run beside others to its end. What is kept for later is freed for it, oldest first. */
  fits(sequence: Sequence, running: readonly Sequence[]): boolean {
    if (!this.#looked.has(sequence)) this.#restore(sequence, running);
    this.#looked.add(sequence);
    const match = this.#match(sequence);
    if (match && this.#makeRoom(sequence, running, match)) return true;
    // Alone it must run, if need be without what it would have gone on from.
    return (!match || running.length === 0) && this.#makeRoom(sequence, running);
  }

  /** Frees of what is kept, oldest first, what is too much: a running sequence no longer shares with it. */
  trim(running: readonly Sequence[]): void {
    while (this.bytes(running) > this.#maxBytes && this.prefixes?.evict());
  }

  /** Gives a sequence its cache, with the tokens in it that are known already. */
  open(sequence: Sequence): void {
    const match = this.#match(sequence);
    const cache = match ? cut(match.node.cache, match.tokens) : this.#cache.open();
    this.#begin(sequence, cache, match && this.prefixes!.take(match, sequence.policyKey), match, 0);
  }

  /** Skips tokens of a prompt that another sequence has computed in the meantime. */
  catchUp(sequence: Sequence): void {
    const match = this.#match(sequence);
    const { cached } = sequence;
    if (!match || match.tokens <= cached) return;
    const state = sequence.memory!.attention.keep?.();
    this.#close(sequence);
    const cache = cut(match.node.cache, match.tokens);
    this.#begin(sequence, cache, state && { state, tokens: cached }, match, cached);
  }

  /** Keeps what a sequence has computed of its prompt, for others that begin alike. */
  remember(sequence: Sequence): void {
    if (!this.prefixes) return;
    const tokens = sequence.prompt.subarray(0, Math.min(sequence.cached, sequence.exactPromptTokens));
    const { cache } = sequence.memory!;
    this.#hold(sequence, this.prefixes.insert(cache, tokens, sequence.exactTokens, sequence.policyKey));
  }

  /** Frees a sequence's memory, but for what is kept for later ones. */
  close(sequence: Sequence, { keep }: { keep: boolean }): void {
    const { memory, exactTokens, policyKey } = sequence;
    if (!memory) return;
    if (keep && this.prefixes) {
      const tokens = sequence.tokens().subarray(0, this.#keepAnswers ? sequence.cached : exactTokens);
      const node = this.prefixes.insert(memory.cache, tokens, exactTokens, policyKey);
      const state = memory.attention.keep?.();
      if (state) this.prefixes.attach(node, policyKey, state, tokens.length);
    }
    this.#close(sequence);
  }

  /**
   * Writes the beginning used last, of those that no snapshot has yet.
   *
   * @returns Whether there was one.
   */
  saveSnapshot(): boolean {
    for (const { node, tokens, exactTokens } of this.#snapshots ? this.prefixes!.leaves() : []) {
      const policy = node.kept?.policy ?? node.origin;
      const content = { tokens, exactTokens, policy };
      if (tokens.length < LEAST_SNAPSHOT_TOKENS || this.#saved.get(node) === tokens.length) continue;
      if (this.#snapshots!.covers(content)) continue;
      this.#saved.set(node, tokens.length);
      const bytes = this.#cache.bytesFor(tokens.length) + (node.kept?.state.bytes ?? 0);
      this.#snapshots!.save(content, node.cache, node.kept?.state.save?.() ?? {}, bytes);
      return true;
    }
    return false;
  }

  /** Whether a sequence fits beside others, after freeing what is kept and not held. */
  #makeRoom(sequence: Sequence, running: readonly Sequence[], match?: PrefixMatch): boolean {
    if (match) this.prefixes!.hold(match.node, sequence);
    const fits = this.#free(this.#missing(sequence, match?.tokens ?? 0, 0), running);
    if (match) this.prefixes!.release(match.node, sequence);
    return fits;
  }

  /** Whether so many bytes are free beside what running sequences may need, after freeing what is kept and not held. */
  #free(bytes: number, running: readonly Sequence[]): boolean {
    let needed = bytes;
    for (const one of running) needed += this.#missing(one, one.cached, one.memory!.attention.bytes);
    while (this.bytes(running) + needed > this.#maxBytes) if (!this.prefixes?.evict()) return false;
    return true;
  }

  /** Brings the snapshot back that a sequence can go on from furthest. */
  #restore(sequence: Sequence, running: readonly Sequence[]): void {
    const { prefixes } = this;
    if (!this.#snapshots || !prefixes) return;
    const { prompt, policyKey, policy } = sequence;
    const known = this.#match(sequence)?.tokens ?? 0;
    const least = known + prefixes.blockTokens - 1;
    const snapshot = this.#snapshots.find(prompt, policyKey, sequence.reusableTokens, least);
    if (!snapshot || !this.#free(this.#cache.bytesFor(snapshot.tokens.length), running)) return;
    const loaded = this.#snapshots.load(snapshot);
    if (!loaded) return;
    const node = prefixes.insert(loaded.cache, snapshot.tokens, snapshot.exactTokens, snapshot.policy);
    loaded.cache[Symbol.dispose]();
    if (snapshot.policy !== policyKey || Object.keys(loaded.attachments).length === 0) return;
    try {
      const state = policy.load?.(loaded.attachments);
      if (state) prefixes.attach(node, policyKey, state, snapshot.tokens.length);
    } catch (error) {
      // Keys and values are as good without it.
      this.#snapshots.discard(snapshot, error);
    }
  }

  /** Bytes that a sequence may still come to need. */
  #missing(sequence: Sequence, tokens: number, tableBytes: number): number {
    const pages = this.#cache.bytesFor(sequence.mostTokens) - this.#cache.bytesFor(tokens);
    return pages + Math.max(sequence.mostTableBytes - tableBytes, 0);
  }

  #match(sequence: Sequence): PrefixMatch | undefined {
    return this.prefixes?.match(sequence.prompt, sequence.policyKey, sequence.reusableTokens);
  }

  /** @param computed Tokens of the match that the sequence had computed itself. */
  #begin(
    sequence: Sequence,
    cache: KvSequence,
    kept: { state: KeptAttention; tokens: number } | undefined,
    match: PrefixMatch | undefined,
    computed: number,
  ): void {
    try {
      const attention = sequence.policy.open(cache, kept, () => this.#neighbours(sequence));
      sequence.memory = { cache, attention, node: undefined };
    } catch (error) {
      cache[Symbol.dispose]();
      throw error;
    }
    if (!match) return;
    this.#hold(sequence, match.node);
    sequence.reusedTokens += match.tokens - computed;
    if (match.exactTokens < match.tokens) sequence.exactTokens = match.exactTokens;
  }

  #hold(sequence: Sequence, node: PrefixNode): void {
    const memory = sequence.memory!;
    if (memory.node) this.prefixes!.release(memory.node, sequence);
    this.prefixes!.hold(node, sequence);
    memory.node = node;
  }

  #neighbours(sequence: Sequence): Iterable<Neighbour> {
    const node = sequence.memory?.node;
    return node ? this.prefixes!.neighbours(node, sequence) : [];
  }

  #close(sequence: Sequence): void {
    const { cache, attention, node } = sequence.memory!;
    if (node) this.prefixes!.release(node, sequence);
    attention[Symbol.dispose]();
    cache[Symbol.dispose]();
    sequence.memory = undefined;
  }

  [Symbol.dispose](): void {
    this.prefixes?.[Symbol.dispose]();
  }
}
