import { execFile } from 'node:child_process';
import { access, readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import type { Check } from './check.js';

const PACKAGE = '@magicpig/cuda-kernels';

/** Whether models could run on a GPU here, and if not, what is missing first: package, device, driver. */
export async function checkCuda(): Promise<Check> {
  const name = 'cuda';
  const driver = await driverVersion();
  const devices = await listDevices();
  const installed = await isInstalled(PACKAGE);
  const details = { driver, devices, package: installed };
  if (devices.length > 0 && installed) {
    return { name, status: 'ok', message: `${devices.join('; ')} (driver ${driver ?? 'unknown'})`, details };
  }
  const reasons = [
    ...(installed ? [] : [`the package ${PACKAGE} is not installed`]),
    ...(driver === null ? ['no NVIDIA driver is loaded'] : []),
    ...(devices.length === 0 ? ['nvidia-smi lists no device'] : [`present: ${devices.join('; ')}`]),
  ];
  return { name, status: 'info', message: `not used: ${reasons.join(', ')}`, details };
}

async function driverVersion(): Promise<string | null> {
  const text = await readFile('/proc/driver/nvidia/version', 'utf8').catch(() => '');
  return /Kernel Module\D+([\d.]+)/.exec(text)?.[1] ?? ((await exists('/dev/nvidia0')) ? 'unknown' : null);
}

async function listDevices(): Promise<string[]> {
  try {
    const arguments_ = ['--query-gpu=name,memory.total', '--format=csv,noheader'];
    const { stdout } = await promisify(execFile)('nvidia-smi', arguments_, { timeout: 10_000 });
    return stdout.split('\n').filter((line) => line.trim() !== '');
  } catch {
    return []; // no such program, or a driver that it cannot talk to
  }
}

async function isInstalled(name: string): Promise<boolean> {
  try {
    import.meta.resolve(name);
    return true;
  } catch {
    return false;
  }
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
