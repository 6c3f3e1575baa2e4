// A core that multiplies in float32, for all vectors and element types.
#ifndef MAGICPIG_KV_FLOAT_CORE_H_
#define MAGICPIG_KV_FLOAT_CORE_H_

#include <cstdint>
#include <cstring>

#include "elements.h"
#include "kernels.h"

namespace magicpig::kv {

template <class Vector, class Elements_>
struct FloatCore {
  using V = Vector;
  using Elements = Elements_;
  using F = typename V::F;

  // Prepared queries and packed tiles are float32.
  static constexpr uint32_t kPack = 1;  // elements of a row that one packed 32-bit word holds
  static uint32_t QueryBytes(uint32_t dim) { return PaddedDim(dim) * 4; }
  static void PrepareQuery(const float* query, float scale, uint32_t dim, void* prepared) {
    auto* out = static_cast<float*>(prepared);
    for (uint32_t i = 0; i < dim; ++i) out[i] = query[i] * scale;
    for (uint32_t i = dim; i < PaddedDim(dim); ++i) out[i] = 0.0f;
  }

  // scores[g][j] = query_g . key_j for g < G, j < n; up to kLanes scores behind them are overwritten. Prefetches the
  // row at ahead(j) along with key_j.
  template <int G, typename Ahead>
  static MAGICPIG_INLINE void Scores(const uint8_t* const* keys, uint32_t n, const void* queries, uint32_t dim,
                                     float* scores, Ahead ahead) {
    constexpr int kKeys = V::kLanes / (G == 3 ? 4 : G);
    const auto* query = static_cast<const float*>(queries);
    const uint32_t stride = PaddedDim(dim);
    for (uint32_t j = 0; j < n; j += kKeys) {
      const uint8_t* row[kKeys];
      const uint8_t* later[kKeys];
      for (int k = 0; k < kKeys; ++k) {
        row[k] = keys[j + k < n ? j + k : n - 1];
        later[k] = ahead(j + k);
      }
      F sum[V::kLanes];
      for (F& s : sum) s = V::Zero();
      uint32_t i = 0;
      const auto step = [&](auto load) __attribute__((always_inline)) {
        F q[G];
        for (int g = 0; g < G; ++g) q[g] = V::Load(query + g * stride + i);
        for (int k = 0; k < kKeys; ++k) {
          const F key = load(row[k], i);
          __builtin_prefetch(later[k] + i * Elements::kBytes, 0, 2);
          for (int g = 0; g < G; ++g) sum[g * kKeys + k] = V::Fma(key, q[g], sum[g * kKeys + k]);
        }
      };
      for (; i + V::kLanes <= dim; i += V::kLanes) step(kLoad);
      if constexpr (V::kLanes == 16) {
        if (i < dim) step(kLoadHalf);
      }
      float total[V::kLanes];
      V::Store(total, V::SumEach(sum));
      if constexpr (Elements::kScaled) {
        for (int k = 0; k < kKeys; ++k) {
          const float factor = Elements::Scale(row[k], dim);
          for (int g = 0; g < G; ++g) total[g * kKeys + k] *= factor;
        }
      }
      for (int g = 0; g < G; ++g) std::memcpy(scores + g * kTileKeys + j, total + g * kKeys, kKeys * sizeof(float));
    }
  }

  // o_g = o_g * scale[g] + sum_j weights[g][j] value_j. Prefetches the row at
  // ahead(j) along with value_j.
  template <int G, typename Ahead>
  static MAGICPIG_INLINE void Accumulate(const uint8_t* const* values, uint32_t n, const float* weights, uint32_t dim,
                                         const float* scale, float* o, uint32_t stride, Ahead ahead) {
    constexpr int kPanel = G == 1 ? 8 : G == 2 ? V::kRegisters / 2 : V::kRegisters / 4;
    uint32_t i = 0;
    for (; i + kPanel * V::kLanes <= dim; i += kPanel * V::kLanes) {
      Panel<G, kPanel>(values, n, weights, dim, i, scale, o, stride, kLoad, ahead);
    }
    for (; i + V::kLanes <= dim; i += V::kLanes) {
      Panel<G, 1>(values, n, weights, dim, i, scale, o, stride, kLoad, ahead);
    }
    if constexpr (V::kLanes == 16) {
      if (i < dim) Panel<G, 1>(values, n, weights, dim, i, scale, o, stride, kLoadHalf, ahead);
    }
  }

