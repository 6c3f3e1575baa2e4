import type { DeviceArray } from '../device-array.js';
import { InvalidArgumentError } from '../errors.js';
import { attentionDecode } from '../kernels/attention-decode.js';
import { attentionPrefill } from '../kernels/attention-prefill.js';
import { mergeAttention } from '../kernels/merge-attention.js';
import { rope } from '../kernels/rope.js';
import { ropeSplit } from '../kernels/rope-split.js';
import { kvView, PAGE_TOKENS } from '../kv-view.js';
import type { CudaBackend } from './cuda-backend.js';
import type { CudaKvSequence } from './cuda-kv-sequence.js';
import { type CudaTensor, ownTensor } from './cuda-tensor.js';
import type { AttendOptions, HostCache, HostStep, Rows } from './host-cache.js';
import { type KeyLoader, STRETCH_TOKENS } from './key-loader.js';
import type { PagePool } from './page-pool.js';
import { RING, type StepBuffers } from './step-buffers.js';
import { align, StepTables } from './step-tables.js';
import type { Tensor } from './types.js';

/** Entries that are computed alike, in adjacent rows. */
export interface StepPart {
  entries: { sequence: CudaKvSequence; tokens: number }[];
  /** First entry and first row, among those of the step. */
  index: number;
  row: number;
  rows: number;
  /** One token each of several sequences; otherwise a stretch of one prompt. */
  decodes: boolean;
  /** Layers whose earlier tokens are brought back to the device first. */
  reloads: Set<number>;
  /** Pages for the step's own rows in layers that the device does not hold. */
  scratch: number[];
  host: HostStep | undefined;
}

/** Where the host's time in steps went, in milliseconds. */
export interface HostTimes {
  /** Waiting for the device and for what is on its way from it. */
  wait: number;
  /** Writing keys and values into host memory. */
  append: number;
  /** Selecting keys and attending to them there. */
  attend: number;
}

export interface StepContext {
  times: HostTimes;
  backend: CudaBackend;
  pool: PagePool;
  loader: KeyLoader | undefined;
  host: HostCache | undefined;
  layers: number;
  queryHeads: number;
  kvHeads: number;
  headDim: number;
}

/** Activations of a layer's attention. */
export interface AttentionTensors {
  /** [R, (Hq + 2 Hkv) d], queries | keys | values before RoPE */
  qkv: Tensor;
  /** [R, d] cosines, sines */
  rotations: Tensor;
  /** [R, Hq d] */
  output: Tensor;
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
  #tables: StepTables | undefined;
  /** Layers whose keys and values are on their way to host memory. */
  #travelling: number[] = [];
  /** What decoding attended to in host memory for want of it on the device. */
  readonly #wanted: { sequence: CudaKvSequence; layer: number }[] = [];
  /** Of the layer that was begun: the parts that host memory attends. */
  #onHost: { part: StepPart; options: AttendOptions }[] = [];
  #output: CudaTensor | undefined;
  /** Where the layer's log-sum-exps go, on the device [R, Hq] and from there to the host; undefined when nobody wants them. */
  #lse: { array: DeviceArray<'f32'>; offsets: Map<StepPart, number>; end: number; out: Float32Array } | undefined;

