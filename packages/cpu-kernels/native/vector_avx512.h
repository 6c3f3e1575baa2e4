// The vector types of the AVX-512 paths.
#ifndef MAGICPIG_CPU_VECTOR_AVX512_H_
#define MAGICPIG_CPU_VECTOR_AVX512_H_

#include <immintrin.h>

#include "kernels_generic.h"

namespace magicpig::cpu {
namespace {

struct V16 {
  static constexpr size_t kLanes = 16;
  static constexpr int kRows = 12;
  static constexpr int kRegisters = 32;

  __m512 v;

  static V16 Broadcast(float x) { return {_mm512_set1_ps(x)}; }
  static V16 Load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static V16 LoadPart(const float* p, size_t n) { return {_mm512_maskz_loadu_ps(Mask(n), p)}; }
  void Store(float* p) const { _mm512_storeu_ps(p, v); }
  void StorePart(float* p, size_t n) const { _mm512_mask_storeu_ps(p, Mask(n), v); }
  static V16 Add(V16 a, V16 b) { return {_mm512_add_ps(a.v, b.v)}; }
  static V16 Mul(V16 a, V16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
  static V16 Div(V16 a, V16 b) { return {_mm512_div_ps(a.v, b.v)}; }
  static V16 Min(V16 a, V16 b) { return {_mm512_min_ps(a.v, b.v)}; }
  static V16 Max(V16 a, V16 b) { return {_mm512_max_ps(a.v, b.v)}; }
  static V16 MulAdd(V16 a, V16 b, V16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  static V16 Abs(V16 a) { return {_mm512_abs_ps(a.v)}; }
  float Largest() const { return _mm512_reduce_max_ps(v); }
  static V16 LoadHalves(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  float Sum() const { return _mm512_reduce_add_ps(v); }
  static V16 Even(const uint16_t* p) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16))}; }
  static V16 Odd(const uint16_t* p) {
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), high))};
  }
  static V16 Round(V16 x) {
    return {_mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  static V16 ScaleByPowerOf2(V16 x, V16 n) { return {_mm512_scalef_ps(x.v, n.v)}; }
  static V16 Opaque(V16 x) {
    asm volatile("" : "+v"(x.v));
    return x;
  }
  static V16 Exp(V16 x) { return ExpPolynomial(x); }

 private:
  static __mmask16 Mask(size_t n) { return static_cast<__mmask16>((1u << n) - 1); }
};

// Integers without VNNI.
struct Q16 {
  using V = V16;
  static constexpr int kRows = 10;

  using Ints = __m512i;
  using Shorts = WeightPairs<V16>::Shorts;

  static int32_t RoundToInt16(const float* values, float inverse, int16_t* q) {
    const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(values), _mm512_set1_ps(inverse)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), _mm512_cvtepi32_epi16(rounded));
    return _mm512_reduce_add_epi32(rounded);
  }
  static Ints Splat(int32_t x) { return _mm512_set1_epi32(x); }
  static Ints ShiftLeft(Ints x, int n) { return _mm512_slli_epi32(x, n); }
  static V16 ToFloat(Ints x) { return {_mm512_cvtepi32_ps(x)}; }
  static Ints Dot(Ints sum, Shorts w, const int16_t (&x)[2]) {
    int pair;
    memcpy(&pair, x, sizeof pair);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(reinterpret_cast<__m512i>(w), _mm512_set1_epi32(pair)));
  }
  static Ints Opaque(Ints x) {
    asm volatile("" : "+v"(x));
    return x;
  }
};

}  // namespace
}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_VECTOR_AVX512_H_
