import { DisposedError, InvalidArgumentError, OutOfMemoryError } from './errors.js';
import { type NativeMemory, native } from './native.js';
import type { Tensor } from './tensor.js';

/** Longest tensor: what a Float32Array of Node 20 can hold. */
const MAX_LENGTH = 2 ** 30;

/** Tensor over memory that the addon allocated. */
export class CpuTensor implements Tensor {
  readonly length: number;
  #host: Float32Array | undefined;
  readonly #memory: NativeMemory;

  constructor(length: number) {
    if (!Number.isInteger(length) || length < 1 || length > MAX_LENGTH) {
      throw new InvalidArgumentError(`tensor: length must be an integer from 1 to ${MAX_LENGTH}, not ${length}`);
    }
    const allocated = native.allocate(length);
    if (!allocated) throw new OutOfMemoryError('a tensor', 4 * length);
    this.length = length;
    this.#host = allocated.host;
    this.#memory = allocated.memory;
  }

  get host(): Float32Array {
    if (!this.#host) throw new DisposedError(`tensor of ${this.length} elements`);
    return this.#host;
  }

  [Symbol.dispose](): void {
    if (this.#host) native.free(this.#host, this.#memory);
    this.#host = undefined;
  }
}
