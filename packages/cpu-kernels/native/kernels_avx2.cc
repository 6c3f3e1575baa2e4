// Kernels for AVX2, FMA and F16C.
#include <immintrin.h>

#include "kernels_generic.h"

namespace magicpig::cpu {
namespace {

struct V8 {
  static constexpr size_t kLanes = 8;
  static constexpr int kRows = 6;
  static constexpr int kRegisters = 16;

  __m256 v;

  static V8 Broadcast(float x) { return {_mm256_set1_ps(x)}; }
  static V8 Load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static V8 LoadPart(const float* p, size_t n) { return {_mm256_maskload_ps(p, Mask(n))}; }
  void Store(float* p) const { _mm256_storeu_ps(p, v); }
  void StorePart(float* p, size_t n) const { _mm256_maskstore_ps(p, Mask(n), v); }
  static V8 Add(V8 a, V8 b) { return {_mm256_add_ps(a.v, b.v)}; }
  static V8 Mul(V8 a, V8 b) { return {_mm256_mul_ps(a.v, b.v)}; }
  static V8 Div(V8 a, V8 b) { return {_mm256_div_ps(a.v, b.v)}; }
  static V8 Min(V8 a, V8 b) { return {_mm256_min_ps(a.v, b.v)}; }
  static V8 Max(V8 a, V8 b) { return {_mm256_max_ps(a.v, b.v)}; }
  static V8 MulAdd(V8 a, V8 b, V8 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  static V8 Abs(V8 a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
  float Largest() const {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
  }
  static V8 LoadHalves(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  float Sum() const {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
  static V8 Even(const uint16_t* p) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), 16))};
  }
  static V8 Odd(const uint16_t* p) {
    const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    return {_mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), high))};
  }
  static V8 Round(V8 x) { return {_mm256_round_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
  static V8 ScaleByPowerOf2(V8 x, V8 n) {
    return {_mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_castps_si256(x.v), _mm256_slli_epi32(_mm256_cvtps_epi32(n.v), 23)))};
  }
  static V8 Opaque(V8 x) {
    asm volatile("" : "+x"(x.v));
    return x;
  }
  static V8 Exp(V8 x) { return ExpPolynomial(x); }

 private:
  static __m256i Mask(size_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
};

struct Q8 {
  using V = V8;
  static constexpr int kRows = 3;

  using Ints = __m256i;
  using Shorts = WeightPairs<V8>::Shorts;

  static constexpr auto RoundToInt16 = cpu::RoundToInt16;
  static Ints Splat(int32_t x) { return _mm256_set1_epi32(x); }
  static Ints ShiftLeft(Ints x, int n) { return _mm256_slli_epi32(x, n); }
  static V8 ToFloat(Ints x) { return {_mm256_cvtepi32_ps(x)}; }
  static Ints Dot(Ints sum, Shorts w, const int16_t (&x)[2]) {
    int pair;
    memcpy(&pair, x, sizeof pair);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(reinterpret_cast<__m256i>(w), _mm256_set1_epi32(pair)));
  }
  static Ints Opaque(Ints x) {
    asm volatile("" : "+x"(x));
    return x;
  }
};

}  // namespace

constinit const Kernels kAvx2Kernels = MakeKernels<V8, PairProducts<Q8>>();

}  // namespace magicpig::cpu
