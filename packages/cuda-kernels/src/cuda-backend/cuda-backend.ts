import { Device, type DeviceMemory } from '../device.js';
import type { DeviceArray } from '../device-array.js';
import type { DType } from '../dtype.js';
import { InvalidArgumentError } from '../errors.js';
import type { Event } from '../event.js';
import { convert } from '../kernels/convert.js';
import { copyRows } from '../kernels/copy-rows.js';
import { FEW_ROWS, linear } from '../kernels/linear.js';
import { linearGated } from '../kernels/linear-gated.js';
import { rmsNorm } from '../kernels/rms-norm.js';
import { rope } from '../kernels/rope.js';
import { ropeTable } from '../kernels/rope-table.js';
import { swiglu } from '../kernels/swiglu.js';
import { unpackWeight, type WeightMatrix, weightLengths } from '../kernels/weights.js';
import type { Native } from '../native.js';
import type { Stream } from '../stream.js';
import { checkInteger } from '../validate.js';
import { CudaTensor, ownTensor } from './cuda-tensor.js';
import { CudaWeight, ownWeight } from './cuda-weight.js';
import { DeviceClock } from './device-clock.js';
import { checkSource, packSource, weightKind } from './pack-source.js';
import type { LinearOptions, Tensor, Weight, WeightFormat, WeightSource } from './types.js';
import { Upload } from './upload.js';
import { GATED_ROWS } from './working-bytes.js';

/** Options of {@link CudaBackend}. */
export interface CudaBackendOptions {
  /** Thread pool of the work on the host (an External tagged as pool.h of `@magicpig/lsh` says), such as `CpuBackend.pool`. */
  pool: object;
  /** Threads of that pool. */
  threads: number;
  /** Which of {@link listDevices}. Default 0. */
  index?: number;
  /** Bytes of device memory to use at most. Default: all that the device has. */
  memoryLimit?: number;
  /** Run in the CPU emulation of a device, for tests. Default false. */
  emulate?: boolean;
}

/**
 * The dense operators of a Llama on a GPU, as `@magicpig/model-llama` asks for them. Activations are float32 rows, one row a token;
 * products take them in bf16 and sum in float32. Operators are queued in call order and return at once; `toHost` waits.
 */
