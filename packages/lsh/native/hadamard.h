// Structured projections: random rotations by three sign flips and fast Hadamard transforms each (Andoni et al., "Practical
// and Optimal LSH for Angular Distance", 2015). Included by the file of each instruction set; GCC's vector type becomes
// whatever registers that has.
#ifndef MAGICPIG_LSH_HADAMARD_H_
#define MAGICPIG_LSH_HADAMARD_H_

#include <cstddef>
#include <cstdint>

#include "kernels.h"

namespace magicpig::lsh {
namespace {

// One coordinate of kLanes vectors. A transform over coordinates then needs no shuffles.
using Lanes = int16_t __attribute__((vector_size(kLanes * sizeof(int16_t)), may_alias));

// Butterflies over 2^kLog elements. Two stages double the norm, so the pair ends in a shift; a single last stage is
// shifted if kShift.
template <int kLog, bool kShift>
[[gnu::always_inline]] inline void Butterflies(Lanes* v) {
#pragma GCC unroll 4
  for (int stage = 0; stage < kLog; ++stage) {
    const bool shift = stage % 2 == 1 || (stage + 1 == kLog && kShift);
    const int half = 1 << stage;
#pragma GCC unroll 16
    for (int i = 0; i < 1 << kLog; ++i) {
      if (i & half) continue;
      const Lanes sum = v[i] + v[i + half], difference = v[i] - v[i + half];
      v[i] = shift ? sum >> 1 : sum;
      v[i + half] = shift ? difference >> 1 : difference;
    }
  }
}

// One pass over all elements: flips the signs where `flips` is given (+1 or -1 for each element), then transforms groups of
// 2^kLog elements `stride` apart. kStride is the same where it is known, or 0: a group's addresses then are one and constants.
template <int kLog, bool kShift, bool kFlip, size_t kStride>
void Pass(const Lanes* from, Lanes* to, size_t size, size_t stride, const int16_t* flips) {
  constexpr size_t kGroup = size_t{1} << kLog;
  if (kStride != 0) stride = kStride;
  for (size_t base = 0; base < size; base += kGroup * stride) {
    for (size_t i = base; i < base + stride; ++i) {
      Lanes v[kGroup];
#pragma GCC unroll 16
      for (size_t r = 0; r < kGroup; ++r) v[r] = kFlip ? from[i + r * stride] * flips[i + r * stride] : from[i + r * stride];
      Butterflies<kLog, kShift>(v);
#pragma GCC unroll 16
      for (size_t r = 0; r < kGroup; ++r) to[i + r * stride] = v[r];
    }
  }
}

// One rotation: `to` = H diag(flips) `from`, scaled by a power of two. The passes take four stages each, and the last what is
// left.
template <bool kShift>
void Rotate(const Lanes* from, Lanes* to, size_t size, const int16_t* flips) {
  size_t stride = size / 16;
  const auto first = stride == 4 ? Pass<4, false, true, 4> : stride == 8 ? Pass<4, false, true, 8> : Pass<4, false, true, 0>;
  first(from, to, size, stride, flips);
  for (; stride >= 16; stride /= 16) Pass<4, false, false, 0>(to, to, size, stride / 16, nullptr);
  switch (stride) {
    case 2: return Pass<1, kShift, false, 1>(to, to, size, 1, nullptr);
    case 4: return Pass<2, kShift, false, 1>(to, to, size, 1, nullptr);
    case 8: return Pass<3, kShift, false, 1>(to, to, size, 1, nullptr);
  }
}

inline void Hadamard(const int16_t* x, size_t size, const int16_t* flips, uint32_t bits, uint32_t tables, int16_t* space,
                     uint16_t* codes) {
  using Bits = uint16_t __attribute__((vector_size(kLanes * sizeof(uint16_t)), may_alias));
  auto* out = reinterpret_cast<Bits*>(codes);
  auto* y = reinterpret_cast<Lanes*>(space);
  for (uint32_t t = 0; t < tables; ++t) out[t] = Bits{};
  const size_t projections = size_t{bits} * tables;
  uint32_t bit = 0, table = 0;
  for (size_t first = 0; first < projections; first += size, flips += 3 * size) {
    Rotate<false>(reinterpret_cast<const Lanes*>(x), y, size, flips);
    Rotate<true>(y, y, size, flips + size);
    Rotate<false>(y, y, size, flips + 2 * size);
    const size_t end = projections - first < size ? projections - first : size;
    for (size_t i = 0; i < end;) {
      // Up to the last table, all coordinates are the same bit of their tables' codes.
      const size_t run = end - i < tables - table ? end - i : tables - table;
      const auto weight = static_cast<uint16_t>(1u << bit);
      for (size_t k = 0; k < run; ++k) out[table + k] |= reinterpret_cast<Bits>(y[i + k] > 0) & weight;
      i += run;
      table += static_cast<uint32_t>(run);
      if (table == tables) table = 0, ++bit;
    }
  }
}

}  // namespace
}  // namespace magicpig::lsh

#endif  // MAGICPIG_LSH_HADAMARD_H_
