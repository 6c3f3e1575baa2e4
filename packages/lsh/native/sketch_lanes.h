// The parts of the sketch kernels that GCC's vector types and loops say for every instruction set; included by the file of each.
#ifndef MAGICPIG_LSH_SKETCH_LANES_H_
#define MAGICPIG_LSH_SKETCH_LANES_H_

#include <cstring>

#include "hadamard.h"
#include "philox.h"
#include "sketch_kernels.h"

namespace magicpig::lsh {
namespace {

using Bytes = uint8_t __attribute__((vector_size(kLanes), may_alias));
using Wide = int32_t __attribute__((vector_size(kLanes * sizeof(int32_t))));

inline void SketchRotate(const int16_t* x, size_t size, const int16_t* flips, int16_t* y) {
  auto* to = reinterpret_cast<Lanes*>(y);
  Rotate<false>(reinterpret_cast<const Lanes*>(x), to, size, flips);
  Rotate<true>(to, to, size, flips + size);
  Rotate<false>(to, to, size, flips + 2 * size);
}

// Levels of one coordinate: how many of the 2^b - 1 thresholds it reaches. step [kLanes].
template <uint32_t kBits>
[[gnu::always_inline]] inline void Levels(const Lanes& y, const Lanes& step, Lanes& level) {
  constexpr int kHalf = 1 << (kBits - 1);
  level = Lanes{};
#pragma GCC unroll 16
  for (int t = 1 - kHalf; t < kHalf; ++t) level -= y >= step * static_cast<int16_t>(t);
}

template <uint32_t kBits>
void EncodeLanes(const int16_t* from, size_t size, const int32_t* steps, uint8_t* planes, int32_t* dots) {
  constexpr int16_t kTop = (1 << kBits) - 1;
  const auto* y = reinterpret_cast<const Lanes*>(from);
  Lanes step{};
  int64_t best_dot[kLanes], best_square[kLanes];
  // With one bit the step does not matter.
  for (int candidate = 0; candidate < (kBits == 1 ? 1 : kSketchSteps); ++candidate) {
    const Lanes candidate_step = Lanes{} + static_cast<int16_t>(steps[candidate]);
    Wide dot{}, square{};
    for (size_t i = 0; i < size; ++i) {
      Lanes level;
      Levels<kBits>(y[i], candidate_step, level);
      const Lanes v = 2 * level - kTop;
      const Wide wide = __builtin_convertvector(v, Wide);
      dot += wide * __builtin_convertvector(y[i], Wide);
      square += wide * wide;
    }
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const int64_t d = dot[lane], s = square[lane];
      // Both at most 2^17 times 2^14, squared and times 2^17: norms are bounded, so no product overflows.
      if (candidate == 0 || d * d * best_square[lane] > best_dot[lane] * best_dot[lane] * s) {
        step[lane] = static_cast<int16_t>(steps[candidate]);
        best_dot[lane] = d;
        best_square[lane] = s;
        dots[lane] = static_cast<int32_t>(d);
      }
    }
  }
  for (size_t g = 0; g < size / 8; ++g) {
    Bytes bytes[kBits]{};
    for (size_t j = 0; j < 8; ++j) {
      Lanes level;
      Levels<kBits>(y[8 * g + j], step, level);
      const Bytes narrow = __builtin_convertvector(level, Bytes);
#pragma GCC unroll 4
      for (uint32_t p = 0; p < kBits; ++p) bytes[p] |= (narrow >> (kBits - 1 - p) & 1) << j;
    }
    for (uint32_t p = 0; p < kBits; ++p) std::memcpy(planes + (p * (size / 8) + g) * kLanes, &bytes[p], kLanes);
  }
}

inline void SketchEncode(const int16_t* y, size_t size, uint32_t bits, const int32_t* steps, uint8_t* planes, int32_t* dots) {
  switch (bits) {
    case 1: return EncodeLanes<1>(y, size, steps, planes, dots);
    case 2: return EncodeLanes<2>(y, size, steps, planes, dots);
    case 3: return EncodeLanes<3>(y, size, steps, planes, dots);
    default: return EncodeLanes<4>(y, size, steps, planes, dots);
  }
}

// Tables of 16 sums over four coordinates each, 16 to a unit: entry n is the sum of q_i over the set bits i of n, less the sum of the
// negative q_i, so that all entries are at least 0.
inline void NibbleTables(const int16_t* q, size_t size, uint8_t* tables) {
  for (size_t unit = 0; unit < size / kSketchUnit; ++unit, tables += kSketchTableBytes) {
    for (size_t nibble = 0; nibble < 16; ++nibble, q += 4) {
      uint8_t* table = tables + nibble * 16;
      int base = 0;
      for (int i = 0; i < 4; ++i) base -= q[i] < 0 ? q[i] : 0;
      for (int n = 0; n < 16; ++n) {
        int sum = base;
        for (int i = 0; i < 4; ++i) sum += n >> i & 1 ? q[i] : 0;
        table[n] = static_cast<uint8_t>(sum);
      }
    }
  }
}

inline float FactorOf(uint16_t bf16) { return std::bit_cast<float>(uint32_t{bf16} << 16); }

inline void SketchHistogram(const float* scores, size_t n, size_t lanes, float largest, float eighths, uint32_t* counts) {
  // Neighbours often share a bin; four sets of counters keep an increment from waiting for the one before.
  uint32_t sets[4][kSketchBins] = {};
  for (size_t first = 0; first < n; first += kSketchKeys) {
    const size_t count = lanes < n - first ? lanes : n - first;
    int32_t bins[kSketchKeys];
    for (size_t i = 0; i < count; ++i) {
      constexpr float kLast = kSketchBins - 1;
      const float depth = (largest - scores[first + i]) * eighths;
      // At least 0, but for a view of a damaged file, whose factors may be anything.
      bins[i] = static_cast<int32_t>(depth > 0 ? depth < kLast ? depth : kLast : 0);
    }
    for (size_t i = 0; i < count; ++i) ++sets[i % 4][bins[i]];
  }
  for (size_t i = 0; i < kSketchBins; ++i) counts[i] += sets[0][i] + sets[1][i] + sets[2][i] + sets[3][i];
}

// 2^24 tau (w + floor), the weight by a polynomial for 2^f on [-1/2, 1/2] (minimax, relative error 7.5e-5).
inline float SketchThreshold(float score, const SketchDraw& draw) {
  constexpr float kRound = 0x1.8p23f;  // adding it leaves the nearest integer in the low bits
  float t = (score - draw.largest) * draw.gain;
  t = t > -60.0f ? t : -60.0f;  // far below any floor
  const float shifted = t + kRound;
  const float f = t - (shifted - kRound);
  float p = 0.0551716648f * f + 0.242611125f;
  p = p * f + 0.693260968f;
  p = p * f + 0.999928057f;
  const float w = std::bit_cast<float>(std::bit_cast<uint32_t>(p) + (std::bit_cast<uint32_t>(shifted) << 23));
  return draw.tau * (w + draw.floor);
}

// The logarithm of the mantissa by the polynomial of Cephes' logf (Moshier), that of the exponent by a product.
inline void SketchLogs(float* values, size_t n) {
  constexpr int32_t kRootHalf = 0x3f3504f3;  // bits of sqrt(1/2)
  for (size_t i = 0; i < n; ++i) {
    const float threshold = values[i] < kUniformOne ? values[i] : kUniformOne;
    const float below = static_cast<float>(static_cast<int32_t>(threshold));
    const float rounded = below < threshold ? below + 1.0f : below;
    const auto bits = std::bit_cast<int32_t>(rounded);
    const int32_t exponent = (bits - kRootHalf) >> 23;
    const float z = std::bit_cast<float>(bits - static_cast<int32_t>(static_cast<uint32_t>(exponent) << 23)) - 1.0f;
    float p = 7.0376836292e-2f * z - 1.1514610310e-1f;
    p = p * z + 1.1676998740e-1f;
    p = p * z - 1.2420140846e-1f;
    p = p * z + 1.4249322787e-1f;
    p = p * z - 1.6668057665e-1f;
    p = p * z + 2.0000714765e-1f;
    p = p * z - 2.4999993993e-1f;
    p = p * z + 3.3333331174e-1f;
    const float square = z * z;
    const float log = z + (p * z * square - 0.5f * square);
    values[i] = log + static_cast<float>(exponent - 24) * 0.69314718f;
  }
}

inline void SketchUniforms(uint64_t seed, uint32_t head, uint32_t step, uint32_t first, size_t n, float* out) {
  for (size_t i = 0; i < n; i += 4) {
    const PhiloxBlock words = Philox({static_cast<uint32_t>((first + i) / 4), head, step, 3}, static_cast<uint32_t>(seed),
                                     static_cast<uint32_t>(seed >> 32));
    for (size_t j = 0; j < 4; ++j) out[i + j] = static_cast<float>(words[j] >> 8);
  }
}

}  // namespace
}  // namespace magicpig::lsh

#endif  // MAGICPIG_LSH_SKETCH_LANES_H_
