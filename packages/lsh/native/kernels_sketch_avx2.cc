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

// 16 keys' scores from their sums, even keys in the lower and odd keys in the upper halves of 32 bits.
struct Converter {
  __m256 shift;
  [[gnu::always_inline]] __m256 operator()(__m128i sums, const uint16_t* factors) const {
    const __m256 sum = _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(sums));
    const __m256 dot = _mm256_sub_ps(_mm256_add_ps(sum, sum), shift);  // exact: integers below 2^24
    const __m128i bf16 = _mm_loadu_si128(reinterpret_cast<const __m128i*>(factors));
    return _mm256_mul_ps(dot, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bf16), 16)));
  }
};

template <size_t kCount, bool kFine>
void ScanWith(const uint8_t* codes, const uint16_t* factors, size_t blocks, uint32_t bits, size_t size, const SketchQuery* queries,
              float* scores, size_t stride, float* largest) {
  constexpr size_t kHalf = 32;  // keys at a time
  const size_t units = size / kSketchUnit;
  const __m256i low_nibble = _mm256_set1_epi8(15);
  __m256 most[kCount];
#pragma GCC unroll 4
  for (size_t h = 0; h < kCount; ++h) most[h] = _mm256_set1_ps(largest[h]);
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
            const auto* table = reinterpret_cast<const __m128i*>(queries[h].tables + unit * kSketchTableBytes) + 2 * g;
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
      const Converter convert{_mm256_set1_ps(queries[h].shift)};
      float* out = scores + h * stride + first;
      const auto put = [&](size_t at, __m128i of) {
        const __m256 r = convert(of, factors + first + at);
        _mm256_storeu_ps(out + at, r);
        most[h] = _mm256_max_ps(most[h], r);
      };
      put(0, _mm256_castsi256_si128(low));
      put(8, _mm256_castsi256_si128(high));
      put(16, _mm256_extracti128_si256(low, 1));
      put(24, _mm256_extracti128_si256(high, 1));
    }
  }
#pragma GCC unroll 4
  for (size_t h = 0; h < kCount; ++h) {
    alignas(32) float lanes[8];
    _mm256_store_ps(lanes, most[h]);
    for (const float lane : lanes) largest[h] = lane > largest[h] ? lane : largest[h];
  }
}

// Two query heads at a time: four would need more than the 16 registers.
void Scan(const uint8_t* codes, const uint16_t* factors, size_t blocks, uint32_t bits, size_t size, const SketchQuery* queries,
          size_t count, float* scores, size_t stride, float* largest) {
  for (size_t h = 0; h < count; h += 2) {
    const auto pair = FineSpans(bits) ? ScanWith<2, true> : ScanWith<2, false>, single = FineSpans(bits) ? ScanWith<1, true> : ScanWith<1, false>;
    (h + 1 < count ? pair : single)(codes, factors, blocks, bits, size, queries + h, scores + h * stride, stride, largest + h);
  }
}

// Four Philox blocks at once, each word in the lower half of 64 bits.
void Uniforms(uint64_t seed, uint32_t head, uint32_t step, uint32_t first, size_t n, float* out) {
  const __m256i multiplier0 = _mm256_set1_epi64x(0xD2511F53u), multiplier2 = _mm256_set1_epi64x(0xCD9E8D57u);
  const __m256i blocks = _mm256_setr_epi64x(0, 2, 1, 3);  // so that the words come out by ascending key
  for (size_t i = 0; i < n; i += 16) {
    __m256i c0 = _mm256_add_epi64(blocks, _mm256_set1_epi64x((first + i) / 4)), c1 = _mm256_set1_epi64x(head);
    __m256i c2 = _mm256_set1_epi64x(step), c3 = _mm256_set1_epi64x(3);
    uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      const __m256i p0 = _mm256_mul_epu32(c0, multiplier0), p2 = _mm256_mul_epu32(c2, multiplier2);
      c0 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p2, 32), c1), _mm256_set1_epi64x(key0));
      c2 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), c3), _mm256_set1_epi64x(key1));
      c1 = p2;
      c3 = p0;
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
    const __m256i w01 = _mm256_blend_epi32(c0, _mm256_slli_epi64(c1, 32), 0xaa);
    const __m256i w23 = _mm256_blend_epi32(c2, _mm256_slli_epi64(c3, 32), 0xaa);
    const auto store = [out](size_t at, __m256i words) { _mm256_storeu_ps(out + at, _mm256_cvtepi32_ps(_mm256_srli_epi32(words, 8))); };
    store(i, _mm256_unpacklo_epi64(w01, w23));
    store(i + 8, _mm256_unpackhi_epi64(w01, w23));
  }
}

// [mask]: the lanes of the set bits, in order.
alignas(32) constexpr auto kCompress = [] {
  std::array<std::array<uint32_t, 8>, 256> table{};
  for (uint32_t mask = 0; mask < 256; ++mask) {
    for (uint32_t lane = 0, at = 0; lane < 8; ++lane) {
      if (mask >> lane & 1) table[mask][at++] = lane;
    }
  }
  return table;
}();

size_t Draw(const float* scores, const float* uniforms, size_t n, const SketchDraw& draw, uint32_t first, uint32_t* ids,
            float* thresholds) {
  __m256i id = _mm256_add_epi32(_mm256_set1_epi32(static_cast<int32_t>(first)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  size_t count = 0;
  for (size_t i = 0; i < n; i += 8) {
    alignas(32) float values[8];
    for (size_t j = 0; j < 8; ++j) values[j] = SketchThreshold(scores[i + j], draw);
    const __m256 threshold = _mm256_load_ps(values);
    const auto drawn = static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(uniforms + i), threshold, _CMP_LT_OQ)));
    const __m256i order = _mm256_load_si256(reinterpret_cast<const __m256i*>(kCompress[drawn].data()));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(ids + count), _mm256_permutevar8x32_epi32(id, order));
    _mm256_storeu_ps(thresholds + count, _mm256_permutevar8x32_ps(threshold, order));
    count += static_cast<size_t>(__builtin_popcount(drawn));
    id = _mm256_add_epi32(id, _mm256_set1_epi32(8));
  }
  return count;
}

}  // namespace

const SketchKernels kAvx2SketchKernels = {"avx2",   SketchRotate,    SketchEncode, NibbleTables, Scan,
                                          Uniforms, SketchHistogram, Draw,         SketchLogs};

}  // namespace magicpig::lsh
