import { availableParallelism } from 'node:os';
import type { Ceilings } from './ceilings.js';
import { cpuInfo, type Isa } from './cpu-info.js';
import { CpuTensor } from './cpu-tensor.js';
import { CpuWeight } from './cpu-weight.js';
import { DisposedError, InvalidArgumentError, OutOfMemoryError } from './errors.js';
import type { LinearOptions } from './linear-options.js';
import { type NativeBackend, type NativeSource, native } from './native.js';
import type { OperatorProfile } from './operator-profile.js';
import { sourceLayout } from './source-layout.js';
import type { Tensor } from './tensor.js';
import type { Weight, WeightFormat, WeightSource } from './weight.js';

/** Most threads a pool may have. */
const MAX_THREADS = 1024;
/** Address space that the system sets aside for a thread, usually. */
const THREAD_STACK_BYTES = 2 ** 23;
/** Inputs of a matrix come in multiples of these: the narrowest vector of the kernels, blocks of quantised weights. */
const COLS_MULTIPLE: Record<WeightFormat, number> = { f32: 8, bf16: 8, q8: 32, q4: 32 };
/** What a weight takes, about. */
const BYTES_PER_WEIGHT: Record<WeightFormat, number> = { f32: 4, bf16: 2, q8: 1, q4: 0.625 };
const MAX_DIMENSION = 2 ** 31 - 1;
const FORMATS = Object.keys(COLS_MULTIPLE) as WeightFormat[];

/** Settings of a {@link CpuBackend}. */
export interface CpuBackendOptions {
  /** Threads that compute, the calling one included, 1..1024. Default `os.availableParallelism()`. */
  threads?: number;
  /** Code path, for tests and comparisons. Default `cpuInfo().isa`, the fastest one. */
  isa?: Isa;
}

/**
 * The dense operators of a Llama on the CPU. All activations are float32 rows, one row a token; every operator is done
 * when the call returns and blocks the calling thread, so use it in a worker.
 *
 * A row's result depends only on that row and the weights, bit for bit: not on the number of rows in the call, and not
 * on the number of threads. Different instruction sets sum in different orders and agree to rounding.
 *
 * Operators throw {@link InvalidArgumentError} when a shape, an index or a type does not fit and {@link DisposedError}
 * when something was disposed; `out` is then unchanged.
 */
export class CpuBackend implements Disposable {
  readonly name = 'cpu';
  /** Threads that compute, the calling one included. */
  readonly threads: number;
  /** The code path in use. */
  readonly isa: Isa;
  /** Collects what the operators do while it is set; nothing is measured otherwise. */
  profile: OperatorProfile | undefined;
  #handle: NativeBackend | undefined;
  #pool: object | undefined;

  constructor(options: CpuBackendOptions = {}) {
    const info = cpuInfo();
    this.threads = options.threads ?? availableParallelism();
    this.isa = options.isa ?? info.isa;
    integer('CpuBackend', 'threads', this.threads, 1, MAX_THREADS);
    if (!info.available.includes(this.isa)) {
      throw new InvalidArgumentError(
        `CpuBackend: isa must be one of ${info.available.join(', ')} on this processor, not ${this.isa}`,
      );
    }
    const handle = native.createBackend(this.threads, this.isa);
    if (!handle) throw new OutOfMemoryError(`the stacks of ${this.threads} threads`, THREAD_STACK_BYTES * this.threads);
    this.#handle = handle;
    this.#pool = native.pool(handle);
  }

  /** One line for people: instruction set, threads, processor. */
  get description(): string {
    return `CPU, ${this.isa}, ${this.threads} ${this.threads === 1 ? 'thread' : 'threads'} (${cpuInfo().model})`;
  }

