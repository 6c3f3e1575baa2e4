import { Activations } from './activations.js';
import { alternate } from './alternate.js';
import type { SequenceAttention } from './attention-policy.js';
import type { Backend } from './backend.js';
import type { LlamaConfig } from './checkpoint.js';
import { type ForwardTap, StepTaps } from './forward-tap.js';
import type { KvCache, KvSequence, KvStep } from './kv-cache.js';
import { layerAttention } from './layer-attention.js';
import type { LlamaWeights } from './llama-weights.js';
import { Rope } from './rope.js';

/** One sequence's part of a forward step. */
export interface ForwardEntry {
  sequence: KvSequence;
  /** Tokens that follow the ones in the cache, at least one. */
  tokens: Int32Array;
  /** Length of the prompt they belong to; see {@link Rope.fill}. */
  promptTokens: number;
  /** Samples keys where the policy says so; exact attention when absent. */
  attention?: SequenceAttention | undefined;
  /** Rows whose logits are wanted. */
  logits: 'none' | 'last' | 'all';
  /** Is shown the layers that it wants. */
  tap?: ForwardTap | undefined;
  /** What the host does with the entry's keys while the device computes later layers. */
  beside?: BesideStep | undefined;
}

/** Work on the keys that a step computes, while it computes. */
export interface BesideStep {
  /** The first `layers` layers have their keys in the cache. */
  run(layers: number): void;
  /** The step failed: it has no keys. */
  abandon(): void;
}

export interface ForwardResult {
  /** Logits of the wanted rows, in order; each [vocab], valid until the next call. */
  logits: Float32Array[];
  /** Keys read for each entry, summed over its rows, layers and query heads; empty when no entry samples. */
  keysRead: Float64Array;
}

/** The forward pass of a Llama: the model on this page, the arithmetic in the backend, attention in the cache. */
export class Llama implements Disposable {
  readonly config: LlamaConfig;
  /** Rows of all entries of a step, at most. */
  readonly maxRows: number;
  /** Milliseconds that the host's caches took so far: keys and values written, keys chosen and attended to. */
  attendMs = 0;
  readonly #backend: Backend;
  readonly #cache: Pick<KvCache, 'step'>;
  readonly #weights: LlamaWeights;
  readonly #rope: Rope;

  /** Of the one group of a step; the second is there from the first step that has two. */
  readonly #activations: Activations[];

  constructor(options: {
    config: LlamaConfig;
    backend: Backend;
    cache: Pick<KvCache, 'step'>;
    weights: LlamaWeights;
    maxRows: number;
  }) {
    const { config, backend, maxRows } = options;
    this.config = config;
    this.maxRows = maxRows;
    this.#backend = backend;
    this.#cache = options.cache;
    this.#weights = options.weights;
    this.#rope = new Rope(config);
    this.#activations = [new Activations(config, backend, maxRows)];
  }

  /** The host has time beside a step: see {@link BesideStep}. */
  get overlaps(): boolean {
    return this.#backend.overlaps ?? false;
  }

  /** Bytes of the activations of steps of `maxRows` rows, `logits` of which have logits. */
  static bytesFor(config: LlamaConfig, maxRows: number, logits: number): number {
    const { hiddenSize, intermediateSize, queryHeads, kvHeads, headDim, vocabSize } = config;
    const row = hiddenSize + (2 * queryHeads + 2 * kvHeads + 1) * headDim + intermediateSize;
    return 4 * (maxRows * row + logits * (hiddenSize + vocabSize));
  }

