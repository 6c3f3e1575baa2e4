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

inline void SketchFactors(const uint16_t* bf16, size_t n, int32_t exponent, int16_t* out) {
  for (size_t i = 0; i < n; ++i) {
    const int32_t below = exponent - (bf16[i] >> 7 & 0xff), mantissa = ((bf16[i] & 0x7f) | 0x80) << 7;
    // Negative for leftovers behind the last key.
    const int32_t places = below < 0 ? 0 : below < 15 ? below : 15;
    out[i] = static_cast<int16_t>((bf16[i] & 0x7f80) == 0 ? 0 : mantissa >> places);
  }
}

// The `**` of sketch_kernels.h, in a form that compilers know.
inline int16_t MultiplyHigh(int16_t a, int16_t b) { return static_cast<int16_t>(((a * b >> 14) + 1) >> 1); }

// SketchKernels::depths by way of its `scan`.
template <auto kScan>
void SketchDepths(const SketchKeys& keys, size_t n, const SketchKeys&, uint32_t bits, size_t size, const SketchQueries& queries,
                  const int32_t* bounds, int32_t* tops, uint8_t* depths, size_t stride) {
  // Whole blocks, so that vectors need no rest. What stands behind the last key counts for nothing.
  const size_t blocks = (n + kSketchKeys - 1) / kSketchKeys, whole = blocks * kSketchKeys;
  alignas(64) uint16_t sums[kSketchQueries][kSketchChunk];
  alignas(64) int16_t factors[kSketchChunk];
  kScan(keys.codes, blocks, bits, size, queries.tables, queries.count, sums[0], kSketchChunk);
  SketchFactors(keys.factors, whole, queries.exponent, factors);
  for (size_t h = 0; h < queries.count; ++h, depths += stride) {
    const SketchScale scale = queries.scales[h];
    auto* scores = reinterpret_cast<int16_t*>(sums[h]);
    for (size_t i = 0; i < whole; ++i) {
      const auto dot = static_cast<int16_t>(static_cast<uint16_t>(sums[h][i] - scale.half) << scale.lift);
      scores[i] = MultiplyHigh(MultiplyHigh(dot, factors[i]), scale.gain);
    }
    const auto bound = static_cast<int16_t>(bounds[h]);
    for (size_t i = 0; i < whole; ++i) {
      const int32_t depth = bound - scores[i];
      depths[i] = static_cast<uint8_t>(depth < 0 ? 0 : depth < 255 ? depth : 255);
    }
    for (size_t i = n; i < whole; ++i) scores[i] = INT16_MIN;
    int16_t top = INT16_MIN;
    for (size_t i = 0; i < whole; ++i) top = scores[i] > top ? scores[i] : top;
    tops[h] = top;
  }
}

inline void SketchHistogram(const uint8_t* depths, size_t n, size_t lanes, int32_t offset, uint32_t (*counts)[kSketchBins]) {
  const auto bin = [offset](uint8_t depth) { return depth + offset < kSketchBins ? depth + offset : kSketchBins - 1; };
  for (size_t first = 0; first < n; first += kSketchKeys) {
    const uint8_t* block = depths + first;
    const size_t count = lanes < n - first ? lanes : n - first;
    size_t i = 0;
    for (; i + kSketchCounters <= count; i += kSketchCounters) {
#pragma GCC unroll 4
      for (size_t j = 0; j < kSketchCounters; ++j) ++counts[j][bin(block[i + j])];
    }
    for (size_t j = 0; i + j < count; ++j) ++counts[j][bin(block[i + j])];
  }
}

inline void SketchCountTop(const uint8_t* depths, size_t n, int32_t offset, int32_t below, uint32_t* counts) {
  const int32_t end = below - offset;
  if (end <= 0) return;
  const auto limit = static_cast<uint8_t>(end);
  for (size_t first = 0; first < n; first += kSketchKeys) {
    const uint8_t* block = depths + first;
    uint8_t found[kSketchKeys], any = 0;
    for (size_t i = 0; i < kSketchKeys; ++i) {
      found[i] = block[i] < limit;
      any |= found[i];
    }
    if (any == 0) continue;
    const size_t count = kSketchKeys < n - first ? kSketchKeys : n - first;
    for (size_t part = 0; part < count; part += sizeof(uint64_t)) {
      uint64_t eight;
      std::memcpy(&eight, found + part, sizeof(eight));
      if (eight == 0) continue;
      for (size_t i = part; i < part + sizeof(eight) && i < count; ++i) {
        if (found[i]) ++counts[block[i] + offset];
      }
    }
  }
}

// Last word of the counters.
constexpr uint32_t kDrawDomain = 3;
// Ranks are the bits from here on of u + 16 as a float32, less those of 16.
constexpr int kRankShift = 19, kLeastRankBits = (127 + 4) << 4;

inline void SketchRanks(const SketchStream& stream, uint32_t first, size_t n, uint8_t* ranks) {
  for (size_t i = 0; i < n; i += 8) {
    const PhiloxBlock block = Philox({(first + static_cast<uint32_t>(i)) / 8, stream.head, stream.step, kDrawDomain},
                                     static_cast<uint32_t>(stream.seed), static_cast<uint32_t>(stream.seed >> 32));
    for (size_t j = 0; j < 8; ++j) {
      const uint32_t raised = (block[j / 2] >> j % 2 * 16 & 0xffff) + 16;
      const auto places = static_cast<uint32_t>(std::bit_width(raised)) - 5;
      ranks[i + j] = static_cast<uint8_t>(places * 16 + (raised >> places) - 16);
    }
  }
}

inline uint32_t LevelOf(uint8_t depth, int32_t offset) {
  const int32_t level = depth + offset;
  return static_cast<uint32_t>(level < 0 ? 0 : level < kSketchLevels ? level : kSketchLevels - 1);
}

}  // namespace
}  // namespace magicpig::lsh

#endif  // MAGICPIG_LSH_SKETCH_LANES_H_