  /** @internal Use {@link CudaKvCache.step}. */
  constructor(context: StepContext, buffers: StepBuffers, parts: StepPart[]) {
    this.#context = context;
    this.#buffers = buffers;
    this.#parts = parts;
    this.#rows = parts.reduce((sum, { rows }) => sum + rows, 0);
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
    const slots = tables.slots(layer);
    const shape = { rows, queryHeads, kvHeads, headDim };
    ropeSplit(stream, { qkv, table, q: this.#buffers.q, k: pool.keys, v: pool.values, slots, ...shape });
    const sampled = (part: StepPart) => part.entries.some((_, i) => options.sampling?.[part.index + i] != null);
    const { logSumExp } = options;
    this.#lse = logSumExp && { array: this.#buffers.lse(), offsets: new Map(), end: 0, out: logSumExp };
    if (host !== undefined || logSumExp !== undefined) {
      rope(stream, { x: qkv, table, rows, stride: heads * headDim, heads: queryHeads + kvHeads, headDim });
    }
    if (host !== undefined) {
      this.#send(layer, qkv, (part) => attend && (part.decodes || sampled(part)));
    }
    for (const part of this.#parts) this.#reload(layer, part);
    if (!attend) return;
    for (const [i, part] of this.#parts.entries()) {
      const samples = sampled(part);
      if (samples && host === undefined) {
        throw new InvalidArgumentError(
          'Keys are sampled in host memory, but this cache has its keys on the device alone; make it with a cache on the host.',
        );
      }
      const held = part.entries.every(({ sequence }) => sequence.pages[layer] !== undefined);
      if (samples || (part.decodes && !held)) {
        const sampling = part.entries.map((_, j) => options.sampling?.[part.index + j] ?? null);
        const keysRead = options.keysRead?.subarray(part.row, part.row + part.rows);
        const lse = logSumExp?.subarray(part.row * queryHeads, (part.row + part.rows) * queryHeads);
        this.#onHost.push({
          part,
          options: { sampling, ...(keysRead && { keysRead }), ...(lse && { logSumExp: lse }) },
        });
        // What is sampled is not attended exactly again: the device need not hold it. What is exact it had better hold.
        for (const [j, { sequence }] of part.entries.entries()) {
          if (sampling[j] !== null) sequence.drop(layer);
          else if (sequence.pages[layer] === undefined) this.#wanted.push({ sequence, layer });
        }
        continue;
      }
      if (this.#lse) {
        this.#lse.offsets.set(part, this.#lse.end);
        this.#lse.end = align(this.#lse.end + part.rows * queryHeads);
      }
      if (options.keysRead) countKeys(options.keysRead, part, queryHeads);
      const pages = tables.pages(layer, i);
      if (part.decodes) this.#decode(part, pages, tables.lengths(i));
      else if (held) this.#prefill(part, pages);
      else this.#prefillFromHost(layer, part, pages);
    }
  }

  /** Completes the layer: waits for what the host attends, attends, and queues the result's way back. */
  finish(layer: number): void {
    const { backend, queryHeads, kvHeads, headDim } = this.#context;
    if (this.#onHost.length > 0) {
      this.#receive(layer);
      const output = this.#output!;
      const { pinned } = this.#buffers.rows[layer % RING]!;
      const width = queryHeads * headDim;
      const stride = (queryHeads + 2 * kvHeads) * headDim;
      for (const { part, options } of this.#onHost) {
        const queries: Rows = { data: pinned.host, offset: part.row * stride, stride };
        const start = performance.now();
        part.host!.attend(layer, queries, { data: output.host, offset: part.row * width, stride: width }, options);
        this.#context.times.attend += performance.now() - start;
        backend.stream.copyMatrix(output.overwriteF32(), output.pinned, {
          rows: 1,
          width: part.rows * width,
          toStride: part.rows * width,
          fromStride: part.rows * width,
          toOffset: part.row * width,
          fromOffset: part.row * width,
        });
      }
      this.#onHost = [];
    }
    for (const [{ row, rows }, offset] of this.#lse?.offsets ?? []) {
      const [begin, length] = [row * queryHeads, rows * queryHeads];
      this.#lse!.array.view(offset, length).read(this.#lse!.out.subarray(begin, begin + length));
    }
    // The next layer's projection goes where this one's is read from.
    if (this.#context.host !== undefined) backend.stream.wait(this.#buffers.rows[layer % RING]!.arrived);
  }

  /** Ends the step: host memory has all keys and values, and the device, where there is room, what the next step attends to exactly. */
  end(): void {
    for (const layer of [...this.#travelling]) this.#receive(layer);
    this.#release();
    for (const { sequence, layer } of this.#wanted.splice(0)) this.#bringBack(sequence, layer);
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
    this.#travelling = [];
    this.#release();
  }

  #release(): void {
    for (const part of this.#parts) for (const page of part.scratch.splice(0)) this.#context.pool.release(page);
  }

  /** Queues the layer's rows for host memory: all of a row where `queries` are wanted there, else keys and values. */
  #send(layer: number, qkv: DeviceArray<'f32'>, queries: (part: StepPart) => boolean): void {
    const { backend, queryHeads, kvHeads, headDim } = this.#context;
    const { copies, computed, rows } = this.#buffers;
    const { pinned, arrived } = rows[layer % RING]!;
    for (const earlier of this.#travelling.filter((each) => each % RING === layer % RING)) this.#receive(earlier);
    backend.stream.record(computed);
    copies.wait(computed);
    const stride = (queryHeads + 2 * kvHeads) * headDim;
    for (const part of this.#parts) {
      const skip = queries(part) ? 0 : queryHeads * headDim;
      const offset = part.row * stride + skip;
      const strides = { toStride: stride, fromStride: stride, toOffset: offset, fromOffset: offset };
      copies.copyMatrix(pinned, qkv, { rows: part.rows, width: stride - skip, ...strides });
    }
    copies.record(arrived);
    this.#travelling.push(layer);
  }

  /** Appends a layer's rows in host memory, once they are there. */
  #receive(layer: number): void {
    const { queryHeads, kvHeads, headDim } = this.#context;
    const { pinned, arrived } = this.#buffers.rows[layer % RING]!;
    const { times } = this.#context;
    const start = performance.now();
    arrived.synchronize();
    const there = performance.now();
    times.wait += there - start;
    const stride = (queryHeads + 2 * kvHeads) * headDim;
    for (const part of this.#parts) {
      const keys = { data: pinned.host, offset: part.row * stride + queryHeads * headDim, stride };
      part.host!.append(layer, keys, { ...keys, offset: keys.offset + kvHeads * headDim });
    }
    times.append += performance.now() - there;
    this.#travelling = this.#travelling.filter((each) => each !== layer);
  }

  /** What belongs to a part of the step: its output, its queries, and its log-sum-exps where they are wanted. */
  #tensors(part: StepPart): { out: DeviceArray<'f32'>; q: DeviceArray<'bf16'>; logSumExp?: DeviceArray<'f32'> } {
    const { queryHeads, headDim } = this.#context;
    const view = [part.row * queryHeads * headDim, part.rows * queryHeads * headDim] as const;
    const logSumExp = this.#lse?.array.view(this.#lse.offsets.get(part)!, part.rows * queryHeads);
    const tensors = { out: this.#output!.overwriteF32().view(...view), q: this.#buffers.q.view(...view) };
    return { ...tensors, ...(logSumExp && { logSumExp }) };
  }

  #decode(part: StepPart, pages: DeviceArray<'i32'>, lengths: DeviceArray<'i32'>): void {
    const { backend, pool, queryHeads, kvHeads, headDim } = this.#context;
    const sequences = part.entries.length;
    const pagesStride = pages.length / sequences;
    const maxKeys = pagesStride * PAGE_TOKENS;
    const sizes = { queryHeads, kvHeads, headDim, sequences, maxKeys };
    const workspace = this.#buffers.workspace(sizes);
    attentionDecode(backend.stream, {
      ...sizes,
      ...this.#tensors(part),
      kv: pool.view(pages),
      pagesStride,
      lengths,
      ...(workspace && { workspace }),
    });
  }

  /** Brings the tokens before the step back to the device, where it has given the layer up before. */
  #reload(layer: number, part: StepPart): void {
    if (!part.reloads.has(layer)) return;
    const { sequence, tokens } = part.entries[0]!;
    this.#load(sequence, layer, sequence.length - tokens);
    part.reloads.delete(layer);
  }

  /** All of a layer's tokens, if there are pages for them. */
  #bringBack(sequence: CudaKvSequence, layer: number): void {
    const { pool } = this.#context;
    const pages = Math.ceil(sequence.length / PAGE_TOKENS);
    if (pages > pool.free) return;
    sequence.pages[layer] = Array.from({ length: pages }, () => pool.take());
    try {
      this.#load(sequence, layer, sequence.length);
    } catch (error) {
      sequence.drop(layer);
      throw error;
    }
  }

  /** The first tokens of a layer from host memory to their pages. */
  #load(sequence: CudaKvSequence, layer: number, tokens: number): void {
    const { backend, pool, loader, host } = this.#context;
    const slots = this.#slotsOf(sequence.pages[layer]!, tokens);
    this.#eachStretch(tokens, (begin, end) =>
      loader!.load(backend.stream, host!, sequence.host!, layer, begin, end, {
        keys: pool.keys,
        values: pool.values,
        slots: slots.view(begin, end - begin),
      }),
    );
  }

  #prefill(part: StepPart, pages: DeviceArray<'i32'>): void {
    const { backend, pool, queryHeads, kvHeads, headDim } = this.#context;
    const { sequence, tokens } = part.entries[0]!;
    const keys = sequence.length;
    const kv = pool.view(pages);
    attentionPrefill(backend.stream, {
      ...this.#tensors(part),
      kv,
      queries: tokens,
      keys,
      queryHeads,
      kvHeads,
      headDim,
    });
  }

  /** Attends to a context that only host memory holds, a stretch of it at a time, then to the step's own tokens. */
  #prefillFromHost(layer: number, part: StepPart, pages: DeviceArray<'i32'>): void {
    const { backend, pool, loader, host, queryHeads, kvHeads, headDim } = this.#context;
    const { stream } = backend;
    const { sequence, tokens } = part.entries[0]!;
    const before = sequence.length - tokens;
    const { out, q, logSumExp } = this.#tensors(part);
    const { output, lse } = this.#buffers.partial!;
    const whole = logSumExp ?? this.#buffers.partial!.whole;
    const { keys: k, values: v } = this.#buffers.stretch!;
    const heads = { queryHeads, kvHeads, headDim };
    const queries = { ...heads, q, queries: tokens, queryPosition: before };
    const own = pool.view(pages);
    attentionPrefill(stream, { ...queries, out, logSumExp: whole, kv: own, keys: tokens, keyPosition: before });
    this.#eachStretch(before, (begin, end) => {
      loader!.load(stream, host!, sequence.host!, layer, begin, end, { keys: k, values: v });
      const kv = kvView(k, v, heads);
      attentionPrefill(stream, { ...queries, out: output, logSumExp: lse, kv, keys: end - begin, keyPosition: begin });
      const rows = tokens * queryHeads;
      mergeAttention(stream, { out, a: out, lseA: whole, b: output, lseB: lse, logSumExp: whole, rows, headDim });
    });
  }

  #eachStretch(tokens: number, run: (begin: number, end: number) => void): void {
    for (let begin = 0; begin < tokens; begin += STRETCH_TOKENS) run(begin, Math.min(begin + STRETCH_TOKENS, tokens));
  }

  /** Slots of the first tokens of a layer, on the device. */
  #slotsOf(pages: readonly number[], tokens: number): DeviceArray<'i32'> {
    const { backend, pool } = this.#context;
    const slots = Int32Array.from({ length: tokens }, (_, t) => pool.slot(pages[Math.floor(t / PAGE_TOKENS)]!, t));
    return this.#buffers.reloads.put(backend.stream, slots);
  }
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
