// bfloat16 rows with AVX-512 BF16: vdpbf16ps multiplies and adds two bfloat16 pairs a lane, twice the arithmetic of a
// float32 FMA and no conversion. Queries and softmax weights are rounded to bfloat16 as the rows are; sums stay float32.
#include "attention_kernels.h"
#include "simd_avx512.h"

namespace magicpig::kv {
namespace {

// Its own vector type, so that no template is shared with kernels_avx512.cc.
struct Avx512Dot : Avx512 {};

struct Bf16Core {
  using V = Avx512Dot;
  using Elements = Bf16Elements<V>;
  using F = __m512;

  static constexpr uint32_t kPack = 2;
  static uint32_t QueryBytes(uint32_t dim) { return PaddedDim(dim) * 2; }
  static void PrepareQuery(const float* query, float scale, uint32_t dim, void* prepared) {
    auto* out = static_cast<uint16_t*>(prepared);
    for (uint32_t i = 0; i < dim; ++i) out[i] = ToBf16<V>(query[i] * scale);
    for (uint32_t i = dim; i < PaddedDim(dim); ++i) out[i] = 0;
  }

  template <int G, typename Ahead>
  static MAGICPIG_INLINE void Scores(const uint8_t* const* keys, uint32_t n, const void* queries, uint32_t dim,
                                     float* scores, Ahead ahead) {
    constexpr int kKeys = 16 / (G == 3 ? 4 : G);
    const auto* query = static_cast<const uint16_t*>(queries);
    const uint32_t stride = PaddedDim(dim);
    for (uint32_t j = 0; j < n; j += kKeys) {
      const uint8_t* row[kKeys];
      const uint8_t* later[kKeys];
      for (int k = 0; k < kKeys; ++k) {
        row[k] = keys[j + k < n ? j + k : n - 1];
        later[k] = ahead(j + k);
      }
      F sum[16];
      for (F& s : sum) s = V::Zero();
      uint32_t i = 0;
      const auto step = [&](auto load) __attribute__((always_inline)) {
        __m512i q[G];
        for (int g = 0; g < G; ++g) q[g] = _mm512_loadu_si512(query + g * stride + i);
        for (int k = 0; k < kKeys; ++k) {
          const __m512i key = load(row[k] + 2 * i);
          __builtin_prefetch(later[k] + 2 * i, 0, 2);
          for (int g = 0; g < G; ++g) sum[g * kKeys + k] = Dot(sum[g * kKeys + k], key, q[g]);
        }
      };
      for (; i + 32 <= dim; i += 32) step(kWhole);
      if (i < dim) step(TailOf(dim));
      alignas(64) float total[16];
      V::Store(total, V::SumEach(sum));
      for (int g = 0; g < G; ++g) std::memcpy(scores + g * kTileKeys + j, total + g * kKeys, kKeys * sizeof(float));
    }
  }

  template <int G, typename Ahead>
  static MAGICPIG_INLINE void Accumulate(const uint8_t* const* values, uint32_t n, const float* weights, uint32_t dim,
                                         const float* scale, float* o, uint32_t stride, Ahead ahead) {
    alignas(64) uint16_t packed[G * kTileKeys];
    const uint32_t pairs = (n + 1) / 2;
    for (int g = 0; g < G; ++g) {
      for (uint32_t j = 0; j < n; j += 32) PackWords(weights + g * kTileKeys + j, packed + g * kTileKeys + j);
      if (n % 2 != 0) packed[g * kTileKeys + n] = 0;
    }
    // As many elements at once as leave registers for the sums of all heads.
    constexpr int kVectors = G > 2 ? 2 : 4;
    uint32_t i = 0;
    for (; i + 32 * kVectors <= dim; i += 32 * kVectors) {
      Panel<G, kVectors>(values, n, pairs, packed, i, kWhole, scale, o, stride, ahead);
    }
    for (; i + 32 <= dim; i += 32) Panel<G, 1>(values, n, pairs, packed, i, kWhole, scale, o, stride, ahead);
    if (i < dim) Panel<G, 1>(values, n, pairs, packed, i, TailOf(dim), scale, o, stride, ahead);
  }

