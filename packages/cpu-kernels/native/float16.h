// Conversions between float32 and the two 16-bit formats, one value at a time. All are exact or round to nearest even.
//
// This header, like every header that the per-instruction-set files include, keeps everything in an unnamed namespace: the
// same inline function compiled with different instruction sets must never be merged by the linker.
#ifndef MAGICPIG_CPU_FLOAT16_H_
#define MAGICPIG_CPU_FLOAT16_H_

#include <stdint.h>
#include <string.h>

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace magicpig::cpu {
namespace {

inline uint32_t BitsOf(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float FromBits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

inline float Bf16ToFloat(uint16_t x) { return FromBits(static_cast<uint32_t>(x) << 16); }

// Round to nearest even; NaN stays NaN (quiet).
inline uint16_t FloatToBf16(float x) {
  const uint32_t bits = BitsOf(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t nan = (bits >> 16) | 0x40u;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

inline float RoundToBf16(float x) { return Bf16ToFloat(FloatToBf16(x)); }

inline float F16ToFloat(uint16_t x) {
#if defined(__F16C__)
  return _cvtsh_ss(x);
#else
  const uint32_t sign = static_cast<uint32_t>(x & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(x & 0x7fffu) << 13;  // exponent and mantissa at float32's places
  if (magnitude >= 0x7c00u << 13) return FromBits(sign | 0x7f800000u | (magnitude & 0x7fffffu));  // infinity, NaN
  // Multiplying by 2^112 rebiases the exponent and makes subnormal halves normal; it is exact.
  return FromBits(sign | BitsOf(FromBits(magnitude) * 0x1p112f));
#endif
}

// Round to nearest even; too large becomes infinity.
inline uint16_t FloatToF16(float x) {
#if defined(__F16C__)
  return static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT));
#else
  const uint32_t bits = BitsOf(x);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);   // NaN
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to 65536 or more
  if (magnitude < 0x38800000u) {
    // Subnormal: adding 1/2 leaves the value in units of 2^-24 in the mantissa, rounded by the addition.
    return static_cast<uint16_t>(sign | (BitsOf(FromBits(magnitude) + 0.5f) - BitsOf(0.5f)));
  }
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
  return static_cast<uint16_t>(sign | ((rounded - (112u << 23)) >> 13));
#endif
}

}  // namespace
}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_FLOAT16_H_
