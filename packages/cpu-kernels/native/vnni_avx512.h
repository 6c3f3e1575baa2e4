// Integers of the AVX-512 paths with VNNI: pairs of products are made and added to a sum in one instruction.
#ifndef MAGICPIG_CPU_VNNI_AVX512_H_
#define MAGICPIG_CPU_VNNI_AVX512_H_

#include "vector_avx512.h"

namespace magicpig::cpu {
namespace {

struct QVnni : Q16 {
  static constexpr int kRows = 12;

  // With the input broadcast from memory as part of the instruction, which compilers do not make of the intrinsics: a register
  // more for sums.
  static Ints Dot(Ints sum, Weights w, const int16_t (&x)[2]) {
    asm("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(w), "m"(x));
    return sum;
  }
};

}  // namespace
}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_VNNI_AVX512_H_
