import { freemem, totalmem } from 'node:os';
import { CpuBackend } from '@magicpig/cpu-kernels';
import { CudaBackend } from '@magicpig/cuda-kernels';
import { loadLlamaWeights, openCheckpoint } from '../../dist/index.js';

export const GIB = 2 ** 30;
/** Of what is free: graphs, contexts of CUDA and other programs want some too. */
const DEVICE_SHARE = 0.97;
const HOST_SHARE = 0.9;
/** A card of so many gigabytes has a little less; it stands for itself all the same. */
const CARD_SHARE = 0.95;
/** How much is measured: on a device, and where it is emulated only to show that everything runs. */
const EFFORT = { steps: 12, warmSteps: 4, mostSequences: 32, maxRows: 512 };
const LEAST_EFFORT = { steps: 2, warmSteps: 2, mostSequences: 2, maxRows: 64 };

/** The device and host that are measured, a model on them once it is loaded, and the time there is. */
export class Machine {
  cpu = new CpuBackend();
  config;
  weights;
  #start = performance.now();
  #seconds;

  /** @param seconds Nothing is begun when so many have passed. */
  constructor({ emulate, seconds }) {
    this.emulate = emulate;
    this.backend = new CudaBackend({ pool: this.cpu.pool, threads: this.cpu.threads, emulate });
    this.effort = emulate ? LEAST_EFFORT : EFFORT;
    this.#seconds = seconds;
  }

  /** A model's weights, on the device. */
  async load(source) {
    const checkpoint = await openCheckpoint(source);
    this.config = checkpoint.config;
    this.weights = await loadLlamaWeights(checkpoint, this.backend, { format: 'bf16' });
  }

  /** Whether it is too late to begin anything. */
  get late() {
    return this.seconds > this.#seconds;
  }

  /** Whether half of the time has passed. */
  get halfway() {
    return this.seconds > this.#seconds / 2;
  }

  /** Since the beginning. */
  get seconds() {
    return (performance.now() - this.#start) / 1e3;
  }

  /** Bytes of device memory for weights and all else. */
  get deviceBytes() {
    return this.backend.memory.used + DEVICE_SHARE * this.backend.device.freeMemory;
  }

  /** Bytes of host memory that may be taken. */
  get hostBytes() {
    const limit = process.constrainedMemory();
    const limited = limit > 0 && limit < totalmem();
    const free = limited ? Math.min(freemem(), limit - process.memoryUsage.rss()) : freemem();
    return HOST_SHARE * free;
  }

  /** Limits on device memory that the device can stand for, of cards of so many GiB. */
  caps(sizes) {
    const most = this.deviceBytes;
    const fitting = sizes.filter((size) => CARD_SHARE * size * GIB <= most);
    for (const size of sizes) if (!fitting.includes(size)) console.log(`  ${size} GiB: more than this device has`);
    return fitting.map((size) => ({ vramGiB: size, bytes: Math.min(size * GIB, most) }));
  }
}

export const gib = (bytes) => `${(bytes / GIB).toFixed(1)} GiB`;
