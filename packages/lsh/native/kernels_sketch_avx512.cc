#include <immintrin.h>

#include "sketch_lanes.h"

namespace magicpig::lsh {
namespace {

// Coordinates, within a unit, that each of its 11 tables sums over: bit j of an index is coordinate kOrder[table][j], none where
// negative. Tables 0-2, 4-6, 8 and 9 take the lower six bits of the eight bytes, the others the upper two of three (or two) bytes.
constexpr int8_t kOrder[11][6] = {
    {0, 1, 2, 3, 4, 5},       {8, 9, 10, 11, 12, 13},   {16, 17, 18, 19, 20, 21}, {6, 7, 14, 15, 22, 23},
    {24, 25, 26, 27, 28, 29}, {32, 33, 34, 35, 36, 37}, {40, 41, 42, 43, 44, 45}, {30, 31, 38, 39, 46, 47},
    {48, 49, 50, 51, 52, 53}, {56, 57, 58, 59, 60, 61}, {54, 55, 62, 63, -1, -1},
};

// How far ahead of the scan codes are fetched, to the second-level cache: the first one waits for too few lines at a time.
constexpr size_t kPrefetchBytes = 4096;

void Tables(const int16_t* q, size_t size, uint8_t* tables) {
  for (size_t unit = 0; unit < size / kSketchUnit; ++unit, q += kSketchUnit) {
    for (const auto& order : kOrder) {
      int base = 0;
      for (const int8_t i : order) base -= i >= 0 && q[i] < 0 ? q[i] : 0;
      __m512i table = _mm512_set1_epi8(static_cast<char>(base));
      __mmask64 mask = 0xaaaaaaaaaaaaaaaau;  // indices with bit j set
      for (int j = 0; j < 6; ++j) {
        if (order[j] >= 0) table = _mm512_mask_add_epi8(table, mask, table, _mm512_set1_epi8(static_cast<char>(q[order[j]])));
        constexpr __mmask64 kMasks[6] = {0xccccccccccccccccu, 0xf0f0f0f0f0f0f0f0u, 0xff00ff00ff00ff00u, 0xffff0000ffff0000u, 0xffffffff00000000u, 0};
        mask = kMasks[j];
      }
      _mm512_storeu_si512(tables, table);
      tables += 64;
    }
  }
}

// Indices of the upper two bits of three bytes: a's in bits 0 and 1, b's in 2 and 3, c's in 4 and 5. The lookup ignores bits 6 and 7.
inline __m512i Upper(__m512i a, __m512i b, __m512i c) {
  const __m512i two = _mm512_set1_epi8(0x03), four = _mm512_set1_epi8(0x0f);
  constexpr int kSelect = 0xca;  // first operand ? second : third
  const __m512i ab = _mm512_ternarylogic_epi64(two, _mm512_srli_epi16(a, 6), _mm512_srli_epi16(b, 4), kSelect);
  return _mm512_ternarylogic_epi64(four, ab, _mm512_srli_epi16(c, 2), kSelect);
}

// Sums of bytes, kept modulo 2^16: `all` adds byte pairs as they are, `odd` their upper bytes.
struct Sums {
  __m512i all, odd;
  [[gnu::always_inline]] void Add(__m512i bytes) {
    all = _mm512_add_epi16(all, bytes);
    odd = _mm512_add_epi16(odd, _mm512_srli_epi16(bytes, 8));
  }
};

template <size_t kCount, bool kFine>
void ScanWith(const uint8_t* codes, size_t blocks, uint32_t bits, size_t size, const uint8_t* tables, uint16_t* out, size_t stride) {
  const size_t units = size / kSketchUnit;
  // Key pairs in order from the sums of even and of odd keys.
  alignas(64) static constexpr auto kOrderLow = [] {
    std::array<uint16_t, 32> order{};
    for (uint16_t i = 0; i < 32; ++i) order[i] = static_cast<uint16_t>(i / 2 + i % 2 * 32);
    return order;
  }();
  const __m512i order_low = _mm512_load_si512(kOrderLow.data());
  const __m512i order_high = _mm512_add_epi16(order_low, _mm512_set1_epi16(16));
  for (size_t block = 0; block < blocks; ++block, out += kSketchKeys) {
    Sums sums[kCount];
#pragma GCC unroll 4
    for (size_t h = 0; h < kCount; ++h) sums[h] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    for (uint32_t plane = 0; plane < bits; ++plane) {
#pragma GCC unroll 4
      for (size_t h = 0; h < kCount; ++h) {
        sums[h] = {_mm512_slli_epi16(sums[h].all, 1), _mm512_slli_epi16(sums[h].odd, 1)};
      }
      for (size_t unit = 0; unit < units; ++unit, codes += 8 * kSketchKeys) {
        __m512i x[8];
#pragma GCC unroll 8
        for (size_t g = 0; g < 8; ++g) {
          x[g] = _mm512_load_si512(codes + g * kSketchKeys);
          _mm_prefetch(reinterpret_cast<const char*>(codes + g * kSketchKeys + kPrefetchBytes), _MM_HINT_T1);
        }
        const __m512i a = Upper(x[0], x[1], x[2]), b = Upper(x[3], x[4], x[5]), c = Upper(x[6], x[7], x[7]);
#pragma GCC unroll 4
        for (size_t h = 0; h < kCount; ++h) {
          const uint8_t* table = tables + (h * units + unit) * kSketchTableBytes;
          const auto look = [&](__m512i index, int t) { return _mm512_permutexvar_epi8(index, _mm512_loadu_si512(table + t * 64)); };
          const auto add = [](__m512i p, __m512i q) { return _mm512_add_epi8(p, q); };
          const __m512i first = add(add(look(x[0], 0), look(x[1], 1)), add(look(x[2], 2), look(a, 3)));
          const __m512i second = add(add(look(x[3], 4), look(x[4], 5)), add(look(x[5], 6), look(b, 7)));
          const __m512i third = add(add(look(x[6], 8), look(x[7], 9)), look(c, 10));
          if constexpr (kFine) {
            sums[h].Add(first);
            sums[h].Add(second);
            sums[h].Add(third);
          } else {
            sums[h].Add(add(add(first, second), third));
          }
        }
      }
    }
#pragma GCC unroll 4
    for (size_t h = 0; h < kCount; ++h) {
      const __m512i even = _mm512_sub_epi16(sums[h].all, _mm512_slli_epi16(sums[h].odd, 8));
      _mm512_storeu_si512(out + h * stride, _mm512_permutex2var_epi16(even, order_low, sums[h].odd));
      _mm512_storeu_si512(out + h * stride + 32, _mm512_permutex2var_epi16(even, order_high, sums[h].odd));
    }
  }
}

void Scan(const uint8_t* codes, size_t blocks, uint32_t bits, size_t size, const uint8_t* tables, size_t count, uint16_t* sums,
          size_t stride) {
  const auto scan = [&]<size_t kCount>() {
    (FineSpans(bits) ? ScanWith<kCount, true> : ScanWith<kCount, false>)(codes, blocks, bits, size, tables, sums, stride);
  };
  switch (count) {
    case 1: return scan.template operator()<1>();
    case 2: return scan.template operator()<2>();
    case 3: return scan.template operator()<3>();
    default: return scan.template operator()<4>();
  }
}

// Eight Philox blocks at once, each word in the lower half of 64 bits.
void Words(const SketchStream& stream, uint32_t first, size_t n, uint16_t* words) {
  const __m512i multiplier0 = _mm512_set1_epi64(0xD2511F53u), multiplier2 = _mm512_set1_epi64(0xCD9E8D57u);
  // In such an order that the words come out by ascending key.
  const __m512i blocks = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  constexpr int kXor3 = 0x96;
  for (size_t i = 0; i < n; i += 64) {
    __m512i c0 = _mm512_add_epi64(blocks, _mm512_set1_epi64((first + i) / 8)), c1 = _mm512_set1_epi64(stream.head);
    __m512i c2 = _mm512_set1_epi64(stream.step), c3 = _mm512_set1_epi64(kUpperDomain);
    auto key0 = static_cast<uint32_t>(stream.seed), key1 = static_cast<uint32_t>(stream.seed >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      const __m512i p0 = _mm512_mul_epu32(c0, multiplier0), p2 = _mm512_mul_epu32(c2, multiplier2);
      c0 = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p2, 32), c1, _mm512_set1_epi64(key0), kXor3);
      c2 = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p0, 32), c3, _mm512_set1_epi64(key1), kXor3);
      c1 = p2;
      c3 = p0;
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
    constexpr __mmask16 kUpper = 0xaaaa;
    const __m512i w01 = _mm512_mask_shuffle_epi32(c0, kUpper, c1, _MM_PERM_CCAA);
    const __m512i w23 = _mm512_mask_shuffle_epi32(c2, kUpper, c3, _MM_PERM_CCAA);
    _mm512_storeu_si512(words + i, _mm512_unpacklo_epi64(w01, w23));
    _mm512_storeu_si512(words + i + 32, _mm512_unpackhi_epi64(w01, w23));
  }
}

