import { availableParallelism, cpus, freemem, totalmem } from 'node:os';
import { formatBytes } from '../format-bytes.js';
import type { Check } from './check.js';

/** Free memory under which loading even a small model is likely to fail. */
const LITTLE_MEMORY = 2 ** 30;

/** Node, processor and memory. */
export function checkMachine(): Check[] {
  const cores = availableParallelism();
  const total = process.constrainedMemory?.() || totalmem();
  const limit = Math.min(total, totalmem());
  const free = Math.min(freeMemory(), limit);
  return [
    {
      name: 'node',
      status: 'ok',
      message: `${process.version} on ${process.platform}-${process.arch}`,
      details: { version: process.version, platform: process.platform, arch: process.arch },
    },
    {
      name: 'processor',
      status: 'ok',
      message: `${cpus()[0]?.model.trim() ?? 'unknown'}, ${cores} of ${cpus().length} cores for this process`,
      details: { model: cpus()[0]?.model.trim(), cores: cpus().length, available: cores },
    },
    {
      name: 'memory',
      status: free < LITTLE_MEMORY ? 'warning' : 'ok',
      message: `${formatBytes(free)} free of ${formatBytes(limit)}`,
      details: { free, total: limit },
    },
  ];
}

/** Bytes that new allocations can have; under a container's limit where there is one. */
function freeMemory(): number {
  return process.availableMemory?.() ?? freemem();
}
