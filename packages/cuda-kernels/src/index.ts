export { type Availability, availability, isAvailable } from './availability.js';
export { CudaBackend, type CudaBackendOptions } from './cuda-backend/cuda-backend.js';
export { CudaKvCache, type CudaKvCacheOptions } from './cuda-backend/cuda-kv-cache.js';
export type { CudaKvSequence } from './cuda-backend/cuda-kv-sequence.js';
export type { CudaKvStep } from './cuda-backend/cuda-kv-step.js';
export type { AttendOptions, HostCache, HostStep, KvSequence, Rows, Sampling } from './cuda-backend/host-cache.js';
export { type Segment, SegmentBuilder, type SegmentKeys, type SegmentTables } from './cuda-backend/segment-builder.js';
export { type KeySketches, SketchPool } from './cuda-backend/sketch-pool.js';
export type { AttentionTensors, StepTimes } from './cuda-backend/step-context.js';
export type { LinearOptions, Tensor, Weight, WeightFormat, WeightSource } from './cuda-backend/types.js';
export { deviceWorkingBytes, type StepShape } from './cuda-backend/working-bytes.js';
export { type CublasLtState, Device, type DeviceMemory, type DeviceOptions } from './device.js';
export { DeviceArray } from './device-array.js';
export { type DeviceProperties, listDevices } from './device-properties.js';
export type { DType, HostArray } from './dtype.js';
export {
  CudaError,
  CudaKernelsError,
  type CudaKernelsErrorCode,
  DeviceLostError,
  DisposedError,
  InvalidArgumentError,
  OutOfMemoryError,
  UnavailableError,
} from './errors.js';
export { Event } from './event.js';
export { Graph } from './graph.js';
export { add } from './kernels/add.js';
export { addRmsNorm } from './kernels/add-rms-norm.js';
export { attentionDecode, attentionDecodeWorkspace, type DecodeSizes } from './kernels/attention-decode.js';
export { attentionPrefill } from './kernels/attention-prefill.js';
export { columnMean } from './kernels/column-mean.js';
export { convert } from './kernels/convert.js';
export { copyRows } from './kernels/copy-rows.js';
export { embed } from './kernels/embed.js';
export { fillNormal } from './kernels/fill-normal.js';
export { type HashSizes, type Projection, projectionLength, SEGMENT_KEYS } from './kernels/hash-sizes.js';
export type { Heads } from './kernels/heads.js';
export { linear } from './kernels/linear.js';
export { linearGated } from './kernels/linear-gated.js';
export { mergeAttention } from './kernels/merge-attention.js';
export { rmsNorm } from './kernels/rms-norm.js';
export { rope } from './kernels/rope.js';
export { ropeSplit } from './kernels/rope-split.js';
export { ropeTable } from './kernels/rope-table.js';
export { scatterRows } from './kernels/scatter-rows.js';
export { simhash } from './kernels/simhash.js';
export { simhashProjections } from './kernels/simhash-projections.js';
export type { SketchBudget } from './kernels/sketch-budget.js';
export {
  type SketchDrawSizes,
  type SketchSample,
  sketchDraw,
  sketchDrawWorkspace,
  sketchSample,
  sketchSampleWords,
} from './kernels/sketch-draw.js';
export { sketchEncode } from './kernels/sketch-encode.js';
export { sketchFlips } from './kernels/sketch-flips.js';
export { SKETCH_PAGE, type SketchSizes, type SketchStore, sketchLengths } from './kernels/sketch-sizes.js';
export { swiglu } from './kernels/swiglu.js';
export { type TableSizes, tableBuild, tableBuildWorkspace } from './kernels/table-build.js';
export {
  packWeight,
  unpackWeight,
  type WeightKind,
  type WeightMatrix,
  type WeightSourceType,
  weightLengths,
  weightSourceBytes,
} from './kernels/weights.js';
export { type KvView, kvView, PAGE_TOKENS } from './kv-view.js';
export { PinnedArray } from './pinned-array.js';
export { Stream, type StreamOptions } from './stream.js';
