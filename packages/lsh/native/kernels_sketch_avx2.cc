#include <immintrin.h>

#include "sketch_lanes.h"

namespace magicpig::lsh {
namespace {

// Sums of bytes, kept modulo 2^16: `all` adds byte pairs as they are, `odd` their upper bytes.
struct Sums {
  __m256i all, odd;
  [[gnu::always_inline]] void Add(__m256i bytes) {
    all = _mm256_add_epi16(all, bytes);
    odd = _mm256_add_epi16(odd, _mm256_srli_epi16(bytes, 8));
  }
};

template <size_t kCount, bool kFine>
void ScanWith(const uint8_t* codes, size_t blocks, uint32_t bits, size_t size, const uint8_t* tables, uint16_t* out, size_t stride) {
  constexpr size_t kHalf = 32;  // keys at a time
  const size_t units = size / kSketchUnit;
  const __m256i low_nibble = _mm256_set1_epi8(15);
  for (size_t first = 0; first < blocks * kSketchKeys; first += kHalf) {
    const uint8_t* byte = codes + first / kSketchKeys * bits * size / 8 * kSketchKeys + first % kSketchKeys;
    Sums sums[kCount];
#pragma GCC unroll 4
    for (size_t h = 0; h < kCount; ++h) sums[h] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (uint32_t plane = 0; plane < bits; ++plane) {
#pragma GCC unroll 4
      for (size_t h = 0; h < kCount; ++h) sums[h] = {_mm256_slli_epi16(sums[h].all, 1), _mm256_slli_epi16(sums[h].odd, 1)};
      for (size_t unit = 0; unit < units; ++unit) {
        __m256i partial[kCount];
#pragma GCC unroll 4
        for (size_t h = 0; h < kCount; ++h) partial[h] = _mm256_setzero_si256();
#pragma GCC unroll 8
        for (size_t g = 0; g < 8; ++g, byte += kSketchKeys) {
          const __m256i x = _mm256_load_si256(reinterpret_cast<const __m256i*>(byte));
          const __m256i low = _mm256_and_si256(x, low_nibble), high = _mm256_and_si256(_mm256_srli_epi16(x, 4), low_nibble);
#pragma GCC unroll 4
          for (size_t h = 0; h < kCount; ++h) {
            const auto* table = reinterpret_cast<const __m128i*>(tables + (h * units + unit) * kSketchTableBytes) + 2 * g;
            const __m256i a = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_load_si128(table)), low);
            const __m256i b = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_load_si128(table + 1)), high);
            partial[h] = _mm256_add_epi8(partial[h], _mm256_add_epi8(a, b));
            if (g == 7 || (kFine && (g == 2 || g == 5))) {
              sums[h].Add(partial[h]);
              partial[h] = _mm256_setzero_si256();
            }
          }
        }
      }
    }
#pragma GCC unroll 4
    for (size_t h = 0; h < kCount; ++h) {
      const __m256i even = _mm256_sub_epi16(sums[h].all, _mm256_slli_epi16(sums[h].odd, 8));
      // Keys 0-7 and 16-23, and 8-15 and 24-31.
      const __m256i low = _mm256_unpacklo_epi16(even, sums[h].odd), high = _mm256_unpackhi_epi16(even, sums[h].odd);
      auto* to = reinterpret_cast<__m256i*>(out + h * stride + first);
      _mm256_storeu_si256(to, _mm256_permute2x128_si256(low, high, 0x20));
      _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(low, high, 0x31));
    }
  }
}

// Two query heads at a time: four would need more than the 16 registers.
void Scan(const uint8_t* codes, size_t blocks, uint32_t bits, size_t size, const uint8_t* tables, size_t count, uint16_t* sums,
          size_t stride) {
  for (size_t h = 0; h < count; h += 2) {
    const auto pair = FineSpans(bits) ? ScanWith<2, true> : ScanWith<2, false>, single = FineSpans(bits) ? ScanWith<1, true> : ScanWith<1, false>;
    (h + 1 < count ? pair : single)(codes, blocks, bits, size, tables + h * (size / kSketchUnit) * kSketchTableBytes, sums + h * stride, stride);
  }
}