  /** The thread pool, a native handle (an External tagged as pool.h of `@magicpig/lsh` says) to share with other addons. */
  get pool(): object {
    if (!this.#pool) throw new DisposedError('backend');
    return this.#pool;
  }

  /**
   * Measures memory bandwidth and arithmetic peak of this backend's threads, in about a third of a second.
   * @throws OutOfMemoryError
   */
  ceilings(): Ceilings {
    const ceilings = native.ceilings(this.#native());
    if (!ceilings) throw new OutOfMemoryError('measuring the memory bandwidth', 2 ** 28);
    return ceilings;
  }

  /**
   * A zeroed buffer of `length` float32.
   * @throws OutOfMemoryError
   */
  tensor(length: number): Tensor {
    this.#native();
    return new CpuTensor(length);
  }

  /**
   * A one-dimensional tensor of a checkpoint (norm weights, biases; `rows` is 1) as float32.
   * @throws OutOfMemoryError
   */
  vector(source: WeightSource): Tensor {
    const backend = this.#native();
    if (source.rows !== 1) throw new InvalidArgumentError(`vector: rows must be 1, not ${source.rows}`);
    const checked = checkSource('vector', source);
    const tensor = new CpuTensor(source.cols);
    native.vector(backend, checked, tensor.host);
    return tensor;
  }

  /**
   * Brings weights into the backend's format, the rows of all `parts` stacked (q|k|v in one matrix). With `gated`, `parts`
   * are [gate, up] of equal shape, the result is for {@link linearGated}, and its `rows` counts both. `cols` must be a
   * multiple of 8 (32 when quantised), and of the block size of the source's type. The data is not needed afterwards.
   * @throws OutOfMemoryError
   */
  weight(parts: WeightSource[], options: { format: WeightFormat; gated?: boolean }): Weight {
    const backend = this.#native();
    const { format, gated = false } = options;
    if (!FORMATS.includes(format)) {
      throw new InvalidArgumentError(`weight: format must be one of ${FORMATS.join(', ')}, not ${format}`);
    }
    const first = parts[0];
    if (!first) throw new InvalidArgumentError('weight: parts must hold at least one source');
    const { cols } = first;
    const sources = parts.map((part) => checkSource('weight', part));
    let rows = 0;
    for (const part of parts) {
      if (part.cols !== cols) {
        throw new InvalidArgumentError(`weight: all parts need the same cols, but there are ${cols} and ${part.cols}`);
      }
      rows += part.rows;
    }
    if (cols % COLS_MULTIPLE[format] !== 0) {
      throw new InvalidArgumentError(
        `weight: cols of ${format} must be a multiple of ${COLS_MULTIPLE[format]}, not ${cols}`,
      );
    }
    if (gated && (parts.length !== 2 || parts[1]!.rows !== first.rows)) {
      throw new InvalidArgumentError(
        `weight: gated takes two parts with the same rows, gate and up, not ${parts.map((part) => part.rows).join(' and ')}`,
      );
    }
    integer('weight', 'rows of all parts', rows, 1, MAX_DIMENSION);
    const made = native.createWeight(backend, sources, cols, format, gated);
    if (!made)
      throw new OutOfMemoryError(`a ${format} weight [${rows}, ${cols}]`, rows * cols * BYTES_PER_WEIGHT[format]);
    return new CpuWeight(made.handle, { rows, cols, bytes: made.bytes, format, gated });
  }

  /** out[i] = row tokens[i] of `table` [vocab, hidden], for i < tokens.length. */
  embed(out: Tensor, table: Weight, tokens: Int32Array): void {
    const backend = this.#native();
    const weight = own('embed', table, false);
    indices('embed', 'tokens', tokens, weight.rows);
    const host = room('embed', 'out', out, tokens.length * weight.cols);
    const start = this.#start();
    native.embed(backend, host, weight.handle, tokens);
    // A row of a packed matrix: its share of the weights, although each cache line of it brings others along.
    const bytes = tokens.length * (weight.bytes / weight.rows + 4 * weight.cols);
    this.#record(start, 'embed', weight, tokens.length, bytes, 0);
  }

  /** out [rows, W.rows] (+)= norm(x) [rows, W.cols] W^T + bias. */
  linear(out: Tensor, x: Tensor, weight: Weight, rows: number, options: LinearOptions = {}): void {
    const w = own('linear', weight, false);
    this.#product('linear', out, x, w, rows, w.rows, options);
  }

  /** SwiGLU: out [rows, F] = silu(norm(x) G^T) * (norm(x) U^T), `weight` made with `gated` [2 F, cols]. */
  linearGated(out: Tensor, x: Tensor, weight: Weight, rows: number, options: Pick<LinearOptions, 'norm'> = {}): void {
    const w = own('linearGated', weight, true);
    this.#product('linearGated', out, x, w, rows, w.rows / 2, { norm: options.norm });
  }

  #product(
    operator: string,
    out: Tensor,
    x: Tensor,
    weight: CpuWeight,
    rows: number,
    outputs: number,
    { norm, bias, accumulate = false }: LinearOptions,
  ): void {
    const backend = this.#native();
    integer(operator, 'rows', rows, 0, MAX_DIMENSION);
    if (rows === 0) return;
    const outHost = room(operator, 'out', out, rows * outputs);
    const xHost = room(operator, 'x', x, rows * weight.cols);
    if (outHost.buffer === xHost.buffer)
      throw new InvalidArgumentError(`${operator}: out and x must be different tensors`);
    if (norm && !(norm.epsilon >= 0 && norm.epsilon < Number.POSITIVE_INFINITY)) {
      throw new InvalidArgumentError(`${operator}: norm.epsilon must be a non-negative number, not ${norm.epsilon}`);
    }
    const start = this.#start();
    const done = native.linear(
      backend,
      outHost,
      xHost,
      weight.handle,
      rows,
      norm && exact(operator, 'norm.weight', norm.weight, weight.cols),
      norm ? norm.epsilon : 0,
      bias && exact(operator, 'bias', bias, weight.rows),
      accumulate,
    );
    if (!done) throw new OutOfMemoryError(`scratch memory of ${operator} with ${rows} rows`, 4 * rows * weight.cols);
    const bytes = weight.bytes + 4 * rows * (weight.cols + (accumulate ? 2 : 1) * outputs);
    this.#record(start, operator, weight, rows, bytes, 2 * rows * weight.rows * weight.cols);
  }

  /**
   * table [rows, headDim]: cos(position * f_j) * scale for j < headDim/2, then the sines. `inverseFrequencies`
   * [headDim/2] in radians a token. The angle is rounded to float32 first, as Hugging Face's implementation does.
   */
  ropeTable(table: Tensor, positions: Int32Array, inverseFrequencies: Float32Array, scale: number): void {
    const backend = this.#native();
    if (!(positions instanceof Int32Array))
      throw new InvalidArgumentError('ropeTable: positions must be an Int32Array');
    if (!(inverseFrequencies instanceof Float32Array) || inverseFrequencies.length === 0) {
      throw new InvalidArgumentError('ropeTable: inverseFrequencies must be a non-empty Float32Array');
    }
    if (!Number.isFinite(scale)) throw new InvalidArgumentError(`ropeTable: scale must be finite, not ${scale}`);
    const host = room('ropeTable', 'table', table, positions.length * 2 * inverseFrequencies.length);
    const start = this.#start();
    native.ropeTable(backend, host, positions, inverseFrequencies, scale);
    this.#record(start, 'ropeTable', undefined, positions.length, 8 * positions.length * inverseFrequencies.length, 0);
  }

  /**
   * Rotates the first `heads` heads of each row of x [rows, stride], in place, pairing element j with j + headDim/2
   * (Hugging Face's convention). `table` [rows, headDim] is made by {@link ropeTable}. Equation 34 of the RoFormer paper.
   */
  rope(x: Tensor, table: Tensor, shape: { rows: number; stride: number; heads: number; headDim: number }): void {
    const backend = this.#native();
    const { rows, stride, heads, headDim } = shape;
    integer('rope', 'rows', rows, 0, MAX_DIMENSION);
    integer('rope', 'heads', heads, 1, MAX_DIMENSION);
    integer('rope', 'headDim', headDim, 2, MAX_DIMENSION);
    integer('rope', 'stride', stride, heads * headDim, MAX_DIMENSION);
    if (headDim % 2 !== 0) throw new InvalidArgumentError(`rope: headDim must be even, not ${headDim}`);
    if (rows === 0) return;
    // The last row may end at its last rotated head.
    const xHost = room('rope', 'x', x, (rows - 1) * stride + heads * headDim);
    const tableHost = room('rope', 'table', table, rows * headDim);
    const start = this.#start();
    native.rope(backend, xHost, tableHost, rows, stride, heads, headDim);
    this.#record(start, 'rope', undefined, rows, 4 * rows * headDim * (2 * heads + 1), 3 * rows * heads * headDim);
  }

  /** out[i] = row indices[i] of x [*, width], for i < indices.length. */
  copyRows(out: Tensor, x: Tensor, rows: Int32Array, width: number): void {
    const backend = this.#native();
    integer('copyRows', 'width', width, 1, MAX_DIMENSION);
    const xHost = room('copyRows', 'x', x, 0);
    indices('copyRows', 'indices', rows, Math.floor(xHost.length / width));
    const outHost = room('copyRows', 'out', out, rows.length * width);
    if (outHost.buffer === xHost.buffer)
      throw new InvalidArgumentError('copyRows: out and x must be different tensors');
    const start = this.#start();
    native.copyRows(backend, outHost, xHost, rows, width);
    this.#record(start, 'copyRows', undefined, rows.length, 8 * rows.length * width, 0);
  }

  /** Nothing to do: tensors are host memory and operators are done when they return. */
  toHost(_tensor: Tensor, _length: number): void {}

  /** Nothing to do: tensors are host memory. */
  toDevice(_tensor: Tensor, _length: number): void {}

  /** Frees scratch memory and lets go of the threads. Tensors and weights stay valid until they are disposed themselves. */
  [Symbol.dispose](): void {
    if (this.#handle) native.disposeBackend(this.#handle);
    this.#handle = undefined;
    this.#pool = undefined;
  }

  #start(): number {
    return this.profile ? performance.now() : 0;
  }

  #record(
    start: number,
    operator: string,
    weight: CpuWeight | undefined,
    rows: number,
    bytes: number,
    operations: number,
  ): void {
    if (!this.profile) return;
    const seconds = (performance.now() - start) / 1e3;
    const detail = weight ? `[${weight.rows}, ${weight.cols}] ${weight.format}` : '';
    this.profile.record({ operator, detail, rows, seconds, bytes, operations, format: weight?.format });
  }