void CountTop(const uint8_t* depths, size_t n, uint8_t below, uint32_t* counts) {
  const __m512i limit = _mm512_set1_epi8(static_cast<char>(below));
  for (size_t i = 0; i < n; i += kSketchKeys) {
    uint64_t left = _mm512_cmplt_epu8_mask(_mm512_loadu_si512(depths + i), limit);
    if (n - i < kSketchKeys) left &= (uint64_t{1} << (n - i)) - 1;
    for (; left != 0; left &= left - 1) ++counts[depths[i + static_cast<size_t>(__builtin_ctzll(left))]];
  }
}

// logs [kSketchLevels] at each level.
inline __m512 LogsAt(const float* logs, __m512i level) {
  const __m512 low = _mm512_permutex2var_ps(_mm512_loadu_ps(logs), level, _mm512_loadu_ps(logs + 16));
  const __m512 high = _mm512_permutex2var_ps(_mm512_loadu_ps(logs + 32), level, _mm512_loadu_ps(logs + 48));
  return _mm512_mask_blend_ps(_mm512_test_epi32_mask(level, _mm512_set1_epi32(32)), low, high);
}

size_t Draw(const uint8_t* depths, int32_t offset, const uint16_t* words, size_t n, const SketchDraw& draw, const SketchStream& stream,
            uint32_t first, uint32_t* ids, float* logs) {
  const __m512i above = _mm512_set1_epi8(static_cast<char>(offset < 0 ? -offset : 0));
  const __m512i below = _mm512_set1_epi8(static_cast<char>(offset < 0 ? 0 : offset < 255 ? offset : 255));
  const __m512i last = _mm512_set1_epi8(kSketchLevels - 1);
  const __m512i upper0 = _mm512_load_si512(draw.upper), upper1 = _mm512_load_si512(draw.upper + 32);
  alignas(64) static constexpr auto kPlaces = [] {
    std::array<uint8_t, 64> places{};
    for (uint8_t i = 0; i < 64; ++i) places[i] = i;
    return places;
  }();
  const __m512i places = _mm512_load_si512(kPlaces.data());
  size_t count = 0;
  for (size_t i = 0; i < n; i += kSketchKeys) {
    const __m512i depth = _mm512_loadu_si512(depths + i);
    const __m512i level = _mm512_min_epu8(_mm512_adds_epu8(_mm512_subs_epu8(depth, above), below), last);
    const auto half = [&](__m256i levels, const uint16_t* word, uint32_t* equal) {
      const __m512i upper = _mm512_permutex2var_epi16(upper0, _mm512_cvtepu8_epi16(levels), upper1), random = _mm512_loadu_si512(word);
      *equal = _mm512_cmpeq_epi16_mask(random, upper);
      return _mm512_cmplt_epu16_mask(random, upper);
    };
    uint32_t equal[2];
    const uint64_t low = half(_mm512_castsi512_si256(level), words + i, &equal[0]);
    uint64_t drawn = low | uint64_t{half(_mm512_extracti64x4_epi64(level, 1), words + i + 32, &equal[1])} << 32;
    for (uint64_t left = equal[0] | uint64_t{equal[1]} << 32; left != 0; left &= left - 1) {
      const auto at = static_cast<uint32_t>(__builtin_ctzll(left));
      const bool draws = LowerHalfDraws(draw, LevelOf(depths[i + at], offset), stream, first + static_cast<uint32_t>(i) + at);
      drawn |= uint64_t{draws} << at;
    }
    if (n - i < kSketchKeys) drawn &= (uint64_t{1} << (n - i)) - 1;
    const auto many = static_cast<size_t>(__builtin_popcountll(drawn));
    // Compressing to memory itself is slow on some machines.
    __m512i place = _mm512_maskz_compress_epi8(drawn, places), of = _mm512_maskz_compress_epi8(drawn, level);
    const __m512i base = _mm512_set1_epi32(static_cast<int32_t>(first + i));
    for (size_t k = 0;;) {
      _mm512_storeu_si512(ids + count + k, _mm512_add_epi32(base, _mm512_cvtepu8_epi32(_mm512_castsi512_si128(place))));
      _mm512_storeu_ps(logs + count + k, LogsAt(draw.logs, _mm512_cvtepu8_epi32(_mm512_castsi512_si128(of))));
      if ((k += 16) >= many) break;
      place = _mm512_alignr_epi64(place, place, 2);
      of = _mm512_alignr_epi64(of, of, 2);
    }
    count += many;
  }
  return count;
}

}  // namespace

const SketchKernels kAvx512SketchKernels = {"avx512",     SketchRotate,    SketchEncode, Tables, Scan, SketchFactors,
                                            SketchDepths, SketchHistogram, CountTop, Words,        Draw};

}  // namespace magicpig::lsh
