// Integers of the AVX-512 paths with VNNI, which multiplies unsigned and signed bytes: weights as they are, and of each input,
// 256 high + low, both signed bytes on their own. That is as many instructions as with 16-bit inputs, but none to widen weights.
#ifndef MAGICPIG_CPU_VNNI_AVX512_H_
#define MAGICPIG_CPU_VNNI_AVX512_H_

#include "vector_avx512.h"

namespace magicpig::cpu {
namespace {

struct QVnni {
  using V = V16;
  static constexpr int kRows = 8;

  struct Inputs {
    int8_t high[4];
    int8_t low[4];
  };

  struct Sum {
    __m512i high, low;
  };

  struct Weights {
    __m512i bytes;

    static Weights Bytes(const std::byte* p) { return {_mm512_loadu_si512(p)}; }
    static Weights Nibbles(const std::byte* p, int half) {
      return {_mm512_and_si512(_mm512_srli_epi16(_mm512_loadu_si512(p), 4 * half), _mm512_set1_epi8(15))};
    }
    static Weights Six(const std::byte* nibbles, const std::byte* pairs, int i) {
      const __m512i four = _mm512_loadu_si512(pairs);
      const __m512i high = i < 2 ? _mm512_slli_epi16(four, 4 - 2 * i) : _mm512_srli_epi16(four, 2 * i - 4);
      const __m512i low = Nibbles(nibbles, i % 2).bytes;
      return {_mm512_or_si512(_mm512_and_si512(high, _mm512_set1_epi8(3 << 4)), low)};
    }
  };

  static Sum Start(int32_t value, int shift) {
    return {_mm512_setzero_si512(), _mm512_slli_epi32(_mm512_set1_epi32(value), shift)};
  }
  static Sum Add(Sum sum, Weights weights, const Inputs& inputs) {
    return {Dot(sum.high, weights, inputs.high), Dot(sum.low, weights, inputs.low)};
  }
  static __m512i Total(Sum sum) { return _mm512_add_epi32(_mm512_slli_epi32(sum.high, 8), sum.low); }
  static V16 ToFloat(__m512i x) { return {_mm512_cvtepi32_ps(x)}; }
  static Sum Opaque(Sum x) {
    asm volatile("" : "+v"(x.high), "+v"(x.low));
    return x;
  }

  static BlockTotals Pack(const float* values, float inverse, size_t stride, Inputs* inputs) {
    return {PackHalf(values, inverse, stride, inputs), PackHalf(values + 16, inverse, stride, inputs + 4 * stride)};
  }

 private:
  // With the input broadcast from memory as part of the instruction, which compilers do not make of the intrinsics: a register
  // more for sums.
  static __m512i Dot(__m512i sum, Weights weights, const int8_t (&x)[4]) {
    asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(weights.bytes), "m"(x));
    return sum;
  }

  static int32_t PackHalf(const float* values, float inverse, size_t stride, Inputs* inputs) {
    const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(values), _mm512_set1_ps(inverse)));
    const __m512i low = _mm512_srai_epi32(_mm512_slli_epi32(q, 24), 24);
    const __m128i high_bytes = _mm512_cvtepi32_epi8(_mm512_srai_epi32(_mm512_sub_epi32(q, low), 8));
    const __m128i low_bytes = _mm512_cvtepi32_epi8(low);
    alignas(32) Inputs fours[4];
    _mm_store_si128(reinterpret_cast<__m128i*>(fours), _mm_unpacklo_epi32(high_bytes, low_bytes));
    _mm_store_si128(reinterpret_cast<__m128i*>(fours + 2), _mm_unpackhi_epi32(high_bytes, low_bytes));
    for (size_t i = 0; i < 4; ++i) inputs[i * stride] = fours[i];
    return _mm512_reduce_add_epi32(q);
  }
};

}  // namespace
}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_VNNI_AVX512_H_
