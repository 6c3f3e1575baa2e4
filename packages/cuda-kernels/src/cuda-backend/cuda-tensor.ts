import type { Device } from '../device.js';
import type { DeviceArray } from '../device-array.js';
import { DisposedError, InvalidArgumentError } from '../errors.js';
import { convert } from '../kernels/convert.js';
import type { PinnedArray } from '../pinned-array.js';
import type { Stream } from '../stream.js';
import { checkInteger } from '../validate.js';
import type { Tensor } from './types.js';

/**
 * Float32 activations on the device. What a kernel leaves in bf16 for the next product stays in bf16, and is widened when
 * somebody wants float32. Memory of either kind, and the host's copy, are allocated when they are first needed.
 */
export class CudaTensor implements Tensor {
  readonly length: number;
  readonly #device: Device;
  readonly #stream: Stream;
  #f32: DeviceArray<'f32'> | undefined;
  #bf16: DeviceArray<'bf16'> | undefined;
  /** Which of the two holds the values; nothing yet stands for zeros. */
  #holds: 'f32' | 'bf16' = 'f32';
  #pinned: PinnedArray<'f32'> | undefined;
  #disposed = false;

  /** @param stream Queue of all work on the tensor. */
  constructor(device: Device, stream: Stream, length: number) {
    this.length = checkInteger('length', length, 0, Number.MAX_SAFE_INTEGER);
    this.#device = device;
    this.#stream = stream;
  }

  get host(): Float32Array {
    return this.pinned.host;
  }

  /** @internal */
  get pinned(): PinnedArray<'f32'> {
    this.#live();
    return (this.#pinned ??= this.#device.pinned('f32', Math.max(this.length, 1)));
  }

  /** @internal The values as float32, to be read, changed in part, or added to. */
  f32(): DeviceArray<'f32'> {
    const array = this.#floats();
    if (this.#holds === 'bf16') convert(this.#stream, { out: array, x: this.#bf16!, count: this.length });
    this.#holds = 'f32';
    return array;
  }

  /** @internal Room for float32 that replaces what was there. */
  overwriteF32(): DeviceArray<'f32'> {
    this.#holds = 'f32';
    return this.#floats();
  }

  /** @internal Room for bf16 that replaces what was there. */
  overwriteBf16(): DeviceArray<'bf16'> {
    this.#live();
    this.#bf16 ??= this.#zeroed('bf16');
    this.#holds = 'bf16';
    return this.#bf16;
  }

  /** @internal The values where they are in bf16, else undefined. */
  get bf16(): DeviceArray<'bf16'> | undefined {
    this.#live();
    return this.#holds === 'bf16' ? this.#bf16 : undefined;
  }

  [Symbol.dispose](): void {
    this.#disposed = true;
    for (const memory of [this.#f32, this.#bf16, this.#pinned]) memory?.[Symbol.dispose]();
    this.#f32 = undefined;
    this.#bf16 = undefined;
    this.#pinned = undefined;
  }

  #floats(): DeviceArray<'f32'> {
    this.#live();
    return (this.#f32 ??= this.#zeroed('f32'));
  }

  #zeroed<T extends 'f32' | 'bf16'>(dtype: T): DeviceArray<T> {
    const array = this.#device.array(dtype, this.length);
    this.#stream.fill(array);
    return array;
  }

  #live(): void {
    if (this.#disposed) throw new DisposedError(`This tensor of ${this.length} elements was disposed of.`);
  }
}

/** @internal The tensor as one of this package, with room for `elements`. */
export function ownTensor(what: string, name: string, tensor: Tensor, elements: number): CudaTensor {
  if (!(tensor instanceof CudaTensor)) {
    throw new InvalidArgumentError(`${what}: ${name} is a tensor of another backend.`);
  }
  if (tensor.length < elements) {
    throw new InvalidArgumentError(`${what}: ${name} holds ${tensor.length} elements, but ${elements} are needed.`);
  }
  return tensor;
}
