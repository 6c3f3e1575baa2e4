import type { Device } from '../device.js';
import { DisposedError, InvalidArgumentError } from '../errors.js';
import { type WeightKind, type WeightMatrix, weightLengths } from '../kernels/weights.js';
import type { Weight } from './types.js';

/** A matrix of weights in device memory. */
export class CudaWeight implements Weight {
  readonly rows: number;
  readonly cols: number;
  readonly bytes: number;
  readonly kind: WeightKind;
  /** Made for SwiGLU: gate above up. */
  readonly gated: boolean;
  #matrix: WeightMatrix | undefined;

  /** @throws OutOfMemoryError */
  constructor(device: Device, kind: WeightKind, shape: { rows: number; cols: number; gated: boolean }) {
    this.kind = kind;
    this.rows = shape.rows;
    this.cols = shape.cols;
    this.gated = shape.gated;
    const lengths = weightLengths(kind, shape.rows, shape.cols);
    this.bytes = lengths.values + 2 * lengths.scales;
    const values = device.array('u8', lengths.values);
    try {
      this.#matrix = { kind, values, ...(lengths.scales > 0 && { scales: device.array('u16', lengths.scales) }) };
    } catch (error) {
      values[Symbol.dispose]();
      throw error;
    }
  }

  /** @internal */
  get matrix(): WeightMatrix {
    if (this.#matrix === undefined) {
      throw new DisposedError(`This weight [${this.rows}, ${this.cols}] was disposed of.`);
    }
    return this.#matrix;
  }

  [Symbol.dispose](): void {
    this.#matrix?.values[Symbol.dispose]();
    this.#matrix?.scales?.[Symbol.dispose]();
    this.#matrix = undefined;
  }
}

/** @internal The weight as one of this package, gated or not as the operator needs. */
export function ownWeight(what: string, weight: Weight, gated: boolean): CudaWeight {
  if (!(weight instanceof CudaWeight)) {
    throw new InvalidArgumentError(`${what}: the weight is one of another backend.`);
  }
  if (weight.gated !== gated) {
    throw new InvalidArgumentError(`${what}: the weight must ${gated ? '' : 'not '}be made with gated.`);
  }
  return weight;
}
