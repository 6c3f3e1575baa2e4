// bfloat16: the upper half of a float32. Rounding is to nearest even everywhere.
#ifndef MAGICPIG_DEVICE_BF16_H_
#define MAGICPIG_DEVICE_BF16_H_

#include <cuda_runtime.h>

#include <bit>
#include <cstdint>

namespace magicpig {

struct bf16 {
  uint16_t bits;
};

__host__ __device__ __forceinline__ float bits_to_float(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  return std::bit_cast<float>(bits);
#endif
}

__host__ __device__ __forceinline__ uint32_t float_to_bits(float x) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(x);
#else
  return std::bit_cast<uint32_t>(x);
#endif
}

__host__ __device__ __forceinline__ float to_float(bf16 x) { return bits_to_float(uint32_t{x.bits} << 16); }

// Two bf16 in one register, `low` in the lower half: the first of two neighbours in memory.
__host__ __device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
#if defined(__CUDA_ARCH__)
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
#else
  const auto round = [](float x) -> uint32_t {
    const uint32_t bits = float_to_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fffu;  // what the GPU's conversion makes of a NaN
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  };
  return round(low) | round(high) << 16;
#endif
}

__host__ __device__ __forceinline__ bf16 to_bf16(float x) {
  return {static_cast<uint16_t>(pack_bf16(x, 0.0f) & 0xffffu)};
}

__host__ __device__ __forceinline__ float low_bf16(uint32_t packed) { return bits_to_float(packed << 16); }
__host__ __device__ __forceinline__ float high_bf16(uint32_t packed) { return bits_to_float(packed & 0xffff0000u); }

}  // namespace magicpig

#endif  // MAGICPIG_DEVICE_BF16_H_
