import type { DeviceArray } from '../device-array.js';
import { InvalidArgumentError } from '../errors.js';
import { mergeAttention } from '../kernels/merge-attention.js';
import { rope } from '../kernels/rope.js';
import { ropeSplit } from '../kernels/rope-split.js';
import type { PinnedArray } from '../pinned-array.js';
import { type CudaTensor, ownTensor } from './cuda-tensor.js';
import { type AttentionOutput, ExactAttention } from './exact-attention.js';
import type { AttendOptions, Sampling } from './host-cache.js';
import { HostRows } from './host-rows.js';
import { PageRecall, type WantedPages } from './page-recall.js';
import type { KeySketches } from './sketch-pool.js';
import { StaticTables } from './static-tables.js';
import type { PinnedPair, StepBuffers } from './step-buffers.js';
import type { AttentionTensors, StepContext, StepPart } from './step-context.js';
import { align, StepTables } from './step-tables.js';

/** A part that host memory attends, all of it or what is sampled. */
interface HostPart {
  part: StepPart;
  options: AttendOptions;
  /** The device attends to the tokens that are not sampled meanwhile. */
  beside: boolean;
  /** The device draws. */
  draws: boolean;
}

/** Where a layer's log-sum-exps go: on the device, by part and aligned, and from there to `out` [R, Hq]. */
interface LogSumExps extends PinnedPair {
  offsets: Map<StepPart, number>;
  end: number;
  out: Float32Array;
}

/**
 * One forward step over a {@link CudaKvCache}. For each layer in order: {@link begin}, then {@link finish}; after the last one
 * {@link end}, or {@link rollback} after a failure.
 */
export class CudaKvStep {
  /** The runner's way in: this step takes the activations on the device. */
  readonly device = this;
  readonly #context: StepContext;
  readonly #buffers: StepBuffers;
  readonly #parts: StepPart[];
  readonly #rows: number;
  readonly #exact: ExactAttention;
  readonly #recall: PageRecall;
  readonly #toHost: HostRows;
  #tables: StepTables | undefined;
  #statics: StaticTables | undefined;
  /** What decoding attended to in host memory for want of it on the device. */
  readonly #wanted: WantedPages[] = [];
  /** Of the layer that was begun. */
  #onHost: HostPart[] = [];
  #output: CudaTensor | undefined;
  #lse: LogSumExps | undefined;

  /** @internal Use {@link CudaKvCache.step}. */
  constructor(context: StepContext, buffers: StepBuffers, parts: StepPart[]) {
    this.#context = context;
    this.#buffers = buffers;
    this.#parts = parts;
    this.#rows = parts.reduce((sum, { rows }) => sum + rows, 0);
    this.#exact = new ExactAttention(context, buffers);
    this.#recall = new PageRecall(context, buffers);
    this.#toHost = new HostRows(context, buffers, parts);
    for (const { sequence } of parts.flatMap(({ entries }) => entries)) sequence.step = this.#toHost;
  }

