// What all register tiles share: a number of rows known to the compiler, and sums that go on from one part of the inputs to the
// next. See kernels_generic.h for V.
#ifndef MAGICPIG_CPU_TILES_H_
#define MAGICPIG_CPU_TILES_H_

#include "kernels.h"

namespace magicpig::cpu {
namespace {

// Calls f.template operator()<rows>() with the run-time `rows` (1..kMost) as a constant.
template <int kMost, typename F>
inline void WithRows(int rows, F&& f) {
  if constexpr (kMost == 1) {
    f.template operator()<1>();
  } else {
    if (rows == kMost) {
      f.template operator()<kMost>();
    } else {
      WithRows<kMost - 1>(rows, f);
    }
  }
}

// For each `kVectors` vectors of a panel's outputs: calls multiply(acc, first of them) with the sums so far in registers, zero for
// the first inputs, and puts them back.
template <typename V, int kRows, int kVectors, typename F>
inline void ForOutputs(const PanelPart& part, float* sums, F&& multiply) {
  constexpr size_t n = V::kLanes;
  for (size_t first = 0; first < kPanel; first += n * kVectors) {
    V acc[kRows][kVectors];
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        acc[r][v] = part.first > 0 ? V::Load(sums + r * kPanel + first + v * n) : V::Broadcast(0);
      }
    }
    multiply(acc, first);
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) acc[r][v].Store(sums + r * kPanel + first + v * n);
    }
  }
}

}  // namespace
}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_TILES_H_
