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
constexpr size_t kAheadBlocks = 4;
constexpr auto kHint = _MM_HINT_T1;

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
  [[gnu::always_inline]] __m512i Even() const { return _mm512_sub_epi16(all, _mm512_slli_epi16(odd, 8)); }
};

// Sums of one block of codes for each query. The block at `ahead` is fetched meanwhile.
template <size_t kCount, bool kFine>
[[gnu::always_inline]] inline void ScanBlock(const uint8_t* codes, const uint8_t* ahead, uint32_t bits, size_t units, const uint8_t* tables,
                                             Sums (&sums)[kCount]) {
#pragma GCC unroll 4
  for (size_t h = 0; h < kCount; ++h) sums[h] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
  for (uint32_t plane = 0; plane < bits; ++plane) {
#pragma GCC unroll 4
    for (size_t h = 0; h < kCount; ++h) {
      sums[h] = {_mm512_slli_epi16(sums[h].all, 1), _mm512_slli_epi16(sums[h].odd, 1)};
    }
    for (size_t unit = 0; unit < units; ++unit, codes += 8 * kSketchKeys, ahead += 8 * kSketchKeys) {
      __m512i x[8];
#pragma GCC unroll 8
      for (size_t g = 0; g < 8; ++g) {
        x[g] = _mm512_load_si512(codes + g * kSketchKeys);
        _mm_prefetch(reinterpret_cast<const char*>(ahead + g * kSketchKeys), kHint);
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
}

template <size_t kCount, bool kFine>
void ScanWith(const uint8_t* codes, size_t blocks, uint32_t bits, size_t size, const uint8_t* tables, uint16_t* out, size_t stride) {
  const size_t units = size / kSketchUnit, block_bytes = bits * size / 8 * kSketchKeys;
  // Key pairs in order from the sums of even and of odd keys.
  alignas(64) static constexpr auto kOrderLow = [] {
    std::array<uint16_t, 32> order{};
    for (uint16_t i = 0; i < 32; ++i) order[i] = static_cast<uint16_t>(i / 2 + i % 2 * 32);
    return order;
  }();
  const __m512i order_low = _mm512_load_si512(kOrderLow.data());
  const __m512i order_high = _mm512_add_epi16(order_low, _mm512_set1_epi16(16));
  for (size_t block = 0; block < blocks; ++block, out += kSketchKeys, codes += block_bytes) {
    Sums sums[kCount];
    ScanBlock<kCount, kFine>(codes, codes + kAheadBlocks * block_bytes, bits, units, tables, sums);
#pragma GCC unroll 4
    for (size_t h = 0; h < kCount; ++h) {
      const __m512i even = sums[h].Even();
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

// F of 32 factors.
inline __m512i Factors(__m512i bf16, __m512i exponent) {
  const __m512i own = _mm512_and_si512(_mm512_srli_epi16(bf16, 7), _mm512_set1_epi16(0xff));
  const __m512i mantissa = _mm512_slli_epi16(_mm512_or_si512(_mm512_and_si512(bf16, _mm512_set1_epi16(0x7f)), _mm512_set1_epi16(0x80)), 7);
  const __m512i places = _mm512_min_epi16(_mm512_subs_epu16(exponent, own), _mm512_set1_epi16(15));
  return _mm512_maskz_srlv_epi16(_mm512_test_epi16_mask(own, own), mantissa, places);
}

template <size_t kCount, bool kFine>
void DepthsWith(const SketchKeys& keys, size_t n, const SketchKeys& next, uint32_t bits, size_t size, const SketchQueries& queries,
                const int32_t* bounds, int32_t* tops, uint8_t* depths, size_t stride) {
  const size_t units = size / kSketchUnit, block_bytes = bits * size / 8 * kSketchKeys, blocks = (n + kSketchKeys - 1) / kSketchKeys;
  struct {
    __m512i half, gain, bound, top;
    __m128i lift;
  } of[kCount];
  for (size_t h = 0; h < kCount; ++h) {
    const SketchScale& scale = queries.scales[h];
    of[h] = {_mm512_set1_epi16(static_cast<int16_t>(scale.half)), _mm512_set1_epi16(scale.gain),
             _mm512_set1_epi16(static_cast<int16_t>(bounds[h])), _mm512_set1_epi16(INT16_MIN), _mm_cvtsi32_si128(scale.lift)};
  }
  // Of two runs of 32, the even and the odd ones.
  alignas(64) static constexpr auto kEven = [] {
    std::array<uint16_t, 32> order{};
    for (uint16_t i = 0; i < 32; ++i) order[i] = static_cast<uint16_t>(2 * i);
    return order;
  }();
  const __m512i evens = _mm512_load_si512(kEven.data()), odds = _mm512_add_epi16(evens, _mm512_set1_epi16(1));
  const __m512i exponent = _mm512_set1_epi16(static_cast<int16_t>(queries.exponent)), most = _mm512_set1_epi16(255);
  for (size_t line = 0; line < kSketchChunk / 32; ++line) _mm_prefetch(reinterpret_cast<const char*>(next.factors + line * 32), kHint);
  for (size_t block = 0; block < blocks; ++block) {
    const size_t later = block + kAheadBlocks;
    const uint8_t* ahead = later < blocks ? keys.codes + later * block_bytes : next.codes + (later - blocks) * block_bytes;
    Sums sums[kCount];
    ScanBlock<kCount, kFine>(keys.codes + block * block_bytes, ahead, bits, units, queries.tables, sums);
    const uint16_t* from = keys.factors + block * kSketchKeys;
    const __m512i low = Factors(_mm512_loadu_si512(from), exponent), high = Factors(_mm512_loadu_si512(from + 32), exponent);
    const __m512i even_factors = _mm512_permutex2var_epi16(low, evens, high), odd_factors = _mm512_permutex2var_epi16(low, odds, high);
    // Of the last block only keys.
    const size_t left = n - block * kSketchKeys;
    const auto first_lanes = [](size_t lanes) { return lanes < 32 ? (1u << lanes) - 1 : ~0u; };
    const __mmask32 even_lanes = first_lanes((left + 1) / 2), odd_lanes = first_lanes(left / 2);
#pragma GCC unroll 4
    for (size_t h = 0; h < kCount; ++h) {
      const auto score = [&](__m512i sum, __m512i factors) {
        const __m512i dot = _mm512_sll_epi16(_mm512_sub_epi16(sum, of[h].half), of[h].lift);
        return _mm512_mulhrs_epi16(_mm512_mulhrs_epi16(dot, factors), of[h].gain);
      };
      const __m512i even = score(sums[h].Even(), even_factors), odd = score(sums[h].odd, odd_factors);
      of[h].top = _mm512_mask_max_epi16(of[h].top, even_lanes, of[h].top, even);
      of[h].top = _mm512_mask_max_epi16(of[h].top, odd_lanes, of[h].top, odd);
      const auto depth = [&](__m512i score) {
        return _mm512_min_epi16(_mm512_max_epi16(_mm512_sub_epi16(of[h].bound, score), _mm512_setzero_si512()), most);
      };
      _mm512_storeu_si512(depths + h * stride + block * kSketchKeys, _mm512_or_si512(depth(even), _mm512_slli_epi16(depth(odd), 8)));
    }
  }
  for (size_t h = 0; h < kCount; ++h) {
    const __m512i top = of[h].top;
    const __m512i pairs = _mm512_max_epi32(_mm512_srai_epi32(top, 16), _mm512_srai_epi32(_mm512_slli_epi32(top, 16), 16));
    tops[h] = _mm512_reduce_max_epi32(pairs);
  }
}

void Depths(const SketchKeys& keys, size_t n, const SketchKeys& next, uint32_t bits, size_t size, const SketchQueries& queries,
            const int32_t* bounds, int32_t* tops, uint8_t* depths, size_t stride) {
  const auto with = [&]<size_t kCount>() {
    const auto scan = FineSpans(bits) ? DepthsWith<kCount, true> : DepthsWith<kCount, false>;
    scan(keys, n, next, bits, size, queries, bounds, tops, depths, stride);
  };
  switch (queries.count) {
    case 1: return with.template operator()<1>();
    case 2: return with.template operator()<2>();
    case 3: return with.template operator()<3>();
    default: return with.template operator()<4>();
  }
}

// Eight Philox blocks at once, each word in the lower half of 64 bits.
void Ranks(const SketchStream& stream, uint32_t first, size_t n, uint8_t* ranks) {
  const __m512i multiplier0 = _mm512_set1_epi64(0xD2511F53u), multiplier2 = _mm512_set1_epi64(0xCD9E8D57u);
  const __m512i blocks = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
  constexpr int kXor3 = 0x96;
  // Ranks of halves, in the lower bytes of 32 bits.
  const auto rank = [](__m512i half) {
    const __m512 raised = _mm512_cvtepi32_ps(_mm512_add_epi32(half, _mm512_set1_epi32(16)));
    return _mm512_sub_epi32(_mm512_srli_epi32(_mm512_castps_si512(raised), kRankShift), _mm512_set1_epi32(kLeastRankBits));
  };
  const auto pair = [&](__m512i words) {
    const __m512i low = rank(_mm512_and_si512(words, _mm512_set1_epi32(0xffff))), high = rank(_mm512_srli_epi32(words, 16));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 8));
  };
  __m512i keys[10][2];
  auto key0 = static_cast<uint32_t>(stream.seed), key1 = static_cast<uint32_t>(stream.seed >> 32);
  for (auto& key : keys) {
    key[0] = _mm512_set1_epi64(key0);
    key[1] = _mm512_set1_epi64(key1);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  const __m512i head = _mm512_set1_epi64(stream.head), step = _mm512_set1_epi64(stream.step), domain = _mm512_set1_epi64(kDrawDomain);
  for (size_t i = 0; i < n; i += 64) {
    __m512i c0 = _mm512_add_epi64(blocks, _mm512_set1_epi64((first + i) / 8)), c1 = head, c2 = step, c3 = domain;
#pragma GCC unroll 10
    for (const auto& key : keys) {
      const __m512i p0 = _mm512_mul_epu32(c0, multiplier0), p2 = _mm512_mul_epu32(c2, multiplier2);
      c0 = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p2, 32), c1, key[0], kXor3);
      c2 = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p0, 32), c3, key[1], kXor3);
      c1 = p2;
      c3 = p0;
    }
    constexpr __mmask16 kUpper = 0xaaaa;
    // Words 0 and 1 of each block, and 2 and 3; then 16 bits of each, block after block.
    const __m512i w01 = pair(_mm512_mask_shuffle_epi32(c0, kUpper, c1, _MM_PERM_CCAA));
    const __m512i w23 = pair(_mm512_mask_shuffle_epi32(c2, kUpper, c3, _MM_PERM_CCAA));
    _mm512_storeu_si512(ranks + i, _mm512_shuffle_epi32(_mm512_packus_epi32(w01, w23), _MM_PERM_DBCA));
  }
}

void CountTop(const uint8_t* depths, size_t n, int32_t offset, int32_t below, uint32_t* counts) {
  if (below <= offset) return;
  const __m512i limit = _mm512_set1_epi8(static_cast<char>(below - offset));
  const auto found = [&](size_t i) { return _mm512_cmplt_epu8_mask(_mm512_loadu_si512(depths + i), limit); };
  for (size_t i = 0; i < n; i += kSketchKeys) {
    uint64_t left = found(i);
    if (n - i < kSketchKeys) left &= (uint64_t{1} << (n - i)) - 1;
    for (; left != 0; left &= left - 1) ++counts[depths[i + static_cast<size_t>(__builtin_ctzll(left))] + offset];
  }
}

// logs [kSketchLevels] at each level.
inline __m512 LogsAt(const float* logs, __m512i level) {
  const __m512 low = _mm512_permutex2var_ps(_mm512_loadu_ps(logs), level, _mm512_loadu_ps(logs + 16));
  const __m512 high = _mm512_permutex2var_ps(_mm512_loadu_ps(logs + 32), level, _mm512_loadu_ps(logs + 48));
  return _mm512_mask_blend_ps(_mm512_test_epi32_mask(level, _mm512_set1_epi32(32)), low, high);
}

size_t Draw(const uint8_t* depths, int32_t offset, const uint8_t* ranks, size_t n, const SketchDraw& draw, uint32_t first, uint32_t* ids,
            float* logs) {
  const __m512i above = _mm512_set1_epi8(static_cast<char>(offset < 0 ? -offset : 0));
  const __m512i below = _mm512_set1_epi8(static_cast<char>(offset < 0 ? 0 : offset < 255 ? offset : 255));
  const __m512i last = _mm512_set1_epi8(kSketchLevels - 1), thresholds = _mm512_load_si512(draw.ranks);
  alignas(64) static constexpr auto kPlaces = [] {
    std::array<uint8_t, 64> places{};
    for (uint8_t i = 0; i < 64; ++i) places[i] = i;
    return places;
  }();
  const __m512i places = _mm512_load_si512(kPlaces.data());
  uint8_t levels[kSketchChunk + kSketchKeys];
  size_t count = 0;
  for (size_t i = 0; i < n; i += kSketchKeys) {
    const __m512i depth = _mm512_loadu_si512(depths + i);
    const __m512i level = _mm512_min_epu8(_mm512_adds_epu8(_mm512_subs_epu8(depth, above), below), last);
    uint64_t drawn = _mm512_cmplt_epu8_mask(_mm512_loadu_si512(ranks + i), _mm512_permutexvar_epi8(level, thresholds));
    if (n - i < kSketchKeys) drawn &= (uint64_t{1} << (n - i)) - 1;
    const auto many = static_cast<size_t>(__builtin_popcountll(drawn));
    // Compressing to memory itself is slow on some machines.
    _mm512_storeu_si512(levels + count, _mm512_maskz_compress_epi8(drawn, level));
    __m512i place = _mm512_maskz_compress_epi8(drawn, places);
    const __m512i base = _mm512_set1_epi32(static_cast<int32_t>(first + i));
    for (size_t k = 0;;) {
      _mm512_storeu_si512(ids + count + k, _mm512_add_epi32(base, _mm512_cvtepu8_epi32(_mm512_castsi512_si128(place))));
      if ((k += 16) >= many) break;
      place = _mm512_alignr_epi64(place, place, 2);
    }
    count += many;
  }
  for (size_t k = 0; k < count; k += 16) {
    _mm512_storeu_ps(logs + k, LogsAt(draw.logs, _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(levels + k)))));
  }
  return count;
}

}  // namespace

const SketchKernels kAvx512SketchKernels = {"avx512", SketchRotate,    SketchEncode, Tables, Scan,
                                            Depths,   SketchHistogram, CountTop,     Ranks,  Draw};

}  // namespace magicpig::lsh
