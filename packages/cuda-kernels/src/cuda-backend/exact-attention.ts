import type { DeviceArray } from '../device-array.js';
import { attentionDecode } from '../kernels/attention-decode.js';
import { attentionPrefill } from '../kernels/attention-prefill.js';
import { mergeAttention } from '../kernels/merge-attention.js';
import { kvView, PAGE_TOKENS } from '../kv-view.js';
import { eachStretch } from './page-recall.js';
import type { StaticView } from './static-tables.js';
import type { StepBuffers } from './step-buffers.js';
import type { StepContext, StepPart } from './step-context.js';

/** Where the attention of a part's rows goes. */
export interface AttentionOutput {
  /** [rows, Hq d] */
  out: DeviceArray<'f32'>;
  /** [rows, Hq] */
  logSumExp?: DeviceArray<'f32'>;
}

/** Exact attention of the parts of a step, on the device. */
export class ExactAttention {
  readonly #context: StepContext;
  readonly #buffers: StepBuffers;

  constructor(context: StepContext, buffers: StepBuffers) {
    this.#context = context;
    this.#buffers = buffers;
  }

  /** Entries that decode, over all their tokens. */
  decode(part: StepPart, pages: DeviceArray<'i32'>, lengths: DeviceArray<'i32'>, output: AttentionOutput): void {
    this.#decode(part, { pages, pagesStride: pages.length / part.entries.length, lengths }, output);
  }

  /** Entries that decode, over the tokens that are not sampled. */
  statics(part: StepPart, view: StaticView, output: AttentionOutput): void {
    this.#decode(part, view, output);
  }

  /** A stretch of a prompt whose context the device has. */
  prefill(part: StepPart, pages: DeviceArray<'i32'>, output: AttentionOutput): void {
    const { backend, pool } = this.#context;
    const { sequence, tokens } = part.entries[0]!;
    const kv = pool.view(pages);
    const q = this.#queries(part);
    attentionPrefill(backend.stream, { ...this.#heads, ...output, q, kv, queries: tokens, keys: sequence.length });
  }

  /** A stretch of a prompt whose context only host memory has: over that a stretch at a time, then over its own tokens. */
  prefillFromHost(layer: number, part: StepPart, pages: DeviceArray<'i32'>, output: AttentionOutput): void {
    const { backend, pool, loader, host, queryHeads, headDim } = this.#context;
    const { stream } = backend;
    const { sequence, tokens } = part.entries[0]!;
    const before = sequence.length - tokens;
    const { out } = output;
    const { output: partial, lse, whole: spare } = this.#buffers.partial!;
    const whole = output.logSumExp ?? spare;
    const { keys: k, values: v } = this.#buffers.stretch!;
    const queries = { ...this.#heads, q: this.#queries(part), queries: tokens, queryPosition: before };
    const own = pool.view(pages);
    attentionPrefill(stream, { ...queries, out, logSumExp: whole, kv: own, keys: tokens, keyPosition: before });
    eachStretch(0, before, (begin, end) => {
      loader!.load(stream, host!, sequence.host!, layer, begin, end, { keys: k, values: v });
      const kv = kvView(k, v, this.#heads);
      attentionPrefill(stream, { ...queries, out: partial, logSumExp: lse, kv, keys: end - begin, keyPosition: begin });
      const rows = tokens * queryHeads;
      mergeAttention(stream, { out, a: out, lseA: whole, b: partial, lseB: lse, logSumExp: whole, rows, headDim });
    });
  }

  get #heads() {
    const { queryHeads, kvHeads, headDim } = this.#context;
    return { queryHeads, kvHeads, headDim };
  }

  #queries({ row, rows }: StepPart): DeviceArray<'bf16'> {
    const { queryHeads, headDim } = this.#context;
    return this.#buffers.q.view(row * queryHeads * headDim, rows * queryHeads * headDim);
  }

  #decode(part: StepPart, view: Omit<StaticView, 'gaps'> & Partial<StaticView>, output: AttentionOutput): void {
    const { backend, pool } = this.#context;
    const { pages, pagesStride, lengths, gaps } = view;
    const sizes = { ...this.#heads, sequences: part.entries.length, maxKeys: pagesStride * PAGE_TOKENS };
    const workspace = this.#buffers.workspace(sizes);
    attentionDecode(backend.stream, {
      ...sizes,
      ...output,
      q: this.#queries(part),
      kv: pool.view(pages),
      pagesStride,
      lengths,
      ...(gaps && { gaps }),
      ...(workspace && { workspace }),
    });
  }
}
