import type { Backend, Tensor } from './backend.js';
import type { LlamaConfig } from './checkpoint.js';
import type { AttendOptions, KvStep } from './kv-cache.js';

/** Activations that a layer's attention reads and writes; R rows. */
export interface AttentionTensors {
  /** [R, (Hq + 2 Hkv) d], queries | keys | values before RoPE */
  qkv: Tensor;
  /** [R, d] cosines, sines */
  rotations: Tensor;
  /** [R, Hq d] */
  output: Tensor;
}

/** Attention of one step. For each layer in order `begin`, then `finish`; `end` after the last one. */
export interface LayerAttention {
  /**
   * Rotates queries and keys, appends keys and values, and begins to attend. Where a device does that it does not wait.
   *
   * @param attend false to append only; `finish` is then not called. Default true.
   */
  begin(layer: number, tensors: AttentionTensors, options: AttendOptions, attend: boolean): void;
  /** Completes the layer's output. */
  finish(layer: number): void;
  end(): void;
}

/** A step of a cache that takes the activations where they are, on the backend's device. */
interface DeviceStep extends KvStep {
  device: LayerAttention;
}

/** Adds up milliseconds. */
export interface AttendTime {
  attendMs: number;
}

/** How a step attends: by the cache on the device, or by the host's over activations that are brought to it. */
export function layerAttention(
  step: KvStep,
  rows: number,
  config: LlamaConfig,
  backend: Backend,
  time: AttendTime,
): LayerAttention {
  return 'device' in step ? (step as DeviceStep).device : new HostAttention(step, rows, config, backend, time);
}

class HostAttention implements LayerAttention {
  readonly #step: KvStep;
  readonly #rows: number;
  readonly #config: LlamaConfig;
  readonly #backend: Backend;
  readonly #time: AttendTime;
  #begun: { tensors: AttentionTensors; options: AttendOptions } | undefined;

  constructor(step: KvStep, rows: number, config: LlamaConfig, backend: Backend, time: AttendTime) {
    this.#step = step;
    this.#rows = rows;
    this.#config = config;
    this.#backend = backend;
    this.#time = time;
  }

  begin(layer: number, tensors: AttentionTensors, options: AttendOptions): void {
    const { queryHeads, kvHeads, headDim } = this.#config;
    const { qkv, rotations } = tensors;
    const rows = this.#rows;
    const stride = (queryHeads + 2 * kvHeads) * headDim;
    // q and k heads lie side by side in a row: one call rotates both.
    this.#backend.rope(qkv, rotations, { rows, stride, heads: queryHeads + kvHeads, headDim });
    this.#backend.toHost(qkv, rows * stride);
    const keys = { data: qkv.host, offset: queryHeads * headDim, stride };
    const values = { data: qkv.host, offset: (queryHeads + kvHeads) * headDim, stride };
    this.#timed(() => this.#step.append(layer, keys, values));
    this.#begun = { tensors, options };
  }

  finish(layer: number): void {
    const { queryHeads, kvHeads, headDim } = this.#config;
    const { tensors, options } = this.#begun!;
    const { qkv, output } = tensors;
    const width = queryHeads * headDim;
    const queries = { data: qkv.host, offset: 0, stride: width + 2 * kvHeads * headDim };
    const rows = { data: output.host, offset: 0, stride: width };
    this.#timed(() => this.#step.attend(layer, queries, rows, options));
    this.#backend.toDevice(output, this.#rows * width);
  }

  end(): void {}

  #timed(run: () => void): void {
    const start = performance.now();
    run();
    this.#time.attendMs += performance.now() - start;
  }
}
