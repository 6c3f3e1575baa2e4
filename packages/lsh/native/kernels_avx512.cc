#include <immintrin.h>

#include <bit>
#include <cstring>

#include "hadamard.h"
#include "kernels.h"
#include "quantise.h"

namespace magicpig::lsh {
namespace {

inline __m512i BroadcastPair(const int16_t* pair) {
  int32_t both;
  std::memcpy(&both, pair, sizeof both);
  return _mm512_set1_epi32(both);
}

// kRows x kBlocks blocks of 16 columns, all sums in registers. GCC keeps arrays in registers only when their loops are unrolled
// early, which the pragmas ask for, and copies the sums of the intrinsic _mm512_dpwssd_epi32 about, which the assembly avoids.
inline void MultiplyAdd(__m512i& sum, __m512i a, __m512i b) { asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b)); }

template <size_t kRows, size_t kBlocks>
inline void Tile(const int16_t* x, size_t pairs, const int16_t* weights, uint16_t* signs, size_t signs_stride) {
  __m512i sums[kRows][kBlocks];
#pragma GCC unroll 8
  for (size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (size_t b = 0; b < kBlocks; ++b) sums[r][b] = _mm512_setzero_si512();
  }
  for (size_t pair = 0; pair < pairs; ++pair) {
    __m512i w[kBlocks];
#pragma GCC unroll 8
    for (size_t b = 0; b < kBlocks; ++b) w[b] = _mm512_loadu_si512(weights + (b * pairs + pair) * kColumns * 2);
#pragma GCC unroll 8
    for (size_t r = 0; r < kRows; ++r) {
      const __m512i v = BroadcastPair(x + (r * pairs + pair) * 2);
#pragma GCC unroll 8
      for (size_t b = 0; b < kBlocks; ++b) MultiplyAdd(sums[r][b], v, w[b]);
    }
  }
  const __m512i zero = _mm512_setzero_si512();
#pragma GCC unroll 8
  for (size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (size_t b = 0; b < kBlocks; ++b) {
      signs[r * signs_stride + b] = static_cast<uint16_t>(_mm512_cmpgt_epi32_mask(sums[r][b], zero));
    }
  }
}

// All `rows` (a multiple of kRows) by all blocks, kBlocks at a time and the rest in smaller tiles: a tile of one block by one
// row would wait for each product.
template <size_t kRows, size_t kBlocks>
void Sweep(const int16_t* x, size_t rows, size_t pairs, const int16_t* weights, size_t blocks, uint16_t* signs,
           size_t signs_stride) {
  size_t block = 0;
  for (; block + kBlocks <= blocks; block += kBlocks) {
    const int16_t* w = weights + block * pairs * kColumns * 2;
    for (size_t row = 0; row < rows; row += kRows) {
      Tile<kRows, kBlocks>(x + row * pairs * 2, pairs, w, signs + row * signs_stride + block, signs_stride);
    }
  }
  if constexpr (kBlocks > 1) {
    if (block < blocks) {
      Sweep<kRows, kBlocks / 2>(x, rows, pairs, weights + block * pairs * kColumns * 2, blocks - block, signs + block,
                                signs_stride);
    }
  }
}

void Signs(const int16_t* x, size_t rows, size_t pairs, const int16_t* weights, size_t blocks, uint16_t* signs,
           size_t signs_stride) {
  size_t row = 0;
  const auto sweep = [&]<size_t kRows, size_t kBlocks>(size_t count) {
    if (count == 0) return;
    Sweep<kRows, kBlocks>(x + row * pairs * 2, count, pairs, weights, blocks, signs + row * signs_stride, signs_stride);
    row += count;
  };
  sweep.template operator()<8, 3>(rows / 8 * 8);
  sweep.template operator()<4, 6>(rows % 8 / 4 * 4);
  sweep.template operator()<2, 8>(rows % 4 / 2 * 2);
  sweep.template operator()<1, 8>(rows % 2);
}

// Three vectors of 32 ids for every bucket without a test: a loop over the length would end in a mispredicted branch for nearly
// every bucket. A vector that would reach beyond the end lies at the end instead, over ids that are there already: loads of
// lanes that are masked away still wait for their cache lines.
size_t Gather(const Bucket* buckets, size_t n, uint16_t* out) {
  constexpr int64_t kVector = 32, kVectors = 3;
  uint16_t* to = out;
  for (size_t i = 0; i < n; ++i) {
    const uint16_t* ids = buckets[i].ids;
    const int64_t count = buckets[i].count, last = count < kVector ? 0 : count - kVector;
    const __mmask32 mask = _bzhi_u32(~0u, static_cast<uint32_t>(count < kVector ? count : kVector));
    for (int64_t v = 0; v < kVectors; ++v) {
      const int64_t at = v * kVector < last ? v * kVector : last;
      _mm512_storeu_si512(to + at, _mm512_maskz_loadu_epi16(mask, ids + at));
    }
    for (int64_t next = kVectors * kVector; next < count; next += kVector) {
      const int64_t at = next < last ? next : last;
      _mm512_storeu_si512(to + at, _mm512_loadu_si512(ids + at));
    }
    to += count;
  }
  return static_cast<size_t>(to - out);
}

