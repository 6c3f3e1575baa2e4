import { type Loaded, loadAddon, SUCCESS } from './native.js';

let cuda: Loaded | undefined;
let emulated: Loaded | undefined;

/** @internal The addon over CUDA, loaded once. */
export function cudaAddon(): Loaded {
  return (cuda ??= loadAddon('magicpig_cuda_kernels'));
}

/** @internal The addon over the CPU emulation, loaded once. */
export function emulatedAddon(): Loaded {
  return (emulated ??= loadAddon('magicpig_cuda_kernels_emulated'));
}

/** Whether the kernels can run here, and if not, why and what to do about it. */
export type Availability = { available: true; devices: number } | { available: false; reason: string };

/**
 * Looks for the kernels and for CUDA devices. Cheap after the first call, and never throws.
 */
export function availability(): Availability {
  const loaded = cudaAddon();
  if (!('native' in loaded)) return { available: false, reason: loaded.reason };
  const { native } = loaded;
  const { status, value: devices } = native.deviceCount();
  if (status === SUCCESS && devices > 0) return { available: true, devices };
  const { driver, runtime } = native.versions();
  const version = (number: number) => `${Math.floor(number / 1000)}.${Math.floor((number % 1000) / 10)}`;
  const why =
    status === SUCCESS
      ? 'the driver reports no device (is CUDA_VISIBLE_DEVICES set to hide it?)'
      : driver === 0
        ? 'no NVIDIA driver is installed'
        : `${native.errorText(status)} (${native.errorName(status)}); the driver supports CUDA ${version(driver)}, the kernels were built with ${version(runtime)}` +
          (driver < runtime ? ': update the driver, or build the package with the toolkit of its version' : '');
  return { available: false, reason: `No CUDA device: ${why}.` };
}

/** Whether the kernels can run here; {@link availability} says why not. */
export function isAvailable(): boolean {
  return availability().available;
}