  #native(): NativeBackend {
    if (!this.#handle) throw new DisposedError('backend');
    return this.#handle;
  }
}

function integer(operator: string, name: string, value: number, least: number, most: number): void {
  if (!Number.isInteger(value) || value < least || value > most) {
    throw new InvalidArgumentError(`${operator}: ${name} must be an integer from ${least} to ${most}, not ${value}`);
  }
}

/** The elements of a tensor that must have at least `least` of them. */
function room(operator: string, name: string, tensor: Tensor, least: number): Float32Array {
  const host = tensor?.host;
  if (!(host instanceof Float32Array)) throw new InvalidArgumentError(`${operator}: ${name} must be a tensor`);
  if (host.length < least) {
    throw new InvalidArgumentError(`${operator}: ${name} needs ${least} elements and has ${host.length}`);
  }
  return host;
}

function exact(operator: string, name: string, tensor: Tensor, length: number): Float32Array {
  const host = room(operator, name, tensor, 0);
  if (host.length !== length) {
    throw new InvalidArgumentError(`${operator}: ${name} must have ${length} elements, not ${host.length}`);
  }
  return host;
}

function own(operator: string, weight: Weight, gated: boolean): CpuWeight {
  if (!(weight instanceof CpuWeight)) {
    throw new InvalidArgumentError(`${operator}: the weight must come from CpuBackend.weight`);
  }
  if (weight.gated !== gated) {
    throw new InvalidArgumentError(`${operator}: the weight must be made with gated: ${gated}`);
  }
  return weight;
}

