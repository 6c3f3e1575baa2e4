export type { Ceilings } from './ceilings.js';
export { CpuBackend, type CpuBackendOptions } from './cpu-backend.js';
export { type CpuInfo, cpuInfo, type Isa } from './cpu-info.js';
export {
  CpuKernelsError,
  type CpuKernelsErrorCode,
  DisposedError,
  InvalidArgumentError,
  MapFileError,
  NativeLoadError,
  OutOfMemoryError,
} from './errors.js';
export type { LinearOptions } from './linear-options.js';
export { logSumExp } from './log-sum-exp.js';
export { type MappedFile, mapFile } from './map-file.js';
export { OperatorProfile, type ProfileCall, type ProfileEntry } from './operator-profile.js';
export type { Tensor } from './tensor.js';
export type { SourceType, Weight, WeightFormat, WeightSource } from './weight.js';
