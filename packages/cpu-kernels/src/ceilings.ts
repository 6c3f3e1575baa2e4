import type { WeightFormat } from './weight.js';

/** What the machine does at most with a backend's threads and instruction set, measured: {@link CpuBackend.ceilings}. */
export interface Ceilings {
  /** Bytes a second read in order from memory that no cache holds. */
  readBandwidth: number;
  /** Operations a second (a multiply-add is two) of the instructions that products of each weight format use. */
  operations: Record<WeightFormat, number>;
}