  /**
   * Runs the rows of all entries through the model and appends them to their sequences. A row's result depends on its own
   * sequence alone. On failure the sequences are as they were.
   *
   * @throws RangeError for no rows or more than `maxRows`, KvOutOfMemoryError when the cache is full.
   */
  forward(entries: readonly ForwardEntry[]): ForwardResult {
    const groups = this.#groups(entries).map((group) => this.#layout(group));
    const steps: KvStep[] = [];
    try {
      for (const { entries } of groups) {
        const rows = entries.map((entry) => ({
          sequence: entry.sequence,
          tokens: entry.tokens.length,
          sampled: this.#samples(entry),
        }));
        steps.push(this.#cache.step(rows));
      }
      const passes = groups.map((group, i) =>
        this.#pass(group, steps[i]!, this.#activationsOf(i, group.tokens.length)),
      );
      const results = new Map(alternate(passes).flatMap((pass) => [...pass]));
      const inOrder = entries.map((entry) => results.get(entry)!);
      return {
        logits: inOrder.flatMap(({ logits }) => logits),
        keysRead: Float64Array.from(
          entries.some(({ attention }) => attention) ? inOrder : [],
          ({ keysRead }) => keysRead,
        ),
      };
    } catch (error) {
      for (const step of steps) step.rollback();
      for (const { beside } of entries) beside?.abandon();
      throw error;
    }
  }

  /** One group's way through the model. It yields while a layer's attention is under way, for another group to use the time. */
  *#pass(group: Group, step: KvStep, activations: Activations): Generator<void, Map<ForwardEntry, EntryResult>> {
    const { config } = this;
    const { layers, rmsNormEps: epsilon } = config;
    const backend = this.#backend;
    const { entries, tokens, positions, contexts, wanted } = group;
    const rows = tokens.length;
    const { x, qkv, rotations, attended, gated } = activations;
    const tensors = { qkv, rotations, output: attended };
    const keysRead = new Float64Array(entries.some(({ attention }) => attention) ? rows : 0);

    const taps = new StepTaps(entries, config, backend);
    const attention = layerAttention(step, rows, config, backend, this);
    backend.embed(x, this.#weights.embedding, tokens);
    this.#rope.fill(backend, rotations, positions, contexts);
    for (const [layer, weights] of this.#weights.layers.entries()) {
      const norm = { weight: weights.attentionNorm, epsilon };
      backend.linear(qkv, x, weights.qkv, rows, { norm, bias: weights.qkvBias });
      // A chunk of prompt leaves only keys and values.
      const attend = layer < layers - 1 || wanted.length > 0 || taps.want(layer);
      const options = {
        sampling: entries.map(({ attention }) => attention?.sampling(layer) ?? null),
        ...(keysRead.length > 0 && { keysRead }),
      };
      attention.begin(layer, tensors, taps.options(layer, options), attend);
      for (const { beside } of entries) beside?.run(layer);
      if (!attend) break;
      yield;
      attention.finish(layer);
      taps.show(layer, tensors, options);
      backend.linear(x, attended, weights.o, rows, { bias: weights.oBias, accumulate: true });

      backend.linearGated(gated, x, weights.gateUp, rows, { norm: { weight: weights.mlpNorm, epsilon } });
      backend.linear(x, gated, weights.down, rows, { bias: weights.downBias, accumulate: true });
    }
    for (const { beside } of entries) beside?.run(layers);
    const logits = this.#project(activations, wanted);
    attention.end();
    return resultsOf(group, logits, keysRead);
  }

  /** Logits of the wanted rows: final norm and output matrix. */
  #project(activations: Activations, wanted: Int32Array): Float32Array[] {
    if (wanted.length === 0) return [];
    const backend = this.#backend;
    const { hiddenSize, vocabSize, rmsNormEps: epsilon } = this.config;
    const { last, logits } = activations.output(wanted.length);
    backend.copyRows(last, activations.x, wanted, hiddenSize);
    backend.linear(logits, last, this.#weights.output, wanted.length, {
      norm: { weight: this.#weights.norm, epsilon },
    });
    backend.toHost(logits, wanted.length * vocabSize);
    return Array.from(wanted, (_, i) => logits.host.subarray(i * vocabSize, (i + 1) * vocabSize));
  }

