import type { KeptAttention, Neighbour, SequenceAttention } from './attention-policy.js';
import type { KvSequence } from './kv-cache.js';

/** Tokens computed as part of a prompt, by exact attention: the same for every policy. */
const EXACT = '';

/** A sequence that is running, or about to: it holds on to the nodes whose pages it shares. */
export interface PrefixHolder {
  readonly policyKey: string;
  /** Once it runs. */
  readonly memory: { readonly attention: SequenceAttention } | undefined;
}

/** A run of whole blocks in the tree. */
class Node {
  /** Tokens of this run; those before it are its ancestors'. */
  tokens: Int32Array;
  /** Where the run ends, in tokens from the start. */
  end: number;
  /** {@link EXACT}, or the policy that its keys and values depend on. */
  readonly origin: string;
  parent: Node | undefined;
  /** By origin and tokens of their first block. */
  readonly children = new Map<string, Node>();
  /** Keys and values of all tokens up to `end`; ancestors' pages are shared. */
  cache: KvSequence;
  /** A policy's state, of a sequence that begins with the node's first tokens, so many from the start. */
  kept: { policy: string; state: KeptAttention; tokens: number } | undefined;
  /** Sequences that share pages up to here: evicting these would free nothing. */
  readonly holders = new Set<PrefixHolder>();
  lastUse = 0;

  constructor(tokens: Int32Array, end: number, origin: string, parent: Node | undefined, cache: KvSequence) {
    this.tokens = tokens;
    this.end = end;
    this.origin = origin;
    this.parent = parent;
    this.cache = cache;
  }

  get start(): number {
    return this.end - this.tokens.length;
  }
}

/** A place in a {@link PrefixCache}, to hold on to. */
export type PrefixNode = Node;

export interface PrefixMatch {
  node: PrefixNode;
  /** Tokens found, a multiple of the block. */
  tokens: number;
  /** How many of them, from the first, were computed as part of prompts. */
  exactTokens: number;
}

/**
 * Keys, values and tables of earlier requests, by their tokens: a radix tree over blocks of tokens. Each node's sequence
 * shares the pages of its ancestors, so that what a branch holds alone is freed with its leaf.
 *
 * What was computed as part of a prompt is the same whoever asks. Keys and values of generated tokens come out of sampled
 * attention, and with them those of all later tokens: such runs are kept apart, under the policy they depend on.
 */
export class PrefixCache implements Disposable {
  readonly blockTokens: number;
  readonly #blockBytes: number;
  readonly #root: Node;
  #uses = 0;
  #tokens = 0; // in all nodes

  /**
   * @param empty An empty sequence, for the root.
   * @param options Tokens of a block (a page of the KV cache) and their bytes.
   */
  constructor(empty: KvSequence, options: { blockTokens: number; blockBytes: number }) {
    this.blockTokens = options.blockTokens;
    this.#blockBytes = options.blockBytes;
    this.#root = new Node(new Int32Array(0), 0, EXACT, undefined, empty);
  }

