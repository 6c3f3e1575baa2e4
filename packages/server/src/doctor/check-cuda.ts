import { readFile } from 'node:fs/promises';
import { formatBytes } from '../format-bytes.js';
import type { Check } from './check.js';

/** Values that the device adds to themselves. */
const VALUES = 1000;

/** Whether models could run on a GPU here, and if not, what is missing first; where there is one, it adds some numbers. */
export async function checkCuda(): Promise<Check> {
  const name = 'cuda';
  const driver = await driverVersion();
  const kernels = await import('@magicpig/cuda-kernels').catch(() => undefined);
  if (kernels === undefined) {
    const message = 'not used: the package @magicpig/cuda-kernels is not installed';
    return { name, status: 'info', message, details: { driver, package: false } };
  }
  const found = kernels.availability();
  if (!found.available) {
    return { name, status: 'info', message: `not used: ${found.reason}`, details: { driver, package: true } };
  }
  const devices = kernels.listDevices();
  using device = new kernels.Device();
  using stream = device.stream();
  const x = device.upload(
    'f32',
    Float32Array.from({ length: VALUES }, (_, i) => i),
  );
  kernels.add(stream, { x, y: x });
  if (x.read().some((value, i) => value !== 2 * i)) throw new Error(`${device.properties.name} adds wrongly`);
  const { cublasLt } = device;
  const listed = devices.map(
    (one) => `${one.name} (compute capability ${one.computeCapability}, ${formatBytes(one.totalMemory)})`,
  );
  const products = cublasLt.available ? 'with cuBLASLt' : 'without cuBLASLt, which is faster for prompts';
  return {
    name,
    status: cublasLt.available ? 'ok' : 'warning',
    message: `${listed.join('; ')}: computes, ${products} (driver ${driver ?? 'unknown'})`,
    details: { driver, package: true, devices, cublasLt },
  };
}

async function driverVersion(): Promise<string | null> {
  const text = await readFile('/proc/driver/nvidia/version', 'utf8').catch(() => '');
  return /Kernel Module\D+([\d.]+)/.exec(text)?.[1] ?? null;
}
