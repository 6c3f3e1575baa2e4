// Products with quantised weights in register tiles. See kernels_generic.h for Q.
#ifndef MAGICPIG_CPU_MULTIPLY_QUANTISED_H_
#define MAGICPIG_CPU_MULTIPLY_QUANTISED_H_

#include <string.h>

#include "tiles.h"

namespace magicpig::cpu {
namespace {

// Four quantised weights of each of V's outputs as 16-bit integers: first and third, second and fourth.
template <typename V>
struct WeightPairs {
  typedef uint16_t Shorts __attribute__((vector_size(4 * V::kLanes)));
  Shorts even, odd;

  static WeightPairs Bytes(const std::byte* p) {
    const Shorts pairs = Load(p);
    return {pairs & 255, pairs >> 8};
  }
  // The low or the high four bits of each byte.
  static WeightPairs Nibbles(const std::byte* p, int half) {
    const Shorts pairs = Load(p) >> (4 * half);
    return {pairs & 15, pairs >> 8 & 15};
  }
  // Six bits, of group i of the four that share the pairs of bits.
  static WeightPairs Six(const std::byte* nibbles, const std::byte* pairs, int i) {
    const WeightPairs low = Nibbles(nibbles, i % 2);
    const Shorts high = Load(pairs) >> (2 * i);
    return {low.even | (high & 3) << 4, low.odd | (high >> 8 & 3) << 4};
  }

 private:
  static Shorts Load(const std::byte* p) {
    Shorts pairs;
    memcpy(&pairs, p, sizeof pairs);
    return pairs;
  }
};

// Q for instructions that multiply 16-bit integers and add two products, which P has: P::Dot(sum, shorts, pair of inputs).
template <typename P>
struct PairProducts : P {
  using typename P::Ints;
  using Weights = WeightPairs<typename P::V>;
  using Sum = Ints;

  struct Inputs {
    int16_t even[2];  // first and third
    int16_t odd[2];   // second and fourth
  };

  static Sum Start(int32_t value, int shift) { return P::ShiftLeft(P::Splat(value), shift); }
  static Sum Add(Sum sum, const Weights& weights, const Inputs& inputs) {
    return P::Dot(P::Dot(sum, weights.even, inputs.even), weights.odd, inputs.odd);
  }
  static Ints Total(Sum sum) { return sum; }
  static BlockTotals Pack(const float* values, float inverse, size_t stride, Inputs* inputs) {
    int16_t q[kQuantBlock];
    const BlockTotals totals = {P::RoundToInt16(values, inverse, q),
                                P::RoundToInt16(values + kQuantBlock / 2, inverse, q + kQuantBlock / 2)};
    for (const int16_t* four = q; four < q + kQuantBlock; four += 4, inputs += stride) {
      *inputs = {{four[0], four[2]}, {four[1], four[3]}};
    }
    return totals;
  }
};

// Rows that products of decoding steps have, about.
inline constexpr int kDecodeRows = 4;

// Adds to the sums what the inputs of part kPart of kParts of a block make: a scale each.
template <typename Q, int kRows, PanelFormat kFormat, int kPart, int kParts, int kVectors>
inline void MultiplyBlockPart(const std::byte* block, const typename Q::Inputs* inputs, const QuantScale* scales,
                              typename Q::V (&acc)[kRows][kVectors]) {
  using V = typename Q::V;
  using Weights = typename Q::Weights;
  constexpr size_t n = V::kLanes;
  constexpr size_t kGroupBytes = 4 * kHalfPanel;
  constexpr bool kMin = kFormat == PanelFormat::kQ4Min;
  // What is subtracted from q, as a power of two: its product with the sum of the activations is known beforehand.
  constexpr int kOffsetBits = kFormat == PanelFormat::kQ8 ? 7 : kFormat == PanelFormat::kQ6 ? 5 : 3;
  // Few rows wait for memory. Processors foresee the stream, but not far enough where a block is small for its arithmetic:
  // 4-bit weights came at 85% of the memory's speed, and at 96% with this.
  if constexpr (kRows <= kDecodeRows) {
    constexpr size_t kAhead = 4096;  // bytes
    for (size_t line = 0; line < QuantBlockBytes(kFormat); line += 64) __builtin_prefetch(block + kAhead + line);
  }
  typename Q::Sum dots[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    const int32_t* totals = scales[r].negative_totals;
    const int32_t total = kMin ? 0 : kParts == 2 ? totals[kPart] : totals[0] + totals[1];
    for (int v = 0; v < kVectors; ++v) dots[r][v] = Q::Start(total, kOffsetBits);
  }
#pragma GCC unroll 8
  for (int group = 8 / kParts * kPart; group < 8 / kParts * (kPart + 1); ++group) {
    for (int v = 0; v < kVectors; ++v) {
      const std::byte* bytes = block + v * 4 * n + (kFormat == PanelFormat::kQ8 ? group : group / 2) * kGroupBytes;
      Weights weights;
      if constexpr (kFormat == PanelFormat::kQ8) {
        weights = Weights::Bytes(bytes);
      } else if constexpr (kFormat == PanelFormat::kQ6) {
        weights = Weights::Six(bytes, block + v * 4 * n + (4 + kPart) * kGroupBytes, group % 4);
      } else {
        weights = Weights::Nibbles(bytes, group % 2);
      }
      for (int r = 0; r < kRows; ++r) dots[r][v] = Q::Add(dots[r][v], weights, inputs[group * kRows + r]);
    }
  }
  constexpr size_t kScales = QuantBlockBytes(kFormat) - 2 * kHalfPanel * (kMin ? 2 : kParts);
  const auto* halves = reinterpret_cast<const uint16_t*>(block + kScales) + kPart * kHalfPanel;
  for (int v = 0; v < kVectors; ++v) {
    const V scale = V::LoadHalves(halves + v * n);
    for (int r = 0; r < kRows; ++r) {
      acc[r][v] = V::MulAdd(V::Mul(Q::ToFloat(Q::Total(dots[r][v])), scale), V::Broadcast(scales[r].scale), acc[r][v]);
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
  constexpr int kVectors = kHalfPanel / V::kLanes;
  ForOutputs<V, kRows, kVectors>(part, sums, [&](V(&acc)[kRows][kVectors], size_t first) {
    const std::byte* x = tile;
    const std::byte* block =
        part.panel + (first / kHalfPanel * part.cols + part.first) / kQuantBlock * QuantBlockBytes(kFormat);
    for (size_t k = 0; k < part.count; k += kQuantBlock, block += QuantBlockBytes(kFormat)) {
      const auto* inputs = reinterpret_cast<const typename Q::Inputs*>(x);
      x += 8 * kRows * sizeof(typename Q::Inputs);
      const auto* scales = reinterpret_cast<const QuantScale*>(x);
      x += kRows * sizeof(QuantScale);
      if constexpr (kFormat == PanelFormat::kQ6) {
        MultiplyBlockPart<Q, kRows, kFormat, 0, 2>(block, inputs, scales, acc);
        MultiplyBlockPart<Q, kRows, kFormat, 1, 2>(block, inputs, scales, acc);
      } else {
        MultiplyBlockPart<Q, kRows, kFormat, 0, 1>(block, inputs, scales, acc);
      }
    }
  });
}

template <typename Q, PanelFormat kFormat>
void MultiplyQuantised(const std::byte* tile, int rows, const PanelPart& part, float* sums) {
  WithRows<Q::kRows>(rows, [&]<int kRows>() { MultiplyQuantised<Q, kRows, kFormat>(tile, part, sums); });
}

}  // namespace
}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_MULTIPLY_QUANTISED_H_