// Four Philox blocks at once, each word in the lower half of 64 bits.
void Ranks(const SketchStream& stream, uint32_t first, size_t n, uint8_t* ranks) {
  const __m256i multiplier0 = _mm256_set1_epi64x(0xD2511F53u), multiplier2 = _mm256_set1_epi64x(0xCD9E8D57u);
  const __m256i blocks = _mm256_setr_epi64x(0, 1, 2, 3);
  // Of a word's halves in 32 bits each: ranks, as the leading bits of floats, in the lower byte.
  const auto rank = [](__m256i half) {
    const __m256 raised = _mm256_cvtepi32_ps(_mm256_add_epi32(half, _mm256_set1_epi32(16)));
    return _mm256_sub_epi32(_mm256_srli_epi32(_mm256_castps_si256(raised), kRankShift), _mm256_set1_epi32(kLeastRankBits));
  };
  // Both ranks of each word, in its lower two bytes.
  const auto pair = [&](__m256i words) {
    const __m256i low = rank(_mm256_and_si256(words, _mm256_set1_epi32(0xffff))), high = rank(_mm256_srli_epi32(words, 16));
    return _mm256_or_si256(low, _mm256_slli_epi32(high, 8));
  };
  for (size_t i = 0; i < n; i += 32) {
    __m256i c0 = _mm256_add_epi64(blocks, _mm256_set1_epi64x((first + i) / 8)), c1 = _mm256_set1_epi64x(stream.head);
    __m256i c2 = _mm256_set1_epi64x(stream.step), c3 = _mm256_set1_epi64x(kDrawDomain);
    auto key0 = static_cast<uint32_t>(stream.seed), key1 = static_cast<uint32_t>(stream.seed >> 32);
    for (int round = 0; round < 10; ++round) {
      const __m256i p0 = _mm256_mul_epu32(c0, multiplier0), p2 = _mm256_mul_epu32(c2, multiplier2);
      c0 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p2, 32), c1), _mm256_set1_epi64x(key0));
      c2 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), c3), _mm256_set1_epi64x(key1));
      c1 = p2;
      c3 = p0;
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
    // Words 0 and 1 of each block, and 2 and 3.
    const __m256i w01 = pair(_mm256_blend_epi32(c0, _mm256_slli_epi64(c1, 32), 0xaa));
    const __m256i w23 = pair(_mm256_blend_epi32(c2, _mm256_slli_epi64(c3, 32), 0xaa));
    // 16 bits each: of blocks 0 and 1 w01, w23, in either half of the register; and one block after the other.
    const __m256i packed = _mm256_packus_epi32(w01, w23);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(ranks + i), _mm256_shuffle_epi32(packed, 0xd8));
  }
}

// A table of kSketchLevels bytes.
struct Lookup {
  __m256i quarter[4];
  explicit Lookup(const uint8_t* table) {
    for (int i = 0; i < 4; ++i) quarter[i] = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table) + i));
  }
  __m256i operator()(__m256i level) const {
    const auto pick = [](__m256i a, __m256i b, __m256i bit) { return _mm256_blendv_epi8(a, b, bit); };  // by the top bit of each byte
    const __m256i bit4 = _mm256_slli_epi16(level, 3), bit5 = _mm256_slli_epi16(level, 2);
    __m256i of[4];
    for (int i = 0; i < 4; ++i) of[i] = _mm256_shuffle_epi8(quarter[i], level);
    return pick(pick(of[0], of[1], bit4), pick(of[2], of[3], bit4), bit5);
  }
};

size_t Draw(const uint8_t* depths, int32_t offset, const uint8_t* ranks, size_t n, const SketchDraw& draw, uint32_t first, uint32_t* ids,
            float* logs) {
  constexpr size_t kHalf = 32;
  const Lookup bound(draw.ranks);
  const __m256i above = _mm256_set1_epi8(static_cast<char>(offset < 0 ? -offset : 0));
  const __m256i below = _mm256_set1_epi8(static_cast<char>(offset < 0 ? 0 : offset < 255 ? offset : 255));
  const __m256i last = _mm256_set1_epi8(kSketchLevels - 1);
  size_t count = 0;
  for (size_t i = 0; i < n; i += kHalf) {
    const __m256i depth = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(depths + i));
    const __m256i level = _mm256_min_epu8(_mm256_adds_epu8(_mm256_subs_epu8(depth, above), below), last);
    const __m256i rank = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(ranks + i));
    const __m256i reached = _mm256_cmpeq_epi8(_mm256_max_epu8(rank, bound(level)), rank);
    auto left = ~static_cast<uint32_t>(_mm256_movemask_epi8(reached));
    if (n - i < kHalf) left &= (1u << (n - i)) - 1;
    for (; left != 0; left &= left - 1) {
      const size_t at = i + static_cast<size_t>(__builtin_ctz(left));
      ids[count] = first + static_cast<uint32_t>(at);
      logs[count++] = draw.logs[LevelOf(depths[at], offset)];
    }
  }
  return count;
}

}  // namespace

const SketchKernels kAvx2SketchKernels = {"avx2",              SketchRotate,    SketchEncode,   NibbleTables, Scan,
                                          SketchDepths<&Scan>, SketchHistogram, SketchCountTop, Ranks,        Draw};

}  // namespace magicpig::lsh
