// What hashing by Hadamard rotations and key sketches share: a warp that holds one vector, element 32 j + lane in register j.
#ifndef MAGICPIG_DEVICE_ROTATION_H_
#define MAGICPIG_DEVICE_ROTATION_H_

#include "../kernels/hadamard.h"
#include "warp.h"

namespace magicpig {

__device__ __forceinline__ float load_value(const float* x) { return *x; }
__device__ __forceinline__ float load_value(const bf16* x) { return to_float(*x); }

// Adding 1.5 * 2^23 leaves the nearest integer, ties to even, in the low bits. The product is rounded first: no fused operation.
__host__ __device__ __forceinline__ int round_product(float value, float scale) {
#if defined(__CUDA_ARCH__)
  const float shifted = __fadd_rn(__fmul_rn(value, scale), 0x1.8p23f);
#else
  volatile float product = value * scale;
  volatile float shifted = product + 0x1.8p23f;
#endif
  return static_cast<int>(float_to_bits(shifted) - float_to_bits(0x1.8p23f));
}

// Sum over a vector of `values` that are products in float64, in the order of @magicpig/lsh: eight interleaved sums, then those.
// The same in every lane.
template <int kRegisters>
__device__ __forceinline__ double interleaved_sum(const double (&values)[kRegisters]) {
  double own = 0;  // of the elements that equal this lane modulo 8
#pragma unroll
  for (int j = 0; j < kRegisters; ++j) {
#pragma unroll
    for (int quarter = 0; quarter < 4; ++quarter) {
      own += __shfl_sync(kAllLanes, values[j], static_cast<int>(lane_id()) % 8 + 8 * quarter);
    }
  }
  double sum = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) sum += __shfl_sync(kAllLanes, own, i);
  return sum;
}

struct Rounding {
  bool finite, zero;  // zero: no component of 2^-100
  double norm;
};

// Rounds a vector to integers of norm kHadamardNorm; all zero when it is not finite.
template <int kRegisters>
__device__ __forceinline__ Rounding round_by_norm(int (&rounded)[kRegisters], const float (&values)[kRegisters]) {
  uint32_t largest = 0;
  double squares[kRegisters];
#pragma unroll
  for (int j = 0; j < kRegisters; ++j) {
    const uint32_t magnitude = float_to_bits(values[j]) & 0x7fffffffu;
    largest = largest > magnitude ? largest : magnitude;
    squares[j] = static_cast<double>(values[j]) * static_cast<double>(values[j]);
  }
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const uint32_t other = __shfl_xor_sync(kAllLanes, largest, lanes);
    largest = largest > other ? largest : other;
  }
  Rounding result;
  result.finite = largest < 0x7f800000u;
  result.zero = !result.finite || bits_to_float(largest) < 0x1p-100f;
  result.norm = sqrt(interleaved_sum(squares));
  const float scale = result.zero ? 0.0f : static_cast<float>(static_cast<double>(kHadamardNorm) / result.norm);
#pragma unroll
  for (int j = 0; j < kRegisters; ++j) rounded[j] = result.zero ? 0 : round_product(values[j], scale);
  return result;
}

// One block of three rotations (hadamard.h); flips [3][kRegisters]. A butterfly's partner is in another register for strides of 32
// and more, and otherwise in the lane that differs in one bit. 32-bit integers hold the 16-bit ones exactly.
template <int kRegisters>
__device__ __forceinline__ void rotate_vector(int (&v)[kRegisters], const uint32_t* flips) {
  constexpr int kSize = kRegisters * 32;
  const int lane = static_cast<int>(lane_id());
#pragma unroll
  for (int rotation = 0; rotation < kHadamardRotations; ++rotation) {
#pragma unroll
    for (int j = 0; j < kRegisters; ++j) {
      if (__ldg(flips + rotation * kRegisters + j) >> lane & 1u) v[j] = -v[j];
    }
#pragma unroll
    for (int stage = 0; stage < hadamard_stages(kSize); ++stage) {
      const int stride = hadamard_stride(kSize, stage);
      const int shift = hadamard_halves(kSize, stage, rotation == 1) ? 1 : 0;
      if (stride >= 32) {
#pragma unroll
        for (int j = 0; j < kRegisters; ++j) {
          const int partner = j + stride / 32;
          if ((j & (stride / 32)) == 0 && partner < kRegisters) {
            const int sum = v[j] + v[partner], rest = v[j] - v[partner];
            v[j] = sum >> shift;
            v[partner] = rest >> shift;
          }
        }
      } else {
#pragma unroll
        for (int j = 0; j < kRegisters; ++j) {
          const int other = __shfl_xor_sync(kAllLanes, v[j], stride);
          v[j] = ((lane & stride) != 0 ? other - v[j] : v[j] + other) >> shift;
        }
      }
    }
  }
}

}  // namespace magicpig

#endif  // MAGICPIG_DEVICE_ROTATION_H_
