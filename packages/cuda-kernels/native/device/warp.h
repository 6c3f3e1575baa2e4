// Reductions over a warp and over a block.
#ifndef MAGICPIG_DEVICE_WARP_H_
#define MAGICPIG_DEVICE_WARP_H_

#include "launch.h"

namespace magicpig {

__device__ __forceinline__ unsigned lane_id() { return threadIdx.x % kWarp; }
__device__ __forceinline__ unsigned warp_id() { return threadIdx.x / kWarp; }

// Sum over the 32 lanes, the same value in every lane, always added in the same order.
template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) value += __shfl_xor_sync(kAllLanes, value, lanes);
  return value;
}

// The largest over the 32 lanes, the same value in every lane.
__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, lanes));
  return value;
}
template <typename T>
__device__ __forceinline__ T warp_max(T value) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, value, lanes);
    value = value > other ? value : other;
  }
  return value;
}

// Sum over a block of whole warps, the same value in every thread. `scratch` [32] is shared memory; it may be used again
// after the next barrier.
template <typename T>
__device__ __forceinline__ T block_sum(T value, T* scratch) {
  value = warp_sum(value);
  if (lane_id() == 0) scratch[warp_id()] = value;
  __syncthreads();
  const unsigned warps = blockDim.x / kWarp;
  return warp_sum(lane_id() < warps ? scratch[lane_id()] : T{});
}

// Sum over the threads of a block of whole warps that come before this one; `total` is that over all. `scratch` [32] is shared memory;
// it may be used again after the next barrier.
template <typename T>
__device__ __forceinline__ T block_prefix(T value, T* scratch, T& total) {
  T inclusive = value;
  for (unsigned delta = 1; delta < kWarp; delta *= 2) {
    const T other = __shfl_up_sync(kAllLanes, inclusive, delta);
    if (lane_id() >= delta) inclusive += other;
  }
  if (lane_id() == kWarp - 1) scratch[warp_id()] = inclusive;
  __syncthreads();
  T before{};
  total = T{};
  for (unsigned warp = 0; warp < blockDim.x / kWarp; ++warp) {
    if (warp == warp_id()) before = total;
    total += scratch[warp];
  }
  return before + inclusive - value;
}

}  // namespace magicpig

#endif  // MAGICPIG_DEVICE_WARP_H_