  /**
   * Two groups where the host samples for several sequences that decode, and the device could compute meanwhile; else one. Each has its
   * share of what the host attends to, and what is computed alike stands together.
   */
  #groups(entries: readonly ForwardEntry[]): (readonly ForwardEntry[])[] {
    if (!this.overlaps) return [entries];
    const prompts = entries.filter(({ tokens }) => tokens.length > 1);
    const decoding = entries.filter(({ tokens }) => tokens.length === 1);
    const sampled = decoding.filter((entry) => this.#samples(entry));
    const exact = decoding.filter((entry) => !sampled.includes(entry));
    const apart = entries.length > 1 && prompts.length === 0 && sampled.length > 0;
    if (!apart) return [[...exact, ...sampled, ...prompts]];
    const [few, many] = [Math.floor(sampled.length / 2), Math.ceil(exact.length / 2)];
    return [
      [...exact.slice(0, many), ...sampled.slice(0, few)],
      [...exact.slice(many), ...sampled.slice(few)],
    ];
  }

  /** Whether keys of some layers are sampled. */
  #samples({ attention }: ForwardEntry): boolean {
    const { layers } = this.config;
    for (let layer = 0; attention && layer < layers; layer += 1) if (attention.sampling(layer)) return true;
    return false;
  }

  #activationsOf(group: number, rows: number): Activations {
    const held = this.#activations[group];
    if (held && held.rows >= rows) return held;
    held?.[Symbol.dispose]();
    this.#activations[group] = new Activations(this.config, this.#backend, rows);
    return this.#activations[group];
  }

  /** Tokens, absolute positions and context lengths of all rows, and the rows whose logits are wanted. */
  #layout(entries: readonly ForwardEntry[]): Group {
    const rows = entries.reduce((sum, { tokens }) => sum + tokens.length, 0);
    if (rows === 0 || rows > this.maxRows) throw new RangeError(`a step has 1..${this.maxRows} rows, not ${rows}`);
    const tokens = new Int32Array(rows);
    const positions = new Int32Array(rows);
    const contexts = new Int32Array(rows);
    const wanted: number[] = [];
    let row = 0;
    for (const entry of entries) {
      const start = entry.sequence.length;
      for (const [i, token] of entry.tokens.entries()) {
        tokens[row] = token;
        positions[row] = start + i;
        contexts[row] = Math.max(entry.promptTokens, start + i + 1);
        if (entry.logits === 'all' || (entry.logits === 'last' && i === entry.tokens.length - 1)) wanted.push(row);
        row += 1;
      }
    }
    return { entries, tokens, positions, contexts, wanted: Int32Array.from(wanted) };
  }

  /** Frees the activations. Weights, cache and backend belong to whoever made them. */
  [Symbol.dispose](): void {
    for (const activations of this.#activations) activations[Symbol.dispose]();
  }
}

/** Rows that go through the model together. */
interface Group {
  entries: readonly ForwardEntry[];
  tokens: Int32Array;
  positions: Int32Array;
  /** Length of the context of each row. */
  contexts: Int32Array;
  /** Rows whose logits are wanted. */
  wanted: Int32Array;
}

interface EntryResult {
  /** Of the wanted rows, in order. */
  logits: Float32Array[];
  /** Summed over rows, layers and query heads. */
  keysRead: number;
}

/** @param keysRead By row; empty when nothing is sampled. */
function resultsOf(
  group: Group,
  logits: readonly Float32Array[],
  keysRead: Float64Array,
): Map<ForwardEntry, EntryResult> {
  const results = new Map<ForwardEntry, EntryResult>();
  let row = 0;
  for (const entry of group.entries) {
    const end = row + entry.tokens.length;
    results.set(entry, {
      logits: logits.filter((_, i) => group.wanted[i]! >= row && group.wanted[i]! < end),
      keysRead: keysRead.subarray(row, end).reduce((sum, keys) => sum + keys, 0),
    });
    row = end;
  }
  return results;
}