  // packed[i][j] = (key_j[2 i], key_j[2 i + 1]) for i < PaddedDim(dim) / 2, j < kTileKeys; zeros for j >= n.
  static void PackKeys(const uint8_t* const* keys, uint32_t n, uint32_t dim, void* packed) {
    auto* out = static_cast<uint32_t*>(packed);
    for (uint32_t i = 0; i < dim; i += 32) {
      const __mmask32 mask = dim - i >= 32 ? ~0u : TailMask(dim);
      for (uint32_t j = 0; j < kTileKeys; j += 16) {
        __m512i row[16];
        for (uint32_t k = 0; k < 16; ++k) {
          row[k] = j + k < n ? _mm512_maskz_loadu_epi16(mask, keys[j + k] + 2 * i) : _mm512_setzero_si512();
        }
        Transpose(row);
        for (uint32_t k = 0; k < 16; ++k) _mm512_storeu_si512(out + (i / 2 + k) * kTileKeys + j, row[k]);
      }
    }
  }
  static uint32_t KeySteps(uint32_t dim) { return (dim + 1) / 2; }

  // packed[j][i] = (value_(2 j)[i], value_(2 j + 1)[i]) for j < kTileKeys / 2, i < PaddedDim(dim); zeros beyond n, dim.
  static void PackValues(const uint8_t* const* values, uint32_t n, uint32_t dim, void* packed) {
    auto* out = static_cast<uint32_t*>(packed);
    const uint32_t stride = PaddedDim(dim);
    for (uint32_t j = 0; j < kTileKeys; j += 2) {
      for (uint32_t i = 0; i < stride; i += 32) {
        const __mmask32 mask = dim - i >= 32 ? ~0u : TailMask(dim);
        const __m512i a = j < n ? _mm512_maskz_loadu_epi16(mask, values[j] + 2 * i) : _mm512_setzero_si512();
        const __m512i b = j + 1 < n ? _mm512_maskz_loadu_epi16(mask, values[j + 1] + 2 * i) : _mm512_setzero_si512();
        F low, high;
        Unswizzle(_mm512_castsi512_ps(_mm512_unpacklo_epi16(a, b)), _mm512_castsi512_ps(_mm512_unpackhi_epi16(a, b)),
                  low, high);
        _mm512_storeu_ps(out + j / 2 * stride + i, low);
        _mm512_storeu_ps(out + j / 2 * stride + i + 16, high);
      }
    }
  }
  static constexpr uint32_t kValueSteps = kTileKeys / 2;

  static MAGICPIG_INLINE void PackWeights(const float* weights, void* packed) {
    auto* out = static_cast<uint16_t*>(packed);
    PackWords(weights, out);
    PackWords(weights + 32, out + 32);
  }
  static constexpr uint32_t kWeightBytes = kTileKeys * 2;

  static MAGICPIG_INLINE F Broadcast(const void* word) {
    int32_t x;
    std::memcpy(&x, word, sizeof x);
    return _mm512_castsi512_ps(_mm512_set1_epi32(x));
  }
  static MAGICPIG_INLINE F LoadPacked(const void* p) { return _mm512_loadu_ps(p); }
  static MAGICPIG_INLINE F Multiply(F a, F b, F c) { return Dot(c, _mm512_castps_si512(a), _mm512_castps_si512(b)); }

 private:
  static MAGICPIG_INLINE F Dot(F sum, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
  static MAGICPIG_INLINE __mmask32 TailMask(uint32_t dim) { return (1u << (dim % 32)) - 1; }
  // Loads 32 elements of a row, or the fewer with which it ends.
  static constexpr auto kWhole = [](const uint8_t* p) { return _mm512_loadu_si512(p); };
  static MAGICPIG_INLINE auto TailOf(uint32_t dim) {
    return [mask = TailMask(dim)](const uint8_t* p) { return _mm512_maskz_loadu_epi16(mask, p); };
  }

  // 32 float32 to bfloat16.
  static MAGICPIG_INLINE void PackWords(const float* in, uint16_t* out) {
    const __m512bh words = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(in + 16), _mm512_loadu_ps(in));
    std::memcpy(out, &words, sizeof words);
  }

