import { availability, cudaAddon } from './availability.js';
import { UnavailableError } from './errors.js';
import { type Native, SUCCESS } from './native.js';

/** A device as the driver describes it. */
export interface DeviceProperties {
  index: number;
  name: string;
  /** For example `9.0`. */
  computeCapability: string;
  multiprocessors: number;
  /** Bytes of device memory. */
  totalMemory: number;
  l2CacheBytes: number;
  /** Most shared memory that one block can have, bytes. */
  sharedMemoryPerBlock: number;
}

/** @internal */
export function propertiesOf(native: Native, index: number): DeviceProperties {
  const { status, value } = native.deviceProperties(index);
  if (status !== SUCCESS) {
    throw new UnavailableError(`Device ${index} cannot be asked for its properties: ${native.errorText(status)}.`);
  }
  return {
    index,
    name: value.name,
    computeCapability: `${value.major}.${value.minor}`,
    multiprocessors: value.multiprocessors,
    totalMemory: value.totalMemory,
    l2CacheBytes: value.l2CacheBytes,
    sharedMemoryPerBlock: value.sharedMemoryPerBlock,
  };
}

/** The CUDA devices of this machine; empty where there is none ({@link availability} says why). */
export function listDevices(): DeviceProperties[] {
  const found = availability();
  const loaded = cudaAddon();
  if (!found.available || !('native' in loaded)) return [];
  return Array.from({ length: found.devices }, (_, index) => propertiesOf(loaded.native, index));
}
