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
void Words(const SketchStream& stream, uint32_t first, size_t n, uint16_t* words) {
  const __m256i multiplier0 = _mm256_set1_epi64x(0xD2511F53u), multiplier2 = _mm256_set1_epi64x(0xCD9E8D57u);
  const __m256i blocks = _mm256_setr_epi64x(0, 2, 1, 3);  // so that the words come out by ascending key
  for (size_t i = 0; i < n; i += 32) {
    __m256i c0 = _mm256_add_epi64(blocks, _mm256_set1_epi64x((first + i) / 8)), c1 = _mm256_set1_epi64x(stream.head);
    __m256i c2 = _mm256_set1_epi64x(stream.step), c3 = _mm256_set1_epi64x(kUpperDomain);
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
    const __m256i w01 = _mm256_blend_epi32(c0, _mm256_slli_epi64(c1, 32), 0xaa);
    const __m256i w23 = _mm256_blend_epi32(c2, _mm256_slli_epi64(c3, 32), 0xaa);
    auto* to = reinterpret_cast<__m256i*>(words + i);
    _mm256_storeu_si256(to, _mm256_unpacklo_epi64(w01, w23));
    _mm256_storeu_si256(to + 1, _mm256_unpackhi_epi64(w01, w23));
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

size_t Draw(const uint8_t* depths, int32_t offset, const uint16_t* words, size_t n, const SketchDraw& draw, const SketchStream& stream,
            uint32_t first, uint32_t* ids, float* logs) {
  constexpr size_t kHalf = 32;
  uint8_t halves[2][kSketchLevels];
  for (int level = 0; level < kSketchLevels; ++level) {
    halves[0][level] = static_cast<uint8_t>(draw.upper[level]);
    halves[1][level] = static_cast<uint8_t>(draw.upper[level] >> 8);
  }
  const Lookup low(halves[0]), high(halves[1]);
  const __m256i above = _mm256_set1_epi8(static_cast<char>(offset < 0 ? -offset : 0));
  const __m256i below = _mm256_set1_epi8(static_cast<char>(offset < 0 ? 0 : offset < 255 ? offset : 255));
  const __m256i last = _mm256_set1_epi8(kSketchLevels - 1);
  size_t count = 0;
  for (size_t i = 0; i < n; i += kHalf) {
    const __m256i depth = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(depths + i));
    const __m256i level = _mm256_min_epu8(_mm256_adds_epu8(_mm256_subs_epu8(depth, above), below), last);
    // Whether a random half is at most that of the level, of keys 0-7 and 16-23, and of 8-15 and 24-31.
    const auto* word = reinterpret_cast<const __m256i*>(words + i);
    const __m256i words0 = _mm256_loadu_si256(word), words1 = _mm256_loadu_si256(word + 1);
    const auto reached = [](__m256i random, __m256i upper) { return _mm256_cmpeq_epi16(_mm256_min_epu16(random, upper), random); };
    const __m256i l = low(level), h = high(level);
    const __m256i reached0 = reached(_mm256_permute2x128_si256(words0, words1, 0x20), _mm256_unpacklo_epi8(l, h));
    const __m256i reached1 = reached(_mm256_permute2x128_si256(words0, words1, 0x31), _mm256_unpackhi_epi8(l, h));
    auto left = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_packs_epi16(reached0, reached1)));
    if (n - i < kHalf) left &= (1u << (n - i)) - 1;
    for (; left != 0; left &= left - 1) {
      const size_t at = i + static_cast<size_t>(__builtin_ctz(left));
      const uint32_t of = LevelOf(depths[at], offset), key = first + static_cast<uint32_t>(at);
      if (words[at] == draw.upper[of] && !LowerHalfDraws(draw, of, stream, key)) continue;
      ids[count] = key;
      logs[count++] = draw.logs[of];
    }
  }
  return count;
}

}  // namespace

const SketchKernels kAvx2SketchKernels = {"avx2",       SketchRotate,    SketchEncode, NibbleTables, Scan, SketchFactors,
                                          SketchDepths, SketchHistogram, SketchCountTop, Words,        Draw};

}  // namespace magicpig::lsh