  // unpacklo and unpackhi of 32 words leave elements 0-3, 8-11, ... in one vector and 4-7, 12-15, ... in the other:
  // into that order and back.
  static MAGICPIG_INLINE void Swizzle(F low, F high, F& even, F& odd) {
    even = _mm512_shuffle_f32x4(low, high, 0x88);
    odd = _mm512_shuffle_f32x4(low, high, 0xdd);
  }
  static MAGICPIG_INLINE void Unswizzle(F even, F odd, F& low, F& high) {
    low = _mm512_shuffle_f32x4(even, odd, 0x44);
    high = _mm512_shuffle_f32x4(even, odd, 0xee);
    low = _mm512_shuffle_f32x4(low, low, 0xd8);
    high = _mm512_shuffle_f32x4(high, high, 0xd8);
  }

  // 16 x 16 words of 32 bits, in place.
  static MAGICPIG_INLINE void Transpose(__m512i* r) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
      t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
      t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
      r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
      r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
      r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
      r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
      t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
      t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
      t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
      t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; ++i) {
      r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
      r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
      r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
      r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
  }

  // Elements [i, i + 32 N) of the weighted sum, two rows at a time.
  template <int G, int N, typename Load, typename Ahead>
  static MAGICPIG_INLINE void Panel(const uint8_t* const* values, uint32_t n, uint32_t pairs, const uint16_t* weights,
                                    uint32_t i, Load load, const float* scale, float* o, uint32_t stride, Ahead ahead) {
    F even[G][N], odd[G][N];
    for (int g = 0; g < G; ++g) {
      for (int k = 0; k < N; ++k) {
        const float* p = o + g * stride + i + 32 * k;
        const F factor = V::Set1(scale[g]);
        Swizzle(V::Mul(V::Load(p), factor), V::Mul(V::Load(p + 16), factor), even[g][k], odd[g][k]);
      }
    }
    for (uint32_t j = 0; j < pairs; ++j) {
      const uint8_t* later_a = ahead(2 * j) + 2 * i;
      const uint8_t* later_b = ahead(2 * j + 1) + 2 * i;
      const uint8_t* a = values[2 * j] + 2 * i;
      const uint8_t* b = values[2 * j + 1 < n ? 2 * j + 1 : 2 * j] + 2 * i;
      __m512i low[N], high[N];
      for (int k = 0; k < N; ++k) {
        const __m512i first = load(a + 64 * k), second = load(b + 64 * k);
        __builtin_prefetch(later_a + 64 * k, 0, 2);
        __builtin_prefetch(later_b + 64 * k, 0, 2);
        low[k] = _mm512_unpacklo_epi16(first, second);
        high[k] = _mm512_unpackhi_epi16(first, second);
      }
      for (int g = 0; g < G; ++g) {
        int32_t pair;
        std::memcpy(&pair, weights + g * kTileKeys + 2 * j, sizeof pair);
        const __m512i weight = _mm512_set1_epi32(pair);
        for (int k = 0; k < N; ++k) {
          even[g][k] = Dot(even[g][k], low[k], weight);
          odd[g][k] = Dot(odd[g][k], high[k], weight);
        }
      }
    }
    for (int g = 0; g < G; ++g) {
      for (int k = 0; k < N; ++k) {
        F low, high;
        Unswizzle(even[g][k], odd[g][k], low, high);
        float* p = o + g * stride + i + 32 * k;
        V::Store(p, low);
        V::Store(p + 16, high);
      }
    }
  }
};

}  // namespace

extern const Kernels kAvx512DotBf16 = MakeKernels<Bf16Core>();

}  // namespace magicpig::kv
