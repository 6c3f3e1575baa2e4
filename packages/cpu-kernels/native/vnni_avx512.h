// Integers of the AVX-512 paths with VNNI: groups of four bytes are multiplied and added in one instruction.
#ifndef MAGICPIG_CPU_VNNI_AVX512_H_
#define MAGICPIG_CPU_VNNI_AVX512_H_

#include "vector_avx512.h"

namespace magicpig::cpu {
namespace {

struct QVnni {
  using V = V16;
  static constexpr int kRows = 12;

  struct Input {
    int8_t q[4];
  };
  using Ints = __m512i;
  using Bytes = __m512i;

  static constexpr auto RoundToInt8 = RoundToInt8Avx512;
  static void MakeInputs(const int8_t* q, Input* inputs) { memcpy(inputs, q, kQuantBlock); }
  static Ints Splat(int32_t x) { return _mm512_set1_epi32(x); }
  static Ints ShiftLeft(Ints x, int n) { return _mm512_slli_epi32(x, n); }
  static V16 ToFloat(Ints x) { return {_mm512_cvtepi32_ps(x)}; }
  static Bytes Load(const std::byte* p) { return _mm512_loadu_si512(p); }
  static Bytes LoadLow(const std::byte* p) { return _mm512_and_si512(Load(p), _mm512_set1_epi8(15)); }
  static Bytes LoadHigh(const std::byte* p) {
    return _mm512_and_si512(_mm512_srli_epi16(Load(p), 4), _mm512_set1_epi8(15));
  }
  static Bytes LoadSix(const std::byte* nibbles, const std::byte* pairs, int i) {
    return _mm512_or_si512(i % 2 == 0 ? LoadLow(nibbles) : LoadHigh(nibbles), PairBits(Load(pairs), i));
  }
  // With the input broadcast from memory as part of the instruction, which compilers do not make of the intrinsics: a register
  // more for sums.
  static Ints Dot(Ints sum, Bytes w, const Input& x) {
    asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(w), "m"(x));
    return sum;
  }
  static Ints Opaque(Ints x) {
    asm volatile("" : "+v"(x));
    return x;
  }
};

}  // namespace
}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_VNNI_AVX512_H_
