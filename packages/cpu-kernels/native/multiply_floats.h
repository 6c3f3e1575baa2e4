// Products with float32 and bfloat16 weights in register tiles. See kernels_generic.h for V.
#ifndef MAGICPIG_CPU_MULTIPLY_FLOATS_H_
#define MAGICPIG_CPU_MULTIPLY_FLOATS_H_

#include "tile_rows.h"

namespace magicpig::cpu {
namespace {

// Vectors of outputs that a tile of so many rows takes at a time: as many as the registers hold, with the weights and one input.
template <typename V>
constexpr int TileVectors(int rows) {
  int vectors = static_cast<int>(kPanel / V::kLanes);
  while (vectors > 1 && rows * vectors + vectors + 1 > V::kRegisters) vectors /= 2;
  return vectors;
}

// float32 weights.
template <typename V, int kRows>
void MultiplyF32(const float* tile, const PanelPart& part, float* sums) {
  const float* panel = reinterpret_cast<const float*>(part.panel) + part.first * kPanel;
  constexpr size_t n = V::kLanes;
  constexpr int vectors = TileVectors<V>(kRows);
  for (size_t first = 0; first < kPanel; first += n * vectors) {
    V acc[kRows][vectors];
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < vectors; ++v) {
        acc[r][v] = part.first > 0 ? V::Load(sums + r * kPanel + first + v * n) : V::Broadcast(0);
      }
    }
    const float* x = tile;
    const float* w = panel + first;
    for (size_t k = 0; k < part.count; ++k, x += kRows, w += kPanel) {
      V weights[vectors];
      for (int v = 0; v < vectors; ++v) weights[v] = V::Load(w + v * n);
      for (int r = 0; r < kRows; ++r) {
        const V input = V::Broadcast(x[r]);
        for (int v = 0; v < vectors; ++v) acc[r][v] = V::MulAdd(weights[v], input, acc[r][v]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < vectors; ++v) acc[r][v].Store(sums + r * kPanel + first + v * n);
    }
  }
}

// bfloat16 weights widened to float32, for processors that do not multiply bfloat16.
template <typename V, int kRows>
void MultiplyBf16(const float* tile, const PanelPart& part, float* sums) {
  const uint16_t* panel = reinterpret_cast<const uint16_t*>(part.panel) + part.first * kPanel;
  constexpr size_t n = V::kLanes;
  constexpr int vectors = TileVectors<V>(kRows);
  for (size_t first = 0; first < kPanel; first += n * vectors) {
    V acc[kRows][vectors];
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < vectors; ++v) {
        acc[r][v] = part.first > 0 ? V::Load(sums + r * kPanel + first + v * n) : V::Broadcast(0);
      }
    }
    const float* x = tile;
    const uint16_t* w = panel + 2 * first;
    for (size_t k = 0; k < part.count; k += 2, x += 2 * kRows, w += 2 * kPanel) {
      V weights[vectors];
      for (int v = 0; v < vectors; ++v) weights[v] = V::Even(w + 2 * v * n);
      for (int r = 0; r < kRows; ++r) {
        const V input = V::Broadcast(x[r]);
        for (int v = 0; v < vectors; ++v) acc[r][v] = V::MulAdd(weights[v], input, acc[r][v]);
      }
      for (int v = 0; v < vectors; ++v) weights[v] = V::Odd(w + 2 * v * n);
      for (int r = 0; r < kRows; ++r) {
        const V input = V::Broadcast(x[kRows + r]);
        for (int v = 0; v < vectors; ++v) acc[r][v] = V::MulAdd(weights[v], input, acc[r][v]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < vectors; ++v) acc[r][v].Store(sums + r * kPanel + first + v * n);
    }
  }
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
