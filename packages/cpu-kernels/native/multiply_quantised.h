// Products with quantised weights in register tiles. See kernels_generic.h for Q.
#ifndef MAGICPIG_CPU_MULTIPLY_QUANTISED_H_
#define MAGICPIG_CPU_MULTIPLY_QUANTISED_H_

#include "tile_rows.h"

namespace magicpig::cpu {
namespace {

// Adds to the sums what the inputs of part kPart of kParts of a block make: a scale each.
template <typename Q, int kRows, PanelFormat kFormat, int kPart, int kParts, int kVectors>
inline void MultiplyBlockPart(const std::byte* block, const QuantInputs* inputs, const QuantScale* scales,
                              typename Q::V (&acc)[kRows][kVectors]) {
  using V = typename Q::V;
  using Ints = typename Q::Ints;
  constexpr size_t n = V::kLanes;
  constexpr size_t kGroupBytes = 4 * kHalfPanel;
  constexpr bool kMin = kFormat == PanelFormat::kQ4Min;
  // What is subtracted from q, as a power of two: its product with the sum of the activations is known beforehand.
  constexpr int kOffsetBits = kFormat == PanelFormat::kQ8 ? 7 : kFormat == PanelFormat::kQ6 ? 5 : 3;
  Ints dots[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    const int32_t* totals = scales[r].negative_totals;
    const int32_t total = kMin ? 0 : kParts == 2 ? totals[kPart] : totals[0] + totals[1];
    for (int v = 0; v < kVectors; ++v) dots[r][v] = Q::ShiftLeft(Q::Splat(total), kOffsetBits);
  }
#pragma GCC unroll 8
  for (int group = 8 / kParts * kPart; group < 8 / kParts * (kPart + 1); ++group) {
    for (int v = 0; v < kVectors; ++v) {
      const std::byte* bytes = block + v * 4 * n + (kFormat == PanelFormat::kQ8 ? group : group / 2) * kGroupBytes;
      typename Q::Bytes weights;
      if constexpr (kFormat == PanelFormat::kQ8) {
        weights = Q::Load(bytes);
      } else if constexpr (kFormat == PanelFormat::kQ6) {
        weights = Q::LoadSix(bytes, block + v * 4 * n + (4 + kPart) * kGroupBytes, group % 4);
      } else {
        weights = group % 2 == 0 ? Q::LoadLow(bytes) : Q::LoadHigh(bytes);
      }
      for (int r = 0; r < kRows; ++r) dots[r][v] = Q::Dot(dots[r][v], weights, inputs[group * kRows + r]);
    }
  }
  constexpr size_t kScales = QuantBlockBytes(kFormat) - 2 * kHalfPanel * (kMin ? 2 : kParts);
  const auto* halves = reinterpret_cast<const uint16_t*>(block + kScales) + kPart * kHalfPanel;
  for (int v = 0; v < kVectors; ++v) {
    const V scale = V::LoadHalves(halves + v * n);
    for (int r = 0; r < kRows; ++r) {
      acc[r][v] = V::MulAdd(V::Mul(Q::ToFloat(dots[r][v]), scale), V::Broadcast(scales[r].scale), acc[r][v]);
    }
  }
  if constexpr (kMin) {
    for (int v = 0; v < kVectors; ++v) {
      const V min = V::LoadHalves(halves + kHalfPanel + v * n);
      for (int r = 0; r < kRows; ++r) acc[r][v] = V::MulAdd(min, V::Broadcast(scales[r].scaled_total), acc[r][v]);
    }
  }
}

template <typename Q, int kRows, PanelFormat kFormat>
void MultiplyQuantised(const std::byte* tile, const PanelPart& part, float* sums) {
  using V = typename Q::V;
  constexpr size_t n = V::kLanes;
  constexpr int vectors = kHalfPanel / n;
  for (size_t half = 0; half < 2; ++half) {
    float* const half_sums = sums + half * kHalfPanel;
    V acc[kRows][vectors];
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < vectors; ++v) {
        acc[r][v] = part.first > 0 ? V::Load(half_sums + r * kPanel + v * n) : V::Broadcast(0);
      }
    }
    const std::byte* x = tile;
    const std::byte* panel =
        part.panel + (half * part.cols + part.first) / kQuantBlock * QuantBlockBytes(kFormat);
    for (size_t k = 0; k < part.count; k += kQuantBlock) {
      const auto* inputs = reinterpret_cast<const QuantInputs*>(x);
      x += 8 * kRows * sizeof(QuantInputs);
      const auto* scales = reinterpret_cast<const QuantScale*>(x);
      x += kRows * sizeof(QuantScale);
      const auto multiply = [&]<int kPart, int kParts>() {
        MultiplyBlockPart<Q, kRows, kFormat, kPart, kParts>(panel, inputs, scales, acc);
      };
      if constexpr (kFormat == PanelFormat::kQ6) {
        multiply.template operator()<0, 2>();
        multiply.template operator()<1, 2>();
      } else {
        multiply.template operator()<0, 1>();
      }
      panel += QuantBlockBytes(kFormat);
    }
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < vectors; ++v) acc[r][v].Store(half_sums + r * kPanel + v * n);
    }
  }
}

template <typename Q, PanelFormat kFormat>
void MultiplyQuantised(const std::byte* tile, int rows, const PanelPart& part, float* sums) {
  WithRows<Q::kRows>(rows, [&]<int kRows>() { MultiplyQuantised<Q, kRows, kFormat>(tile, part, sums); });
}

}  // namespace
}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_MULTIPLY_QUANTISED_H_
