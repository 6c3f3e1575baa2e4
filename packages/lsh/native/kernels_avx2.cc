#include <immintrin.h>

#include <bit>
#include <cstring>

#include "hadamard.h"
#include "kernels.h"
#include "quantise.h"

namespace magicpig::lsh {
namespace {

inline __m256i BroadcastPair(const int16_t* pair) {
  int32_t both;
  std::memcpy(&both, pair, sizeof both);
  return _mm256_set1_epi32(both);
}

// kRows x kBlocks blocks; sums[r][2 b + half] holds 8 columns.
template <size_t kRows, size_t kBlocks>
void Tile(const int16_t* x, size_t pairs, const int16_t* weights, uint16_t* signs, size_t signs_stride) {
  __m256i sums[kRows][2 * kBlocks];
#pragma GCC unroll 8
  for (size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (size_t half = 0; half < 2 * kBlocks; ++half) sums[r][half] = _mm256_setzero_si256();
  }
  for (size_t pair = 0; pair < pairs; ++pair) {
    __m256i w[2 * kBlocks];
#pragma GCC unroll 8
    for (size_t b = 0; b < kBlocks; ++b) {
      const auto* p = reinterpret_cast<const __m256i*>(weights + (b * pairs + pair) * kColumns * 2);
      w[2 * b] = _mm256_loadu_si256(p);
      w[2 * b + 1] = _mm256_loadu_si256(p + 1);
    }
#pragma GCC unroll 8
    for (size_t r = 0; r < kRows; ++r) {
      const __m256i v = BroadcastPair(x + (r * pairs + pair) * 2);
#pragma GCC unroll 8
      for (size_t half = 0; half < 2 * kBlocks; ++half) {
        sums[r][half] = _mm256_add_epi32(sums[r][half], _mm256_madd_epi16(v, w[half]));
      }
    }
  }
  const __m256i zero = _mm256_setzero_si256();
#pragma GCC unroll 8
  for (size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (size_t b = 0; b < kBlocks; ++b) {
      const auto mask = [&](const __m256i& sum) {
        return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(sum, zero))));
      };
      signs[r * signs_stride + b] = static_cast<uint16_t>(mask(sums[r][2 * b]) | mask(sums[r][2 * b + 1]) << 8);
    }
  }
}

template <size_t kRows, size_t kBlocks>
void Sweep(const int16_t* x, size_t pairs, const int16_t* weights, size_t blocks, uint16_t* signs, size_t signs_stride) {
  size_t block = 0;
  for (; block + kBlocks <= blocks; block += kBlocks) {
    Tile<kRows, kBlocks>(x, pairs, weights + block * pairs * kColumns * 2, signs + block, signs_stride);
  }
  for (; block < blocks; ++block) {
    Tile<kRows, 1>(x, pairs, weights + block * pairs * kColumns * 2, signs + block, signs_stride);
  }
}

void Signs(const int16_t* x, size_t rows, size_t pairs, const int16_t* weights, size_t blocks, uint16_t* signs,
           size_t signs_stride) {
  // Four rows by one block keep 8 sums in registers; a lone row takes four blocks. Weights of a block stay in L1 over all rows.
  size_t row = 0;
  const size_t fours = rows / 4 * 4;
  for (size_t block = 0; fours > 0 && block < blocks; ++block) {
    for (row = 0; row < fours; row += 4) {
      Tile<4, 1>(x + row * pairs * 2, pairs, weights + block * pairs * kColumns * 2, signs + row * signs_stride + block,
                 signs_stride);
    }
  }
  for (row = fours; row < rows; ++row) {
    Sweep<1, 4>(x + row * pairs * 2, pairs, weights, blocks, signs + row * signs_stride, signs_stride);
  }
}

size_t Gather(const Bucket* buckets, size_t n, uint16_t* out) {
  size_t count = 0;
  for (size_t i = 0; i < n; ++i) {
    std::memcpy(out + count, buckets[i].ids, buckets[i].count * sizeof *out);
    count += buckets[i].count;
  }
  return count;
}

size_t EmitBits(uint32_t bits, uint32_t base, uint32_t* ids) {
  size_t count = 0;
  for (; bits != 0; bits &= bits - 1) ids[count++] = base + static_cast<uint32_t>(std::countr_zero(bits));
  return count;
}

// Bits of the 32 counters from i on whose ids count.
inline uint32_t Below(size_t i, size_t limit) {
  return i + 32 <= limit ? ~0u : i >= limit ? 0u : (1u << (limit - i)) - 1;
}

size_t Collect8(uint8_t* counters, size_t n, size_t limit, uint32_t least, uint32_t base, uint32_t* ids) {
  const __m256i bound = _mm256_set1_epi8(static_cast<char>(least));
  size_t count = 0;
  for (size_t i = 0; i < n; i += 32) {
    auto* p = reinterpret_cast<__m256i*>(counters + i);
    const __m256i c = _mm256_loadu_si256(p);
    const __m256i enough = _mm256_cmpeq_epi8(_mm256_max_epu8(c, bound), c);
    _mm256_storeu_si256(p, _mm256_setzero_si256());
    const uint32_t bits = static_cast<uint32_t>(_mm256_movemask_epi8(enough)) & Below(i, limit);
    count += EmitBits(bits, base + static_cast<uint32_t>(i), ids + count);
  }
  return count;
}

size_t Collect16(uint16_t* counters, size_t n, size_t limit, uint32_t least, uint32_t base, uint32_t* ids) {
  const __m256i bound = _mm256_set1_epi16(static_cast<int16_t>(least));
  size_t count = 0;
  for (size_t i = 0; i < n; i += 32) {
    auto* p = reinterpret_cast<__m256i*>(counters + i);
    const __m256i low = _mm256_loadu_si256(p), high = _mm256_loadu_si256(p + 1);
    const __m256i enough_low = _mm256_cmpeq_epi16(_mm256_max_epu16(low, bound), low);
    const __m256i enough_high = _mm256_cmpeq_epi16(_mm256_max_epu16(high, bound), high);
    _mm256_storeu_si256(p, _mm256_setzero_si256());
    _mm256_storeu_si256(p + 1, _mm256_setzero_si256());
    // Packing works within 128-bit lanes: the middle quarters come out exchanged.
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi16(enough_low, enough_high), 0b11011000);
    const uint32_t bits = static_cast<uint32_t>(_mm256_movemask_epi8(packed)) & Below(i, limit);
    count += EmitBits(bits, base + static_cast<uint32_t>(i), ids + count);
  }
  return count;
}

size_t Equal(const uint16_t* a, const uint16_t* b, size_t tables) {
  size_t bits = 0, t = 0;  // each equal pair sets two bits
  for (; t + 16 <= tables; t += 16) {
    const __m256i equal = _mm256_cmpeq_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a + t)),
                                             _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + t)));
    bits += static_cast<size_t>(std::popcount(static_cast<uint32_t>(_mm256_movemask_epi8(equal))));
  }
  size_t count = bits / 2;
  for (; t < tables; ++t) count += a[t] == b[t];
  return count;
}

}  // namespace

const Kernels kAvx2Kernels = {"avx2", Quantise, Signs, Hadamard, Dot, Gather, Collect8, Collect16, Equal};

}  // namespace magicpig::lsh
