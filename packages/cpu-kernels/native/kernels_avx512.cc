// Kernels for AVX-512 F, BW, DQ and VL.
#include "vector_avx512.h"

namespace magicpig::cpu {

namespace {

// As Q8 of AVX2, twice as wide.
struct Q16 {
  using V = V16;
  static constexpr int kRows = 10;

  using Input = PairInput;
  using Ints = __m512i;
  struct Bytes {
    __m512i even, odd;
  };

  static constexpr auto RoundToInt8 = RoundToInt8Avx512;
  static constexpr auto MakeInputs = MakePairInputs;
  static Ints Splat(int32_t x) { return _mm512_set1_epi32(x); }
  static Ints ShiftLeft(Ints x, int n) { return _mm512_slli_epi32(x, n); }
  static V16 ToFloat(Ints x) { return {_mm512_cvtepi32_ps(x)}; }
  static Bytes Load(const std::byte* p) { return Split(_mm512_loadu_si512(p)); }
  static Bytes LoadLow(const std::byte* p) { return Split(Nibbles(p, 0)); }
  static Bytes LoadHigh(const std::byte* p) { return Split(Nibbles(p, 1)); }
  static Bytes LoadSix(const std::byte* nibbles, const std::byte* pairs, int i) {
    return Split(_mm512_or_si512(Nibbles(nibbles, i % 2), PairBits(_mm512_loadu_si512(pairs), i)));
  }
  static Ints Dot(Ints sum, Bytes w, Input x) {
    int even, odd;
    memcpy(&even, x.even, sizeof even);
    memcpy(&odd, x.odd, sizeof odd);
    sum = _mm512_add_epi32(sum, _mm512_madd_epi16(w.even, _mm512_set1_epi32(even)));
    return _mm512_add_epi32(sum, _mm512_madd_epi16(w.odd, _mm512_set1_epi32(odd)));
  }
  static Ints Opaque(Ints x) {
    asm volatile("" : "+v"(x));
    return x;
  }

 private:
  static __m512i Nibbles(const std::byte* p, int half) {
    return _mm512_and_si512(_mm512_srli_epi16(_mm512_loadu_si512(p), 4 * half), _mm512_set1_epi8(15));
  }
  static Bytes Split(__m512i bytes) {
    return {_mm512_and_si512(bytes, _mm512_set1_epi16(255)), _mm512_srli_epi16(bytes, 8)};
  }
};

}  // namespace

constinit const Kernels kAvx512Kernels = MakeKernels<V16, Q16>();

}  // namespace magicpig::cpu