function indices(operator: string, name: string, values: Int32Array, limit: number): void {
  if (!(values instanceof Int32Array)) throw new InvalidArgumentError(`${operator}: ${name} must be an Int32Array`);
  for (let i = 0; i < values.length; ++i) {
    const value = values[i]!;
    if (value < 0 || value >= limit) {
      throw new InvalidArgumentError(`${operator}: ${name}[${i}] is ${value}; it must be from 0 to ${limit - 1}`);
    }
  }
}

/** Checks one source and brings it into the form the addon takes. */
function checkSource(operator: string, source: WeightSource): NativeSource {
  const { type, rows, cols } = source;
  integer(operator, 'rows', rows, 1, MAX_DIMENSION);
  integer(operator, 'cols', cols, 1, MAX_DIMENSION);
  if (type === 'random') {
    const { seed, std, mean = 0 } = source;
    integer(operator, 'seed', seed, 0, Number.MAX_SAFE_INTEGER);
    if (!Number.isFinite(std) || std < 0) {
      throw new InvalidArgumentError(`${operator}: std must be a finite non-negative number, not ${std}`);
    }
    if (!Number.isFinite(mean)) throw new InvalidArgumentError(`${operator}: mean must be finite, not ${mean}`);
    return { type, rows, seed, std, mean };
  }
  const layout = sourceLayout[type];
  if (!layout) {
    throw new InvalidArgumentError(
      `${operator}: type must be random or one of ${Object.keys(sourceLayout).join(', ')}, not ${type}`,
    );
  }
  if (cols % layout.values !== 0) {
    throw new InvalidArgumentError(`${operator}: cols of ${type} must be a multiple of ${layout.values}, not ${cols}`);
  }
  const { data, rowOrder } = source;
  if (!(data instanceof Uint8Array)) throw new InvalidArgumentError(`${operator}: data must be a Uint8Array`);
  const bytes = rows * (cols / layout.values) * layout.bytes;
  if (data.byteLength !== bytes) {
    throw new InvalidArgumentError(
      `${operator}: [${rows}, ${cols}] of ${type} is ${bytes} bytes, but data has ${data.byteLength}`,
    );
  }
  if (rowOrder !== undefined) {
    if (!(rowOrder instanceof Uint32Array) || rowOrder.length !== rows) {
      throw new InvalidArgumentError(`${operator}: rowOrder must be a Uint32Array of ${rows} elements`);
    }
    for (const row of rowOrder) {
      if (row >= rows) throw new InvalidArgumentError(`${operator}: rowOrder names row ${row} of ${rows}`);
    }
  }
  return rowOrder ? { type, rows, data, rowOrder } : { type, rows, data };
}