  /**
   * Queues a layer's attention as far as the device does it: keys and values to where they live, exact attention, and what the host
   * samples on its way there. Does not wait.
   *
   * @param options as for attention in host memory
   * @param attend false to only append keys and values; {@link finish} is then not called
   */
  begin(layer: number, tensors: AttentionTensors, options: AttendOptions = {}, attend = true): void {
    const { backend, pool, queryHeads, kvHeads, headDim, host } = this.#context;
    const { stream } = backend;
    const heads = queryHeads + 2 * kvHeads;
    const rows = this.#rows;
    const qkv = ownTensor('attention', 'qkv', tensors.qkv, rows * heads * headDim).f32();
    const table = ownTensor('attention', 'rotations', tensors.rotations, rows * headDim).f32();
    this.#output = ownTensor('attention', 'output', tensors.output, rows * queryHeads * headDim);
    this.#onHost = [];
    const tables = (this.#tables ??= new StepTables(stream, this.#buffers.tables, this.#context, this.#parts));
    const shape = { rows, queryHeads, kvHeads, headDim };
    const slots = tables.slots(layer);
    ropeSplit(stream, { qkv, table, q: this.#buffers.q, k: pool.keys, v: pool.values, slots, ...shape });
    const { logSumExp } = options;
    this.#lse = logSumExp && { ...this.#buffers.lse(), offsets: new Map(), end: 0, out: logSumExp };
    if (host !== undefined || logSumExp !== undefined) {
      rope(stream, { x: qkv, table, rows, stride: heads * headDim, heads: queryHeads + kvHeads, headDim });
    }
    if (host !== undefined) {
      this.#toHost.send(layer, qkv, (part) => attend && (part.decodes || this.#samples(part, options)));
    }
    for (const part of this.#parts) this.#reload(layer, part);
    if (!attend) return;
    for (const [i, part] of this.#parts.entries()) {
      const whole = part.entries.every(({ sequence }) => sequence.whole(layer));
      if (this.#samples(part, options) || (part.decodes && !whole)) this.#attendOnHost(layer, part, options, qkv);
      else this.#attendOnDevice(layer, part, tables.pages(layer, i), options.keysRead);
    }
    this.#attendToStatics(layer, options);
    if (this.#onHost.length === 0) return;
    stream.flush(); // so that it runs beside the host
    backend.clock.stop();
  }

  /** Completes the layer: waits for what the host attends, attends, and queues the result's way back. */
  finish(layer: number): void {
    const { host } = this.#context;
    if (this.#onHost.length > 0) {
      // What is sampled is in host memory: new keys come there while the device goes on.
      if (this.#onHost.every(({ beside }) => beside)) this.#toHost.arrive(layer);
      else this.#toHost.receive(layer);
      for (const each of this.#onHost.splice(0)) this.#attend(layer, each);
    }
    if (this.#lse && this.#lse.end > 0) this.#readLogSumExps(this.#lse);
    // The next layer's projection goes where this one's is read from.
    if (host !== undefined) this.#toHost.release(layer);
  }

  /**
   * Ends the step: host memory has all keys and values, and the device, where there is room, what the next step attends to exactly. A
   * stretch of a prompt has been computed when it returns, so that callers know how long it took.
   */
  end(): void {
    this.#toHost.receiveAll();
    this.#release();
    for (const wanted of this.#wanted.splice(0)) this.#recall.bringBack(wanted);
    const { backend, host, times } = this.#context;
    if (host === undefined && this.#parts.some(({ decodes }) => !decodes)) backend.wait();
    else backend.clock.stop();
    times.gpu += backend.clock.take();
    times.transfer += this.#buffers.transfers?.take() ?? 0;
    times.idle += backend.waited;
    backend.waited = 0;
  }

  /** Takes the step's tokens off again. */
  rollback(): void {
    for (const part of this.#parts) {
      part.host?.rollback();
      for (const { sequence, tokens } of part.entries) {
        const before = sequence.length - tokens;
        sequence.cut(before);
        // Layers that were to be brought back may be there in part.
        for (const layer of part.reloads) sequence.drop(layer);
      }
    }
    this.#context.backend.clock.abandon();
    this.#toHost.forget();
    this.#release();
  }

  #release(): void {
    for (const { entries, scratch } of this.#parts) {
      for (const page of scratch.splice(0)) this.#context.pool.release(page);
      for (const { sequence } of entries) if (sequence.step === this.#toHost) sequence.step = undefined;
    }
  }

  #samples(part: StepPart, { sampling }: AttendOptions): boolean {
    return part.entries.some((_, i) => sampling?.[part.index + i] != null);
  }

  #attendOnDevice(layer: number, part: StepPart, pages: DeviceArray<'i32'>, keysRead: Float64Array | undefined): void {
    const { queryHeads } = this.#context;
    if (this.#lse) {
      this.#lse.offsets.set(part, this.#lse.end);
      this.#lse.end = align(this.#lse.end + part.rows * queryHeads);
    }
    if (keysRead) countKeys(keysRead, part, queryHeads);
    const output = this.#placeOf(part);
    if (part.decodes) this.#exact.decode(part, pages, this.#tables!.lengths(this.#parts.indexOf(part)), output);
    else if (part.entries[0]!.sequence.whole(layer)) this.#exact.prefill(part, pages, output);
    else this.#exact.prefillFromHost(layer, part, pages, output);
  }

  /** Takes note of what the host is to attend to. The device gives up what is sampled; what is exact it had better hold. */
  #attendOnHost(
    layer: number,
    part: StepPart,
    { sampling, keysRead, logSumExp }: AttendOptions,
    qkv: DeviceArray<'f32'>,
  ): void {
    const { host, queryHeads } = this.#context;
    const own = part.entries.map((_, i) => sampling?.[part.index + i] ?? null);
    if (host === undefined) {
      throw new InvalidArgumentError(
        'Keys are sampled in host memory, but this cache has its keys on the device alone; make it with a cache on the host.',
      );
    }
    const beside =
      part.decodes &&
      logSumExp === undefined &&
      part.entries.every(({ sequence }, i) => own[i] && sequence.pages[layer]?.covers(own[i].begin, own[i].end));
    const draws = part.decodes && this.#draw(layer, part, own, qkv);
    for (const [i, { sequence }] of part.entries.entries()) {
      const { begin, end } = own[i] ?? { begin: 0, end: 0 };
      if (!sequence.pages[layer]?.covers(begin, end)) this.#wanted.push({ sequence, layer, begin, end });
      else if (own[i]) sequence.pages[layer].trim(begin, end);
    }
    const counted = keysRead?.subarray(part.row, part.row + part.rows);
    if (beside && counted) countStatics(counted, part, own as Sampling[], queryHeads);
    const lse = logSumExp?.subarray(part.row * queryHeads, (part.row + part.rows) * queryHeads);
    const options = {
      sampling: beside ? own.map((one) => ({ ...one!, sampledOnly: true })) : own,
      ...(counted && { keysRead: counted }),
      ...(lse && { logSumExp: lse }),
    };
    this.#onHost.push({ part, options, beside, draws });
  }

  /** Queues the draws of a part, where the device can make them; one part of a step at a time. */
  #draw(layer: number, part: StepPart, sampling: (Sampling | null)[], qkv: DeviceArray<'f32'>): boolean {
    const first = sampling[0]?.sketch;
    if (!first || this.#onHost.some(({ draws }) => draws)) return false;
    if (!sampling.every((one) => one?.sketch && one.end > one.begin && drawAlike(one.sketch, first))) return false;
    const pool = this.#context.sketches(first);
    if (pool === undefined) return false;
    return this.#buffers.draws(this.#context).queue(pool, layer, part, sampling as Sampling[], qkv);
  }

  /** Queues attention to what is not sampled, for the parts whose sampled tokens the host attends. */
  #attendToStatics(layer: number, { sampling = [] }: AttendOptions): void {
    const parts = this.#onHost.filter(({ beside }) => beside).map(({ part }) => part);
    if (parts.length === 0) return;
    const { backend, layers } = this.#context;
    if (!this.#statics?.serve(parts, sampling)) {
      this.#statics = new StaticTables(backend.stream, this.#buffers.statics!, layers, parts, sampling);
    }
    for (const part of parts) this.#exact.statics(part, this.#statics.view(layer, part), this.#partialOf(part));
  }

  /** Attends in host memory, and queues the result's way to the device. */
  #attend(layer: number, { part, options, beside, draws }: HostPart): void {
    const { backend, queryHeads, headDim, times } = this.#context;
    const { stream } = backend;
    const width = queryHeads * headDim;
    const { pinned } = this.#output!;
    const lse = this.#buffers.sampled!;
    const own = beside ? lse.host.subarray(part.row * queryHeads, (part.row + part.rows) * queryHeads) : undefined;
    const selectors = draws ? this.#buffers.draws(this.#context).receive() : undefined;
    const sampling = options.sampling?.map(
      (one, i) => one && { ...one, ...(selectors && { selector: selectors[i]! }) },
    );
    const start = performance.now();
    const sampledMs = new Float64Array(2);
    part.host!.attend(
      layer,
      this.#toHost.queries(layer, part),
      { data: pinned.host, offset: part.row * width, stride: width },
      { ...options, ...(sampling && { sampling }), ...(own && { logSumExp: own }), sampledMs },
    );
    const ms = performance.now() - start;
    const [selecting, all] = sampledMs as unknown as [number, number];
    const select = all > 0 ? (ms * selecting) / all : 0;
    times.select += select;
    times.attend += ms - select;
    backend.clock.start();
    const out = this.#output!.overwriteF32();
    const copy = (to: DeviceArray<'f32'>, from: PinnedArray<'f32'>, each: number) => {
      const [offset, size] = [part.row * each, part.rows * each];
      const place = { toOffset: offset, fromOffset: offset, toStride: size, fromStride: size };
      stream.copyMatrix(to, from, { rows: 1, width: size, ...place });
    };
    copy(out, pinned, width);
    if (!beside) return;
    const { whole } = this.#buffers.partial!;
    copy(whole, lse, queryHeads);
    const { out: b, logSumExp: lseB } = this.#partialOf(part);
    const rows = part.rows * queryHeads;
    const a = out.view(part.row * width, part.rows * width);
    mergeAttention(stream, { out: a, a, lseA: whole.view(part.row * queryHeads, rows), b, lseB, rows, headDim });
  }

  #readLogSumExps({ array, pinned, offsets, end, out }: LogSumExps): void {
    const { backend, queryHeads } = this.#context;
    backend.stream.copyMatrix(pinned, array, { rows: 1, width: end, toStride: end, fromStride: end });
    backend.wait();
    backend.clock.start();
    for (const [{ row, rows }, offset] of offsets) {
      out.set(pinned.host.subarray(offset, offset + rows * queryHeads), row * queryHeads);
    }
  }

  /** Where the attention of a part goes. */
  #placeOf(part: StepPart): AttentionOutput {
    const { queryHeads, headDim } = this.#context;
    const out = this.#output!.overwriteF32().view(part.row * queryHeads * headDim, part.rows * queryHeads * headDim);
    const logSumExp = this.#lse?.array.view(this.#lse.offsets.get(part)!, part.rows * queryHeads);
    return { out, ...(logSumExp && { logSumExp }) };
  }

  /** Where attention to a part's static tokens waits for the rest. */
  #partialOf({ row, rows }: StepPart): Required<AttentionOutput> {
    const { queryHeads, headDim } = this.#context;
    const { output, lse } = this.#buffers.partial!;
    return {
      out: output.view(row * queryHeads * headDim, rows * queryHeads * headDim),
      logSumExp: lse.view(row * queryHeads, rows * queryHeads),
    };
  }

  /** Brings the tokens before the step back to the device, where it has given the layer up before. */
  #reload(layer: number, part: StepPart): void {
    if (!part.reloads.has(layer)) return;
    const { sequence, tokens } = part.entries[0]!;
    this.#recall.load(sequence, layer, sequence.length - tokens);
    part.reloads.delete(layer);
  }
}

/** Whether draws from both can be made at once. */
function drawAlike(a: KeySketches, b: KeySketches): boolean {
  const budgets = a.budget === b.budget || JSON.stringify(a.budget) === JSON.stringify(b.budget);
  return budgets && a.bits === b.bits && a.seed === b.seed && a.floor === b.floor;
}

/** Every query head of a row reads the keys up to its own. */
function countKeys(keysRead: Float64Array, part: StepPart, queryHeads: number): void {
  let row = part.row;
  for (const { sequence, tokens } of part.entries) {
    for (let t = 0; t < tokens; t += 1) {
      keysRead[row]! += (sequence.length - tokens + t + 1) * queryHeads;
      row += 1;
    }
  }
}

/** ... or those that are not sampled, one row for each entry. */
function countStatics(keysRead: Float64Array, part: StepPart, sampling: readonly Sampling[], queryHeads: number): void {
  for (const [i, { sequence }] of part.entries.entries()) {
    const { begin, end } = sampling[i]!;
    keysRead[i]! += (sequence.length - (end - begin)) * queryHeads;
  }
}
