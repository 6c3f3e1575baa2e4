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
void ScanWith(const uint8_t* codes, const uint16_t* factors, size_t blocks, uint32_t bits, size_t size, const SketchQuery* queries,
              float* scores, size_t stride, float* largest) {
  const size_t units = size / kSketchUnit;
  // Key pairs in order from the sums of even and of odd keys.
  alignas(64) static constexpr auto kOrderLow = [] {
    std::array<uint16_t, 32> order{};
    for (uint16_t i = 0; i < 32; ++i) order[i] = static_cast<uint16_t>(i / 2 + i % 2 * 32);
    return order;
  }();
  const __m512i order_low = _mm512_load_si512(kOrderLow.data());
  const __m512i order_high = _mm512_add_epi16(order_low, _mm512_set1_epi16(16));
  __m512 most[kCount];
#pragma GCC unroll 4
  for (size_t h = 0; h < kCount; ++h) most[h] = _mm512_set1_ps(largest[h]);

  for (size_t block = 0; block < blocks; ++block) {
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
        for (size_t g = 0; g < 8; ++g) x[g] = _mm512_load_si512(codes + g * kSketchKeys);
        const __m512i a = Upper(x[0], x[1], x[2]), b = Upper(x[3], x[4], x[5]), c = Upper(x[6], x[7], x[7]);
#pragma GCC unroll 4
        for (size_t h = 0; h < kCount; ++h) {
          const uint8_t* table = queries[h].tables + unit * kSketchTableBytes;
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
    __m512 factor[4];
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; ++i) {
      const __m256i bf16 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(factors + block * kSketchKeys + i * 16));
      factor[i] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16));
    }
#pragma GCC unroll 4
    for (size_t h = 0; h < kCount; ++h) {
      const __m512i even = _mm512_sub_epi16(sums[h].all, _mm512_slli_epi16(sums[h].odd, 8));
      const __m512i low = _mm512_permutex2var_epi16(even, order_low, sums[h].odd);
      const __m512i high = _mm512_permutex2var_epi16(even, order_high, sums[h].odd);
      const __m256i quarters[4] = {_mm512_castsi512_si256(low), _mm512_extracti64x4_epi64(low, 1), _mm512_castsi512_si256(high),
                                   _mm512_extracti64x4_epi64(high, 1)};
      const __m512 shift = _mm512_set1_ps(queries[h].shift);
      float* out = scores + h * stride + block * kSketchKeys;
#pragma GCC unroll 4
      for (size_t i = 0; i < 4; ++i) {
        const __m512 sum = _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(quarters[i]));
        const __m512 dot = _mm512_fmsub_ps(sum, _mm512_set1_ps(2), shift);  // exact: integers below 2^24
        const __m512 r = _mm512_mul_ps(dot, factor[i]);
        _mm512_storeu_ps(out + i * 16, r);
        most[h] = _mm512_max_ps(most[h], r);
      }
    }
  }
#pragma GCC unroll 4
  for (size_t h = 0; h < kCount; ++h) {
    alignas(64) float lanes[16];
    _mm512_store_ps(lanes, most[h]);
    for (const float lane : lanes) largest[h] = lane > largest[h] ? lane : largest[h];
  }
}

void Scan(const uint8_t* codes, const uint16_t* factors, size_t blocks, uint32_t bits, size_t size, const SketchQuery* queries,
          size_t count, float* scores, size_t stride, float* largest) {
  const auto scan = [&]<size_t kCount>() {
    const auto with = FineSpans(bits) ? ScanWith<kCount, true> : ScanWith<kCount, false>;
    with(codes, factors, blocks, bits, size, queries, scores, stride, largest);
  };
  switch (count) {
    case 1: return scan.template operator()<1>();
    case 2: return scan.template operator()<2>();
    case 3: return scan.template operator()<3>();
    default: return scan.template operator()<4>();
  }
}

// Eight Philox blocks at once, each word in the lower half of 64 bits.
void Uniforms(uint64_t seed, uint32_t head, uint32_t step, uint32_t first, size_t n, float* out) {
  const __m512i multiplier0 = _mm512_set1_epi64(0xD2511F53u), multiplier2 = _mm512_set1_epi64(0xCD9E8D57u);
  // In such an order that the words come out by ascending key.
  const __m512i blocks = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  constexpr int kXor3 = 0x96;
  for (size_t i = 0; i < n; i += 32) {
    __m512i c0 = _mm512_add_epi64(blocks, _mm512_set1_epi64((first + i) / 4)), c1 = _mm512_set1_epi64(head);
    __m512i c2 = _mm512_set1_epi64(step), c3 = _mm512_set1_epi64(3);
    uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
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
    const auto store = [out](size_t at, __m512i words) { _mm512_storeu_ps(out + at, _mm512_cvtepi32_ps(_mm512_srli_epi32(words, 8))); };
    store(i, _mm512_unpacklo_epi64(w01, w23));
    store(i + 16, _mm512_unpackhi_epi64(w01, w23));
  }
}

size_t Draw(const float* scores, const float* uniforms, size_t n, const SketchDraw& draw, uint32_t first, uint32_t* ids,
            float* thresholds) {
  const __m512 round = _mm512_set1_ps(0x1.8p23f), largest = _mm512_set1_ps(draw.largest), gain = _mm512_set1_ps(draw.gain);
  const __m512 tau = _mm512_set1_ps(draw.tau), floor = _mm512_set1_ps(draw.floor), least = _mm512_set1_ps(-60.0f);
  __m512i id = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int32_t>(first)),
                                _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  const auto multiply_add = [](__m512 a, __m512 b, float c) { return _mm512_add_ps(_mm512_mul_ps(a, b), _mm512_set1_ps(c)); };
  size_t count = 0;
  for (size_t i = 0; i < n; i += 16) {
    // SketchThreshold.
    const __m512 t = _mm512_max_ps(_mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(scores + i), largest), gain), least);
    const __m512 shifted = _mm512_add_ps(t, round);
    const __m512 f = _mm512_sub_ps(t, _mm512_sub_ps(shifted, round));
    __m512 p = multiply_add(_mm512_set1_ps(0.0551716648f), f, 0.242611125f);
    p = multiply_add(p, f, 0.693260968f);
    p = multiply_add(p, f, 0.999928057f);
    const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
    const __m512 w = _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), exponent));
    const __m512 threshold = _mm512_mul_ps(tau, _mm512_add_ps(w, floor));

    const __mmask16 drawn = _mm512_cmp_ps_mask(_mm512_loadu_ps(uniforms + i), threshold, _CMP_LT_OQ);
    // Compressing to memory itself is slow on some machines.
    _mm512_storeu_si512(ids + count, _mm512_maskz_compress_epi32(drawn, id));
    _mm512_storeu_ps(thresholds + count, _mm512_maskz_compress_ps(drawn, threshold));
    count += static_cast<size_t>(__builtin_popcount(drawn));
    id = _mm512_add_epi32(id, _mm512_set1_epi32(16));
  }
  return count;
}

}  // namespace

const SketchKernels kAvx512SketchKernels = {"avx512", SketchRotate,    SketchEncode, Tables, Scan,
                                            Uniforms, SketchHistogram, Draw,         SketchLogs};

}  // namespace magicpig::lsh