  // packed[i][j] = key_j[i] for i < dim, j < kTileKeys; zeros for j >= n.
  static void PackKeys(const uint8_t* const* keys, uint32_t n, uint32_t dim, void* packed) {
    auto* out = static_cast<float*>(packed);
    float row[256];
    for (uint32_t j = 0; j < kTileKeys; ++j) {
      if (j < n) {
        Elements::LoadRow(keys[j], dim, row);
      } else {
        std::memset(row, 0, sizeof row);
      }
      for (uint32_t i = 0; i < dim; ++i) out[i * kTileKeys + j] = row[i];
    }
  }
  static uint32_t KeySteps(uint32_t dim) { return dim; }

  // packed[j][i] = value_j[i] for j < kTileKeys, i < PaddedDim(dim); zeros for j >= n and i >= dim.
  static void PackValues(const uint8_t* const* values, uint32_t n, uint32_t dim, void* packed) {
    auto* out = static_cast<float*>(packed);
    const uint32_t stride = PaddedDim(dim);
    std::memset(out, 0, sizeof(float) * stride * kTileKeys);
    for (uint32_t j = 0; j < n; ++j) Elements::LoadRow(values[j], dim, out + j * stride);
  }
  static constexpr uint32_t kValueSteps = kTileKeys;

  // Weights of one row (kTileKeys) in the form in which Multiply reads them.
  static MAGICPIG_INLINE void PackWeights(const float* weights, void* packed) {
    std::memcpy(packed, weights, kTileKeys * sizeof(float));
  }
  static constexpr uint32_t kWeightBytes = kTileKeys * 4;

  static MAGICPIG_INLINE F Broadcast(const void* word) {
    float x;
    std::memcpy(&x, word, sizeof x);
    return V::Set1(x);
  }
  static MAGICPIG_INLINE F LoadPacked(const void* p) { return V::Load(static_cast<const float*>(p)); }
  static MAGICPIG_INLINE F Multiply(F a, F b, F c) { return V::Fma(a, b, c); }

 private:
  // A whole vector of a row's elements from i on, or the half vector with which it ends.
  static constexpr auto kLoad = [](const auto* row, uint32_t i) { return Elements::Load(row, i); };
  static constexpr auto kLoadHalf = [](const auto* row, uint32_t i) { return Elements::LoadHalf(row, i); };

  template <int G, int N, typename Load, typename Ahead>
  static MAGICPIG_INLINE void Panel(const uint8_t* const* values, uint32_t n, const float* weights,
                                    [[maybe_unused]] uint32_t dim, uint32_t i, const float* scale, float* o, uint32_t stride, Load load, Ahead ahead) {
    F sum[G][N];
    for (int g = 0; g < G; ++g) {
      for (int k = 0; k < N; ++k) {
        sum[g][k] = V::Mul(V::Load(o + g * stride + i + k * V::kLanes), V::Set1(scale[g]));
      }
    }
    for (uint32_t j = 0; j < n; ++j) {
      const uint8_t* later = ahead(j);
      F value[N];
      for (int k = 0; k < N; ++k) {
        value[k] = load(values[j], i + k * V::kLanes);
        __builtin_prefetch(later + (i + k * V::kLanes) * Elements::kBytes, 0, 2);
      }
      for (int g = 0; g < G; ++g) {
        float factor = weights[g * kTileKeys + j];
        if constexpr (Elements::kScaled) factor *= Elements::Scale(values[j], dim);
        const F weight = V::Set1(factor);
        for (int k = 0; k < N; ++k) sum[g][k] = V::Fma(weight, value[k], sum[g][k]);
      }
    }
    for (int g = 0; g < G; ++g) {
      for (int k = 0; k < N; ++k) V::Store(o + g * stride + i + k * V::kLanes, sum[g][k]);
    }
  }
};

}  // namespace magicpig::kv

#endif  // MAGICPIG_KV_FLOAT_CORE_H_