export class CudaBackend implements Disposable {
  /** Prompt tokens of a step that keep a device busy; more would only take memory. */
  static readonly prefillTokens = 2048;
  readonly name = 'cuda';
  /** Operators run beside what the host does. */
  readonly overlaps = true;
  readonly threads: number;
  readonly pool: object;
  readonly device: Device;
  /** Queue of all operators. What comes again with the same arguments is replayed as a CUDA graph. */
  readonly stream: Stream;
  /** @internal Measures how long operators run: from {@link embed} on, but for when the host attends, to {@link toHost}. */
  readonly clock: DeviceClock;
  /** @internal Milliseconds that the host waited for results. */
  waited = 0;
  readonly #copied: Event;
  readonly #uploads: {
    tokens: Upload<'i32'>;
    indices: Upload<'i32'>;
    positions: Upload<'i32'>;
    frequencies: Upload<'f32'>;
  };
  readonly #scratch = new Map<string, DeviceArray>();

  /** @throws UnavailableError when there is no such device; the message says why */
  constructor(options: CudaBackendOptions);
  /** @internal With another implementation of the addon, for tests. */
  constructor(options: CudaBackendOptions, native: Native);
  constructor(options: CudaBackendOptions, native?: Native) {
    const { pool, threads, ...rest } = options;
    const device = native === undefined ? new Device(rest) : new Device(rest, native);
    this.device = device;
    this.pool = pool;
    this.threads = checkInteger('threads', threads, 1, 1024);
    try {
      this.stream = device.stream({ replay: true });
      this.#copied = device.event();
    } catch (error) {
      device[Symbol.dispose]();
      throw error;
    }
    this.clock = new DeviceClock(device, this.stream);
    this.#uploads = {
      tokens: new Upload(device, 'i32'),
      indices: new Upload(device, 'i32'),
      positions: new Upload(device, 'i32'),
      frequencies: new Upload(device, 'f32'),
    };
  }

  /** One line for people: device, its memory, the limit on it. */
  get description(): string {
    const { name, computeCapability, totalMemory } = this.device.properties;
    const { limit } = this.device.memory;
    const gib = (bytes: number) => (bytes / 2 ** 30).toFixed(1);
    return `${name} (compute capability ${computeCapability}, ${gib(totalMemory)} GiB, using at most ${gib(limit)})`;
  }

  /** Device and pinned memory held, in bytes. */
  get memory(): DeviceMemory {
    return this.device.memory;
  }

  /** Why nothing can be computed any more: the device was lost. Undefined while all is well. */
  get failure(): string | undefined {
    return this.device.failure;
  }

  /** A zeroed buffer of `length` float32. Its memory is allocated at the first use. */
  tensor(length: number): Tensor {
    return new CudaTensor(this.device, this.stream, length);
  }

  /**
   * A one-dimensional tensor of a checkpoint (norm weights, biases; `rows` is 1) as float32.
   * @throws OutOfMemoryError
   */
  vector(source: WeightSource): Tensor {
    if (source.rows !== 1) throw new InvalidArgumentError(`vector: rows must be 1, not ${source.rows}.`);
    checkSource(source);
    const weight = new CudaWeight(this.device, 'f32', { rows: 1, cols: source.cols, gated: false });
    const tensor = new CudaTensor(this.device, this.stream, source.cols);
    try {
      packSource(this.device, this.stream, weight, source, 0);
      this.stream.copy(tensor.overwriteF32(), weight.matrix.values.as('f32'));
      return tensor;
    } catch (error) {
      tensor[Symbol.dispose]();
      throw error;
    } finally {
      weight[Symbol.dispose]();
    }
  }

  /**
   * Brings weights onto the device, the rows of all `parts` stacked (q|k|v in one matrix). With `gated`, `parts` are [gate, up]
   * of equal shape, the result is for {@link linearGated}, and its `rows` counts both. The data is not needed afterwards.
   * @throws OutOfMemoryError
   * @throws InvalidArgumentError for `f32`, and for shapes that do not fit
   */
  weight(parts: WeightSource[], options: { format: WeightFormat; gated?: boolean }): Weight {
    const { kind, ...shape } = weightShape(parts, options);
    const weight = new CudaWeight(this.device, kind, shape);
    try {
      let row = 0;
      for (const part of parts) {
        packSource(this.device, this.stream, weight, part, row);
        row += part.rows;
      }
      return weight;
    } catch (error) {
      weight[Symbol.dispose]();
      throw error;
    }
  }

  /** Bytes of device memory that {@link weight} would take, and the products with it besides (for more than 16 rows). */
  weightBytes(
    parts: WeightSource[],
    options: { format: WeightFormat; gated?: boolean },
  ): { bytes: number; scratch: number } {
    const { kind, rows, cols } = weightShape(parts, options);
    const { values, scales } = weightLengths(kind, rows, cols);
    return { bytes: values + 2 * scales, scratch: kind === 'bf16' ? 0 : 2 * rows * cols };
  }

  /** out[i] = row tokens[i] of `table` [vocab, hidden]. */
  embed(out: Tensor, table: Weight, tokens: Int32Array): void {
    const { matrix: weight, rows: matrixRows, cols: columns } = ownWeight('embed', table, false);
    const rows = tokens.length;
    const to = ownTensor('embed', 'out', out, rows * columns).overwriteF32();
    for (const token of tokens) checkInteger('embed: token', token, 0, matrixRows - 1);
    this.clock.start();
    const indices = this.#uploads.tokens.put(this.stream, tokens);
    unpackWeight(this.stream, { out: to, weight, indices, rows, columns, matrixRows });
  }

  /** out [rows, W.rows] (+)= norm(x) [rows, W.cols] W^T + bias. */
  linear(out: Tensor, x: Tensor, weight: Weight, rows: number, options: LinearOptions = {}): void {
    const { matrix, rows: outputs, cols: inputs } = ownWeight('linear', weight, false);
    const { bias, accumulate = false } = options;
    const target = ownTensor('linear', 'out', out, rows * outputs);
    const input = this.#input('linear', x, rows, inputs, options.norm);
    const offsets = bias && ownTensor('linear', 'bias', bias, outputs).f32();
    linear(this.stream, {
      out: accumulate ? target.f32() : target.overwriteF32(),
      x: input,
      weight: this.#factor(matrix, rows, outputs, inputs),
      ...(offsets && { bias: offsets }),
      rows,
      outputs,
      inputs,
      accumulate,
    });
  }

  /** SwiGLU: out [rows, F] = silu(norm(x) G^T) * (norm(x) U^T), `weight` made with `gated` [2 F, cols]. */
  linearGated(out: Tensor, x: Tensor, weight: Weight, rows: number, options: Pick<LinearOptions, 'norm'> = {}): void {
    const { matrix, rows: outputs, cols: inputs } = ownWeight('linearGated', weight, true);
    const width = outputs / 2;
    const target = ownTensor('linearGated', 'out', out, rows * width).overwriteBf16();
    const input = this.#input('linearGated', x, rows, inputs, options.norm);
    if (rows <= FEW_ROWS) {
      linearGated(this.stream, { out: target, x: input, weight: matrix, rows, width, inputs });
      return;
    }
    const factor = this.#factor(matrix, rows, outputs, inputs);
    const gateUp = this.#room('gateUp', 'f32', Math.min(rows, GATED_ROWS) * outputs);
    for (let row = 0; row < rows; row += GATED_ROWS) {
      const count = Math.min(GATED_ROWS, rows - row);
      linear(this.stream, { out: gateUp, x: input.view(row * inputs), weight: factor, rows: count, outputs, inputs });
      swiglu(this.stream, { out: target.view(row * width), gateUp, rows: count, width });
    }
  }

  /** table [rows, headDim]: cos(position * f_j) * scale for j < headDim/2, then the sines. f in radians a token [headDim/2]. */
  ropeTable(table: Tensor, positions: Int32Array, inverseFrequencies: Float32Array, scale: number): void {
    const [rows, headDim] = [positions.length, 2 * inverseFrequencies.length];
    const to = ownTensor('ropeTable', 'table', table, rows * headDim).overwriteF32();
    ropeTable(this.stream, {
      table: to,
      positions: this.#uploads.positions.put(this.stream, positions),
      inverseFrequencies: this.#uploads.frequencies.put(this.stream, inverseFrequencies),
      rows,
      headDim,
      scale,
    });
  }

  /** Rotates the first `heads` heads of each row of x [rows, stride], in place, pairing element j with j + headDim/2. */
  rope(x: Tensor, table: Tensor, shape: { rows: number; stride: number; heads: number; headDim: number }): void {
    const { rows, stride, heads, headDim } = shape;
    const values = ownTensor('rope', 'x', x, rows === 0 ? 0 : (rows - 1) * stride + heads * headDim).f32();
    rope(this.stream, { x: values, table: ownTensor('rope', 'table', table, rows * headDim).f32(), ...shape });
  }

  /** out[i] = row indices[i] of x [*, width]. */
  copyRows(out: Tensor, x: Tensor, indices: Int32Array, width: number): void {
    const rows = indices.length;
    const to = ownTensor('copyRows', 'out', out, rows * width).overwriteF32();
    const from = ownTensor('copyRows', 'x', x, 0);
    for (const index of indices) checkInteger('copyRows: index', index, 0, Math.floor(from.length / width) - 1);
    const onDevice = this.#uploads.indices.put(this.stream, indices);
    copyRows(this.stream, { out: to, x: from.f32(), indices: onDevice, rows, width });
  }

  /** Makes `tensor.host`'s first `length` elements current, waiting for queued operators. */
  toHost(tensor: Tensor, length: number): void {
    const own = ownTensor('toHost', 'tensor', tensor, length);
    this.#transfer(own.pinned, own.f32(), length);
  }

  /** Makes the device's copy of the first `length` elements current after the host wrote them; the host may write again at once. */
  toDevice(tensor: Tensor, length: number): void {
    const own = ownTensor('toDevice', 'tensor', tensor, length);
    this.#transfer(own.f32(), own.pinned, length);
  }

  /** @internal Waits for all operators. */
  wait(): void {
    this.clock.stop();
    this.stream.record(this.#copied);
    const start = performance.now();
    this.#copied.synchronize();
    this.waited += performance.now() - start;
  }

  /** Frees everything on the device, tensors and weights included. */
  [Symbol.dispose](): void {
    for (const upload of Object.values(this.#uploads)) upload[Symbol.dispose]();
    this.device[Symbol.dispose]();
  }

  #transfer(to: Parameters<Stream['copyMatrix']>[0], from: Parameters<Stream['copyMatrix']>[1], length: number): void {
    this.stream.copyMatrix(to, from, { rows: 1, width: length, toStride: length, fromStride: length });
    this.wait();
  }

  /** x [rows, columns] in bf16, after the norm if there is one. */
  #input(what: string, x: Tensor, rows: number, columns: number, norm: LinearOptions['norm']): DeviceArray<'bf16'> {
    checkInteger(`${what}: rows`, rows, 0);
    const from = ownTensor(what, 'x', x, rows * columns);
    if (norm === undefined && from.bf16 !== undefined) return from.bf16;
    const out = this.#room('input', 'bf16', rows * columns);
    if (norm === undefined) {
      convert(this.stream, { out, x: from.f32(), count: rows * columns });
    } else {
      const weight = ownTensor(what, 'norm.weight', norm.weight, columns).f32();
      rmsNorm(this.stream, { out, x: from.f32(), weight, rows, columns, epsilon: norm.epsilon });
    }
    return out;
  }

  /** The matrix as products of so many rows take it: quantised ones are unpacked for more than a few. */
  #factor(weight: WeightMatrix, rows: number, outputs: number, inputs: number): WeightMatrix {
    if (rows <= FEW_ROWS || weight.kind === 'bf16') return weight;
    const out = this.#room('weight', 'bf16', outputs * inputs);
    unpackWeight(this.stream, { out, weight, rows: outputs, columns: inputs });
    return { kind: 'bf16', values: out.as('u8') };
  }

  /** Scratch memory of at least so many elements, shared by all work on the stream. */
  #room<T extends DType>(name: string, dtype: T, length: number): DeviceArray<T> {
    const held = this.#scratch.get(name) as DeviceArray<T> | undefined;
    if (held !== undefined && held.length >= length) return held;
    held?.[Symbol.dispose]();
    this.#scratch.delete(name);
    const array = this.device.array(dtype, length);
    this.#scratch.set(name, array);
    return array;
  }
}

function weightShape(parts: readonly WeightSource[], options: { format: WeightFormat; gated?: boolean }) {
  const { format, gated = false } = options;
  const first = parts[0];
  if (first === undefined) throw new InvalidArgumentError('weight: parts must hold at least one source.');
  for (const part of parts) {
    checkSource(part);
    if (part.cols !== first.cols) {
      throw new InvalidArgumentError(
        `weight: all parts need the same cols, but there are ${first.cols} and ${part.cols}.`,
      );
    }
  }
  if (gated && (parts.length !== 2 || parts[1]!.rows !== first.rows)) {
    throw new InvalidArgumentError(
      `weight: gated takes two parts with the same rows, gate and up, not ${parts.map((part) => part.rows).join(' and ')}.`,
    );
  }
  const rows = parts.reduce((sum, part) => sum + part.rows, 0);
  return { kind: weightKind(format, parts), rows, cols: first.cols, gated };
}
