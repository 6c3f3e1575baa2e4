// IEEE half precision: the scales of quantised weights.
#ifndef MAGICPIG_DEVICE_HALF_H_
#define MAGICPIG_DEVICE_HALF_H_

#include "bf16.h"

namespace magicpig {

__host__ __device__ __forceinline__ float half_to_float(uint16_t half) {
#if defined(__CUDA_ARCH__)
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
  return value;
#else
  const uint32_t sign = (half & 0x8000u) << 16, magnitude = half & 0x7fffu;
  if (magnitude >= 0x7c00u) return bits_to_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // Subnormals are multiples of 2^-24.
  if (magnitude < 0x400u) return (sign != 0 ? -1.0f : 1.0f) * static_cast<float>(magnitude) * 0x1p-24f;
  return bits_to_float(sign | ((magnitude << 13) + (112u << 23)));
#endif
}

// Rounded to nearest even.
__host__ __device__ __forceinline__ uint16_t float_to_half(float value) {
#if defined(__CUDA_ARCH__)
  uint16_t half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
  return half;
#else
  const uint32_t bits = float_to_bits(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fffu;  // what the GPU's conversion makes of a NaN
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65,520 and more
  if (magnitude < 0x38800000u) {
    // Below 2^-14: adding 0.5 leaves multiples of 2^-24, rounded to even, in the low bits.
    volatile float shifted = bits_to_float(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (float_to_bits(shifted) - float_to_bits(0.5f)));
  }
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
  return static_cast<uint16_t>(sign | (rounded - (112u << 23)) >> 13);
#endif
}

}  // namespace magicpig

#endif  // MAGICPIG_DEVICE_HALF_H_
