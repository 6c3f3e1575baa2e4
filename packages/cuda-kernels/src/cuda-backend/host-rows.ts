import type { DeviceArray } from '../device-array.js';
import type { Event } from '../event.js';
import type { StepUnderWay } from './cuda-kv-sequence.js';
import type { Rows } from './host-cache.js';
import { RING, type StepBuffers } from './step-buffers.js';
import type { StepContext, StepPart } from './step-context.js';

/** A step's queries, keys and values on their way to host memory, layer by layer, beside what the device computes next. */
export class HostRows implements StepUnderWay {
  readonly #context: StepContext;
  readonly #buffers: StepBuffers;
  readonly #parts: readonly StepPart[];
  /** Layers that are under way. */
  readonly #travelling = new Set<number>();
  /** ... and those that are there, in pinned memory alone. */
  readonly #arrived = new Set<number>();

  constructor(context: StepContext, buffers: StepBuffers, parts: readonly StepPart[]) {
    this.#context = context;
    this.#buffers = buffers;
    this.#parts = parts;
  }

  /**
   * Queues a layer's rows: all of a row where `queries` are wanted there, else keys and values. Appends those of earlier layers that
   * have arrived, the device being at work.
   *
   * @param qkv [R, (Hq + 2 Hkv) d], rotated
   */
  send(layer: number, qkv: DeviceArray<'f32'>, queries: (part: StepPart) => boolean): void {
    const { backend, queryHeads, kvHeads, headDim } = this.#context;
    const { copies, computed, rows, transfers } = this.#buffers;
    const { pinned, arrived } = rows[layer % RING]!;
    backend.stream.record(computed); // and the device is at work
    for (const earlier of this.#pending) if (earlier % RING === layer % RING) this.receive(earlier);
    copies.wait(computed);
    transfers!.start();
    const stride = (queryHeads + 2 * kvHeads) * headDim;
    for (const part of this.#parts) {
      const skip = queries(part) ? 0 : queryHeads * headDim;
      const offset = part.row * stride + skip;
      const strides = { toStride: stride, fromStride: stride, toOffset: offset, fromOffset: offset };
      copies.copyMatrix(pinned, qkv, { rows: part.rows, width: stride - skip, ...strides });
    }
    transfers!.stop();
    copies.record(arrived);
    this.#travelling.add(layer);
    for (const earlier of [...this.#arrived]) this.receive(earlier);
  }

  /** Waits for a layer's rows: {@link queries} are there. */
  arrive(layer: number): void {
    if (!this.#travelling.delete(layer)) return;
    const start = performance.now();
    this.#buffers.rows[layer % RING]!.arrived.synchronize();
    this.#context.times.idle += performance.now() - start;
    this.#arrived.add(layer);
  }

  /** Waits for a layer's rows, if they are under way, and appends them in host memory. */
  receive(layer: number): void {
    const { queryHeads, kvHeads, headDim, times } = this.#context;
    this.arrive(layer);
    if (!this.#arrived.delete(layer)) return;
    const { pinned } = this.#buffers.rows[layer % RING]!;
    const start = performance.now();
    const stride = (queryHeads + 2 * kvHeads) * headDim;
    for (const part of this.#parts) {
      const keys = { data: pinned.host, offset: part.row * stride + queryHeads * headDim, stride };
      part.host!.append(layer, keys, { ...keys, offset: keys.offset + kvHeads * headDim });
    }
    times.attend += performance.now() - start;
  }

  written(layer: number): Event | undefined {
    return this.#travelling.has(layer) ? this.#buffers.rows[layer % RING]!.arrived : undefined;
  }

  receiveAll(): void {
    for (const layer of this.#pending) this.receive(layer);
  }

  /** Queries of a layer that has arrived. */
  queries(layer: number, part: StepPart): Rows {
    const { queryHeads, kvHeads, headDim } = this.#context;
    const stride = (queryHeads + 2 * kvHeads) * headDim;
    return { data: this.#buffers.rows[layer % RING]!.pinned.host, offset: part.row * stride, stride };
  }

  /** What comes after on the stream may write where the layer's rows are read from. */
  release(layer: number): void {
    const arrived = this.written(layer);
    if (arrived) this.#context.backend.stream.wait(arrived);
  }

  /** What is under way is not to be received. */
  forget(): void {
    this.#buffers.transfers?.abandon();
    this.#travelling.clear();
    this.#arrived.clear();
  }

  /** Layers that host memory lacks, in order. */
  get #pending(): number[] {
    return [...this.#arrived, ...this.#travelling];
  }
}
