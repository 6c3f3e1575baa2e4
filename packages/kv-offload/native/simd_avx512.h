// The vector interface of simd_portable.h with AVX-512 (F, BW, DQ, VL).
#ifndef MAGICPIG_KV_SIMD_AVX512_H_
#define MAGICPIG_KV_SIMD_AVX512_H_

#include <immintrin.h>

#include <cstdint>

namespace magicpig::kv {
namespace {  // each source file has its own

struct Avx512 {
  static constexpr int kLanes = 16;
  static constexpr int kRegisters = 16;
  static constexpr int kTileRows = 6;
  static constexpr int kTileVectors = 4;
  using F = __m512;

  static F Set1(float x) { return _mm512_set1_ps(x); }
  static F Zero() { return _mm512_setzero_ps(); }
  static F Load(const float* p) { return _mm512_loadu_ps(p); }
  static void Store(float* p, F a) { _mm512_storeu_ps(p, a); }
  static F LoadBf16(const void* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p))), 16));
  }
  // The first 8 lanes; zeros above. Rows whose length is an odd multiple of 8 end with them.
  static F LoadHalf(const float* p) { return _mm512_maskz_loadu_ps(0x00ff, p); }
  static F LoadBf16Half(const void* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_zextsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(p)))), 16));
  }
  static F LoadF16(const void* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p))); }
  static F LoadF16Half(const void* p) {
    return _mm512_cvtph_ps(_mm256_zextsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(p))));
  }
  static F LoadInt8(const void* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
  }
  static F LoadInt8Half(const void* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
  }
  static F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static F Sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F Fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F Max(F a, F b) { return _mm512_max_ps(a, b); }
  static F Min(F a, F b) { return _mm512_min_ps(a, b); }
  static F ZeroBelow(F a, F x, float limit) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(limit), _CMP_GE_OQ), a);
  }
  static F Round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F Exp2(F a) { return _mm512_scalef_ps(_mm512_set1_ps(1.0f), a); }
  static float Sum(F a) { return _mm512_reduce_add_ps(a); }
  static float Largest(F a) { return _mm512_reduce_max_ps(a); }
  // A transpose that adds on its way: each step halves the number of vectors, and one shuffle and two blends an addition
  // (not two shuffles) keep it off the two shuffle ports.
  static F SumEach(const F* a) {
    F b[8], c[4], d[2];
    for (int i = 0; i < 8; ++i) {  // lanes of four: [a_i, a_i, a_(i+8), a_(i+8)]
      b[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a[i], a[i + 8], 0x4e), _mm512_mask_blend_ps(0xff00, a[i], a[i + 8]));
    }
    for (int i = 0; i < 4; ++i) {  // lane l holds a_(i + 4 l)
      const F crossed = _mm512_mask_blend_ps(0xf0f0, b[i + 4], b[i]);
      c[i] = _mm512_add_ps(_mm512_mask_blend_ps(0xf0f0, b[i], b[i + 4]), _mm512_shuffle_f32x4(crossed, crossed, 0xb1));
    }
    for (int i = 0; i < 2; ++i) {  // within lane l: [a_(i+4l), a_(i+4l), a_(i+2+4l), a_(i+2+4l)]
      d[i] = _mm512_add_ps(_mm512_shuffle_ps(c[i], c[i + 2], 0x4e), _mm512_mask_blend_ps(0xcccc, c[i], c[i + 2]));
    }
    return _mm512_add_ps(_mm512_mask_blend_ps(0xaaaa, d[0], d[1]),
                         _mm512_permute_ps(_mm512_mask_blend_ps(0xaaaa, d[1], d[0]), 0xb1));
  }
  static F Gather(const float* base, const uint32_t* index) {
    return _mm512_i32gather_ps(_mm512_loadu_si512(index), base, 4);
  }
  static F Interpolate(const float* table, uint32_t size, F x) {
    const __m512i low = _mm512_min_epi32(_mm512_cvttps_epi32(x), _mm512_set1_epi32(static_cast<int32_t>(size) - 2));
    // Both neighbours in one load, as a double: a gather takes as long as it has lanes.
    const F first = _mm512_castpd_ps(_mm512_i32gather_pd(_mm512_castsi512_si256(low), table, 4));
    const F second = _mm512_castpd_ps(_mm512_i32gather_pd(_mm512_extracti64x4_epi64(low, 1), table, 4));
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const F a = _mm512_permutex2var_ps(first, even, second);
    const F b = _mm512_permutex2var_ps(first, _mm512_add_epi32(even, _mm512_set1_epi32(1)), second);
    return Fma(Sub(b, a), Sub(x, _mm512_cvtepi32_ps(low)), a);
  }
};

}  // namespace
}  // namespace magicpig::kv

#endif  // MAGICPIG_KV_SIMD_AVX512_H_