  /** Bytes of policies' state; what running sequences share is divided among them and what is kept. */
  get keptBytes(): number {
    let sum = 0;
    for (const { kept } of this.#subtree(this.#root)) sum += kept?.state.bytes ?? 0;
    return sum;
  }

  /** Bytes of pages and state; pages in use by running sequences are counted too. */
  get bytes(): number {
    return (this.#tokens / this.blockTokens) * this.#blockBytes + this.keptBytes;
  }

  /** The longest beginning of the first `limit` tokens that is here and of use to a policy, if there is any. */
  match(tokens: Int32Array, policy: string, limit: number): PrefixMatch | undefined {
    this.#uses += 1;
    let node = this.#root;
    let at = 0;
    let exactTokens = 0;
    while (at + this.blockTokens <= limit) {
      const child = this.#child(node, EXACT, tokens, at) ?? this.#child(node, policy, tokens, at);
      if (!child) break;
      const common = this.#common(child, tokens, at, limit);
      at += common;
      if (child.origin === EXACT) exactTokens = at;
      child.lastUse = this.#uses;
      node = child;
      if (common < child.tokens.length) break;
    }
    return at === 0 ? undefined : { node, tokens: at, exactTokens };
  }

  /**
   * Keeps the whole blocks of a sequence.
   *
   * @param cache Forked, so that it stays the caller's.
   * @param tokens Those in the cache.
   * @param exactTokens How many of them, from the first, were computed as part of prompts only.
   * @returns The node that holds the last block.
   */
  insert(cache: KvSequence, tokens: Int32Array, exactTokens: number, policy: string): PrefixNode {
    this.#uses += 1;
    const total = this.#wholeBlocks(tokens.length);
    const exact = this.#wholeBlocks(Math.min(exactTokens, total));
    let node = this.#root;
    for (let at = 0; at < total; ) {
      const [origin, stop] = at < exact ? [EXACT, exact] : [policy, total];
      const child = this.#child(node, origin, tokens, at);
      if (child) {
        const common = this.#common(child, tokens, at, stop);
        at += common;
        node = common < child.tokens.length && at < total ? this.#split(child, common) : child;
      } else {
        const run = tokens.slice(at, stop);
        if (node !== this.#root && node.origin === origin && node.children.size === 0) this.#extend(node, run, cache);
        else node = this.#append(node, run, origin, cache);
        at = stop;
      }
      node.lastUse = this.#uses;
    }
    return node;
  }

  /**
   * Keeps a policy's state with the `tokens` tokens that were inserted of its sequence, in place of older state there; drops
   * it when so few tokens are no use.
   */
  attach(node: PrefixNode, policy: string, state: KeptAttention, tokens: number): void {
    const whole = this.#wholeBlocks(tokens);
    if (whole === 0 || state.leastTokens > whole) {
      state[Symbol.dispose]();
      return;
    }
    this.#detach(node)?.state[Symbol.dispose]();
    node.kept = { policy, state, tokens: whole };
  }

  /**
   * State that is of use to a sequence that matched, of the sequence most like it: it belongs to the caller then, and what
   * cannot be shared is taken out.
   *
   * @returns It, and with how many tokens both sequences begin.
   */
  take({ node, tokens }: PrefixMatch, policy: string): { state: KeptAttention; tokens: number } | undefined {
    for (const [one, shared] of this.#alike(node, tokens)) {
      const { kept } = one;
      const both = Math.min(shared, kept?.tokens ?? 0);
      if (kept?.policy !== policy || kept.state.leastTokens > both) continue;
      const fork = kept.state.fork?.();
      if (!fork) this.#detach(one);
      return { state: fork ?? kept.state, tokens: both };
    }
    return undefined;
  }

  /**
   * Sequences of the same policy as one that holds a node, running ones and those whose state is kept, those first that begin
   * with the most of the same tokens. Some are named again with fewer.
   */
  *neighbours(node: PrefixNode, self: PrefixHolder): Generator<Neighbour, void, undefined> {
    const { policyKey } = self;
    for (const [one, shared] of this.#alike(node, node.end)) {
      for (const holder of one.holders) {
        if (holder === self || !holder.memory || holder.policyKey !== policyKey) continue;
        yield { state: holder.memory.attention, tokens: Math.min(shared, one.end) };
      }
      const { kept } = one;
      if (kept?.policy === policyKey) yield { state: kept.state, tokens: Math.min(shared, kept.tokens) };
    }
  }

  /** Nodes from the root to one that is held stay. Release it when the hold ends. */
  hold(node: PrefixNode, holder: PrefixHolder): void {
    node.holders.add(holder);
  }

  release(node: PrefixNode, holder: PrefixHolder): void {
    node.holders.delete(holder);
  }

  /**
   * Frees the leaf that was not used for the longest time; when all are held, the state in the node that was not.
   *
   * @returns false when nothing can be freed.
   */
  evict(): boolean {
    const nodes = [...this.#subtree(this.#root)].sort((a, b) => a.lastUse - b.lastUse);
    const oldest = nodes.find((node) => node !== this.#root && node.children.size === 0 && node.holders.size === 0);
    if (!oldest) {
      const kept = nodes.find((node) => node.kept);
      if (kept) this.#detach(kept)!.state[Symbol.dispose]();
      return kept !== undefined;
    }
    oldest.parent!.children.delete(this.#key(oldest.origin, oldest.tokens, 0));
    this.#tokens -= oldest.tokens.length;
    this.#detach(oldest)?.state[Symbol.dispose]();
    oldest.cache[Symbol.dispose]();
    return true;
  }

  /** The ends of the tree's branches, used last first: what they hold includes their ancestors. */
  leaves(): { tokens: Int32Array; exactTokens: number; node: PrefixNode }[] {
    const leaves = [...this.#subtree(this.#root)].filter((node) => node !== this.#root && node.children.size === 0);
    return leaves.sort((a, b) => b.lastUse - a.lastUse).map((node) => ({ node, ...this.#path(node) }));
  }

  [Symbol.dispose](): void {
    for (const node of this.#subtree(this.#root)) {
      this.#detach(node)?.state[Symbol.dispose]();
      node.cache[Symbol.dispose]();
    }
    this.#root.children.clear();
  }

  #detach(node: Node): Node['kept'] {
    const { kept } = node;
    node.kept = undefined;
    return kept;
  }

  #path(node: Node): { tokens: Int32Array; exactTokens: number } {
    const tokens = new Int32Array(node.end);
    let exactTokens = 0;
    for (let at: Node | undefined = node; at; at = at.parent) {
      tokens.set(at.tokens, at.start);
      if (at.origin === EXACT) exactTokens = Math.max(exactTokens, at.end);
    }
    return { tokens, exactTokens };
  }

  /** Divides a node after its first `common` tokens; returns the first half. */
  #split(node: Node, common: number): Node {
    const middle = node.start + common;
    const first = new Node(node.tokens.slice(0, common), middle, node.origin, node.parent, cut(node.cache, middle));
    node.parent!.children.set(this.#key(node.origin, node.tokens, 0), first);
    node.parent = first;
    node.tokens = node.tokens.slice(common);
    first.children.set(this.#key(node.origin, node.tokens, 0), node);
    return first;
  }

  #extend(node: Node, run: Int32Array, cache: KvSequence): void {
    const tokens = new Int32Array(node.tokens.length + run.length);
    tokens.set(node.tokens);
    tokens.set(run, node.tokens.length);
    const longer = cut(cache, node.end + run.length);
    node.cache[Symbol.dispose]();
    node.cache = longer;
    node.tokens = tokens;
    node.end += run.length;
    this.#tokens += run.length;
  }

  #append(parent: Node, run: Int32Array, origin: string, cache: KvSequence): Node {
    const end = parent.end + run.length;
    this.#tokens += run.length;
    const node = new Node(run, end, origin, parent, cut(cache, end));
    parent.children.set(this.#key(origin, run, 0), node);
    return node;
  }

  #child(node: Node, origin: string, tokens: Int32Array, at: number): Node | undefined {
    return node.children.get(this.#key(origin, tokens, at));
  }

  #key(origin: string, tokens: Int32Array, at: number): string {
    return `${origin}:${tokens.subarray(at, at + this.blockTokens).join()}`;
  }

  /** Tokens, in whole blocks, that a node and `tokens` from `at` to `limit` have in common. */
  #common(node: Node, tokens: Int32Array, at: number, limit: number): number {
    const most = Math.min(node.tokens.length, limit - at);
    let same = 0;
    while (same < most && node.tokens[same] === tokens[at + same]) same += 1;
    return this.#wholeBlocks(same);
  }

  #wholeBlocks(tokens: number): number {
    return Math.floor(tokens / this.blockTokens) * this.blockTokens;
  }

  /** All nodes, those first that have most in common with a sequence, and how many tokens at most that is. */
  *#alike(node: Node, tokens: number): Generator<[Node, number], void, undefined> {
    let shared = tokens;
    for (let top: Node | undefined = node; top; top = top.parent) {
      for (const one of this.#subtree(top)) yield [one, shared];
      shared = Math.min(shared, top.start);
    }
  }

  *#subtree(node: Node): Generator<Node, void, undefined> {
    yield node;
    for (const child of node.children.values()) yield* this.#subtree(child);
  }
}

/** The first `length` tokens of a sequence, as another one. */
export function cut(cache: KvSequence, length: number): KvSequence {
  const fork = cache.fork();
  try {
    fork.truncate(length);
    return fork;
  } catch (error) {
    fork[Symbol.dispose]();
    throw error;
  }
}