// Bits of the 64 counters from i on whose ids count.
inline uint64_t Below(size_t i, size_t limit) {
  return i + 64 <= limit ? ~uint64_t{0} : i >= limit ? 0 : (uint64_t{1} << (limit - i)) - 1;
}

// Writes base + position of each set bit, by compression; 16 without a test, as more are rare.
inline size_t EmitBits(uint64_t bits, uint32_t base, uint32_t* ids) {
  const size_t count = static_cast<size_t>(std::popcount(bits));
  const __m512i iota = _mm512_set_epi8(
      63, 62, 61, 60, 59, 58, 57, 56, 55, 54, 53, 52, 51, 50, 49, 48, 47, 46, 45, 44, 43, 42, 41, 40, 39, 38, 37, 36, 35, 34, 33,
      32, 31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i positions = _mm512_maskz_compress_epi8(bits, iota);
  const __m512i offset = _mm512_set1_epi32(static_cast<int32_t>(base));
  const auto store = [&](__m128i bytes, size_t at) {
    _mm512_storeu_si512(ids + at, _mm512_add_epi32(offset, _mm512_cvtepu8_epi32(bytes)));
  };
  store(_mm512_castsi512_si128(positions), 0);
  if (count > 16) [[unlikely]] {
    store(_mm512_extracti32x4_epi32(positions, 1), 16);
    store(_mm512_extracti32x4_epi32(positions, 2), 32);
    store(_mm512_extracti32x4_epi32(positions, 3), 48);
  }
  return count;
}

size_t Collect8(uint8_t* counters, size_t n, size_t limit, uint32_t least, uint32_t base, uint32_t* ids) {
  const __m512i bound = _mm512_set1_epi8(static_cast<char>(least));
  size_t count = 0;
  for (size_t i = 0; i < n; i += 64) {
    const uint64_t bits = _mm512_cmpge_epu8_mask(_mm512_loadu_si512(counters + i), bound) & Below(i, limit);
    _mm512_storeu_si512(counters + i, _mm512_setzero_si512());
    count += EmitBits(bits, base + static_cast<uint32_t>(i), ids + count);
  }
  return count;
}

size_t Collect16(uint16_t* counters, size_t n, size_t limit, uint32_t least, uint32_t base, uint32_t* ids) {
  const __m512i bound = _mm512_set1_epi16(static_cast<int16_t>(least));
  size_t count = 0;
  for (size_t i = 0; i < n; i += 64) {
    const uint64_t below = Below(i, limit);
    for (size_t half = 0; half < 64; half += 32) {
      uint16_t* at = counters + i + half;
      // In a general register at once, 32 bits wide. GCC 12 takes a mask register for its value widened to 64 bits, and when
      // it has to spill one, stores four bytes and reads back eight: ids that happened to be on the stack.
      uint32_t enough = _mm512_cmpge_epu16_mask(_mm512_loadu_si512(at), bound);
      asm("" : "+r"(enough));
      _mm512_storeu_si512(at, _mm512_setzero_si512());
      count += EmitBits(enough & static_cast<uint32_t>(below >> half), base + static_cast<uint32_t>(i + half), ids + count);
    }
  }
  return count;
}

size_t Equal(const uint16_t* a, const uint16_t* b, size_t tables) {
  size_t count = 0, t = 0;
  for (; t + 32 <= tables; t += 32) {
    count += static_cast<size_t>(
        std::popcount(_mm512_cmpeq_epi16_mask(_mm512_loadu_si512(a + t), _mm512_loadu_si512(b + t))));
  }
  if (t < tables) {
    const __mmask32 rest = (__mmask32{1} << (tables - t)) - 1;
    count += static_cast<size_t>(std::popcount(_mm512_mask_cmpeq_epi16_mask(
        rest, _mm512_maskz_loadu_epi16(rest, a + t), _mm512_maskz_loadu_epi16(rest, b + t))));
  }
  return count;
}

}  // namespace

const Kernels kAvx512Kernels = {"avx512", Quantise, Signs, Hadamard, Dot, Gather, Collect8, Collect16, Equal};

}  // namespace magicpig::lsh
