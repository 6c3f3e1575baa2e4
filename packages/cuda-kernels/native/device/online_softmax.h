// The softmax of FlashAttention, over scores that arrive in tiles, on accumulator fragments of the matrix units. Each lane
// holds two rows (fragment_row(lane, 0) and + 8); the four lanes of a group share them.
#ifndef MAGICPIG_DEVICE_ONLINE_SOFTMAX_H_
#define MAGICPIG_DEVICE_ONLINE_SOFTMAX_H_

#include "bf16.h"
#include "warp.h"

namespace magicpig {

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;
constexpr float kInfinity = __builtin_inff();

__device__ __forceinline__ float group_sum(float x) {
  x += __shfl_xor_sync(kAllLanes, x, 1);
  return x + __shfl_xor_sync(kAllLanes, x, 2);
}
__device__ __forceinline__ float group_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}

// 2^x by the special function unit, within 2 units in the last place; what is below 2^-126 becomes 0.
__device__ __forceinline__ float fast_exp2(float x) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return exp2f(x);
#endif
}

struct OnlineSoftmax {
  float largest[2] = {-kInfinity, -kInfinity};  // of the scores so far, in units of log 2; the same in a whole group
  float sum[2] = {0.0f, 0.0f};                  // this lane's share of the denominator

  // Turns one tile's scores [16][8 kTiles], times `scale` (which includes log2 e; masked ones are -infinity), into weights, and
  // returns in `shrink` what everything accumulated so far is to be multiplied by.
  template <int kTiles>
  __device__ __forceinline__ void update(float (&scores)[kTiles][4], float scale, float (&shrink)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float tile_max = -kInfinity;
#pragma unroll
      for (int j = 0; j < kTiles; ++j) tile_max = fmaxf(tile_max, fmaxf(scores[j][2 * half], scores[j][2 * half + 1]));
      const float now = fmaxf(largest[half], group_max(tile_max) * scale);
      const float pivot = now == -kInfinity ? 0.0f : now;  // nothing seen yet: all weights become 0, not NaN
      shrink[half] = fast_exp2(largest[half] - pivot);
      largest[half] = now;
      float total = 0.0f;
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          scores[j][e] = fast_exp2(fmaf(scores[j][e], scale, -pivot));
          total += scores[j][e];
        }
      }
      sum[half] = sum[half] * shrink[half] + total;
    }
  }
};

// The A operand of weights x values for keys 16 block .. 16 block + 15 of a tile: two neighbouring accumulator tiles are exactly
// its two halves.
template <int kTiles>
__device__ __forceinline__ void weights_operand(uint32_t (&a)[4], const float (&weights)[kTiles][4], int block) {
  a[0] = pack_bf16(weights[2 * block][0], weights[2 * block][1]);
  a[1] = pack_bf16(weights[2 * block][2], weights[2 * block][3]);
  a[2] = pack_bf16(weights[2 * block + 1][0], weights[2 * block + 1][1]);
  a[3] = pack_bf16(weights[2 * block + 1][2], weights[2 * block + 1][3]);
}

}  // namespace magicpig

#endif  // MAGICPIG_DEVICE_ONLINE_SOFTMAX_H_
