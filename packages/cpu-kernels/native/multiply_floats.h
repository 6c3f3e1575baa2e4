// Products with float32 and bfloat16 weights in register tiles. See kernels_generic.h for V.
#ifndef MAGICPIG_CPU_MULTIPLY_FLOATS_H_
#define MAGICPIG_CPU_MULTIPLY_FLOATS_H_

#include "tiles.h"

namespace magicpig::cpu {
namespace {

// Vectors of outputs that a tile of so many rows takes at a time: as many as the registers hold, with the weights and one input.
template <typename V>
constexpr int TileVectors(int rows) {
  int vectors = static_cast<int>(kPanel / V::kLanes);
  while (vectors > 1 && rows * vectors + vectors + 1 > V::kRegisters) vectors /= 2;
  return vectors;
}

// acc[r] += weights x[r].
template <typename V, int kRows, int kVectors>
inline void MulAddRows(V (&acc)[kRows][kVectors], const V (&weights)[kVectors], const float* x) {
  for (int r = 0; r < kRows; ++r) {
    const V input = V::Broadcast(x[r]);
    for (int v = 0; v < kVectors; ++v) acc[r][v] = V::MulAdd(weights[v], input, acc[r][v]);
  }
}

// float32 weights.
template <typename V, int kRows>
void MultiplyF32(const float* tile, const PanelPart& part, float* sums) {
  constexpr int kVectors = TileVectors<V>(kRows);
  ForOutputs<V, kRows, kVectors>(part, sums, [&](V(&acc)[kRows][kVectors], size_t first) {
    const float* x = tile;
    const float* w = reinterpret_cast<const float*>(part.panel) + part.first * kPanel + first;
    for (size_t k = 0; k < part.count; ++k, x += kRows, w += kPanel) {
      V weights[kVectors];
      for (int v = 0; v < kVectors; ++v) weights[v] = V::Load(w + v * V::kLanes);
      MulAddRows(acc, weights, x);
    }
  });
}

// bfloat16 weights widened to float32, for processors that do not multiply bfloat16.
template <typename V, int kRows>
void MultiplyBf16(const float* tile, const PanelPart& part, float* sums) {
  constexpr int kVectors = TileVectors<V>(kRows);
  ForOutputs<V, kRows, kVectors>(part, sums, [&](V(&acc)[kRows][kVectors], size_t first) {
    const float* x = tile;
    const uint16_t* w = reinterpret_cast<const uint16_t*>(part.panel) + part.first * kPanel + 2 * first;
    for (size_t k = 0; k < part.count; k += 2, x += 2 * kRows, w += 2 * kPanel) {
      V weights[kVectors];
      for (int v = 0; v < kVectors; ++v) weights[v] = V::Even(w + 2 * v * V::kLanes);
      MulAddRows(acc, weights, x);
      for (int v = 0; v < kVectors; ++v) weights[v] = V::Odd(w + 2 * v * V::kLanes);
      MulAddRows(acc, weights, x + kRows);
    }
  });
}

template <typename V>
void MultiplyF32(const std::byte* tile, int rows, const PanelPart& part, float* sums) {
  WithRows<V::kRows>(
      rows, [&]<int kRows>() { MultiplyF32<V, kRows>(reinterpret_cast<const float*>(tile), part, sums); });
}

template <typename V>
void MultiplyBf16(const std::byte* tile, int rows, const PanelPart& part, float* sums) {
  WithRows<V::kRows>(
      rows, [&]<int kRows>() { MultiplyBf16<V, kRows>(reinterpret_cast<const float*>(tile), part, sums); });
}

}  // namespace
}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_MULTIPLY_FLOATS_H_
