// The attention algorithms, once, as templates over how rows are read and multiplied (a "core").
//
// Included by one source file for each instruction set, compiled with that set's flags. Everything here is a template
// over a type of that file's own or forced inline, so that the linker never takes one file's code for another's.
#ifndef MAGICPIG_KV_ATTENTION_KERNELS_H_
#define MAGICPIG_KV_ATTENTION_KERNELS_H_

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels.h"

namespace magicpig::kv {

inline constexpr int kMaxGroup = 4;  // query heads that share one pass over the rows

// e^x for x <= 0 within 2 ulp; 0 below -87, where float32 is about to lose its normal range.
// Cephes' expf: x = n ln 2 + r, a polynomial in r.
template <class V>
MAGICPIG_INLINE typename V::F Exp(typename V::F x) {
  using F = typename V::F;
  const F clamped = V::Max(x, V::Set1(-87.0f));
  const F n = V::Round(V::Mul(clamped, V::Set1(1.44269504f)));
  F r = V::Fma(n, V::Set1(-0.693359375f), clamped);
  r = V::Fma(n, V::Set1(2.12194440e-4f), r);
  F p = V::Set1(1.9875691500e-4f);
  p = V::Fma(p, r, V::Set1(1.3981999507e-3f));
  p = V::Fma(p, r, V::Set1(8.3334519073e-3f));
  p = V::Fma(p, r, V::Set1(4.1665795894e-2f));
  p = V::Fma(p, r, V::Set1(1.6666665459e-1f));
  p = V::Fma(p, r, V::Set1(5.0000001201e-1f));
  p = V::Fma(V::Mul(r, r), p, V::Add(r, V::Set1(1.0f)));
  return V::ZeroBelow(V::Mul(p, V::Exp2(n)), x, -87.0f);
}

// e^(from - to) of two maxima; 0 when there was nothing before.
MAGICPIG_INLINE float Rescale(float from, float to) { return from == -INFINITY ? 0.0f : __builtin_expf(from - to); }

MAGICPIG_INLINE void Prefetch(const uint8_t* row, uint32_t bytes) {
  for (uint32_t i = 0; i < bytes; i += 64) __builtin_prefetch(row + i, 0, 2);
}

// Element types of stored rows ---------------------------------------------------------------------------------------

template <class V>
struct F32Elements {
  static constexpr uint32_t kBytes = 4;
  static constexpr bool kScaled = false;  // whether a row is its elements times Scale()
  static MAGICPIG_INLINE typename V::F Load(const uint8_t* row, uint32_t i) {
    return V::Load(reinterpret_cast<const float*>(row) + i);
  }
  static MAGICPIG_INLINE typename V::F LoadHalf(const uint8_t* row, uint32_t i) {
    return V::LoadHalf(reinterpret_cast<const float*>(row) + i);
  }
  static void StoreRow(const float* row, uint32_t dim, uint8_t* stored) { std::memcpy(stored, row, dim * 4); }
  static void LoadRow(const uint8_t* stored, uint32_t dim, float* row) { std::memcpy(row, stored, dim * 4); }
};

template <class V>
MAGICPIG_INLINE uint16_t ToBf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const uint32_t quiet_nan = (bits >> 16) | 0x40;  // rounding could carry a NaN into an infinity
  return static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? quiet_nan : rounded);
}

template <class V>
struct Bf16Elements {
  static constexpr uint32_t kBytes = 2;
  static constexpr bool kScaled = false;
  static MAGICPIG_INLINE typename V::F Load(const uint8_t* row, uint32_t i) { return V::LoadBf16(row + 2 * i); }
  static MAGICPIG_INLINE typename V::F LoadHalf(const uint8_t* row, uint32_t i) { return V::LoadBf16Half(row + 2 * i); }
  static void StoreRow(const float* row, uint32_t dim, uint8_t* stored) {
    auto* out = reinterpret_cast<uint16_t*>(stored);
    for (uint32_t i = 0; i < dim; ++i) out[i] = ToBf16<V>(row[i]);
  }
  static void LoadRow(const uint8_t* stored, uint32_t dim, float* row) {
    for (uint32_t i = 0; i < dim; ++i) {
      uint16_t half;
      std::memcpy(&half, stored + 2 * i, sizeof half);
      const uint32_t bits = static_cast<uint32_t>(half) << 16;
      std::memcpy(row + i, &bits, sizeof bits);
    }
  }
};

// float32 to IEEE half precision, to nearest even.
template <class V>
MAGICPIG_INLINE uint16_t ToF16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);   // NaN
  if (magnitude >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // rounds to infinity
  if (magnitude < 0x38800000) {  // subnormal: adding 1/2 leaves the multiples of 2^-24 in the lowest bits
    float shifted;
    std::memcpy(&shifted, &magnitude, sizeof shifted);
    shifted += 0.5f;
    std::memcpy(&bits, &shifted, sizeof bits);
    return static_cast<uint16_t>(sign | (bits - 0x3f000000));
  }
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13));
}

template <class V>
struct F16Elements {
  static constexpr uint32_t kBytes = 2;
  static constexpr bool kScaled = false;
  static MAGICPIG_INLINE typename V::F Load(const uint8_t* row, uint32_t i) { return V::LoadF16(row + 2 * i); }
  static MAGICPIG_INLINE typename V::F LoadHalf(const uint8_t* row, uint32_t i) { return V::LoadF16Half(row + 2 * i); }
  static void StoreRow(const float* row, uint32_t dim, uint8_t* stored) {
    auto* out = reinterpret_cast<uint16_t*>(stored);
    for (uint32_t i = 0; i < dim; ++i) out[i] = ToF16<V>(row[i]);
  }
  static void LoadRow(const uint8_t* stored, uint32_t dim, float* row) {
    uint32_t i = 0;
    for (; i + V::kLanes <= dim; i += V::kLanes) V::Store(row + i, Load(stored, i));
    if constexpr (V::kLanes == 16) {
      if (i < dim) {
        float rest[16];
        V::Store(rest, LoadHalf(stored, i));
        std::memcpy(row + i, rest, (dim - i) * sizeof(float));
      }
    }
  }
};

template <class V>
struct Int8Elements {
  static constexpr uint32_t kBytes = 1;
  static constexpr bool kScaled = true;
  static MAGICPIG_INLINE typename V::F Load(const uint8_t* row, uint32_t i) { return V::LoadInt8(row + i); }
  static MAGICPIG_INLINE typename V::F LoadHalf(const uint8_t* row, uint32_t i) { return V::LoadInt8Half(row + i); }
  static MAGICPIG_INLINE float Scale(const uint8_t* row, uint32_t dim) {
    float scale;
    std::memcpy(&scale, row + dim, sizeof scale);
    return scale;
  }
  // The largest element becomes 127 or -127.
  static void StoreRow(const float* row, uint32_t dim, uint8_t* stored) {
    float largest = 0.0f;
    for (uint32_t i = 0; i < dim; ++i) largest = __builtin_fabsf(row[i]) > largest ? __builtin_fabsf(row[i]) : largest;
    const float scale = largest / 127.0f, inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    for (uint32_t i = 0; i < dim; ++i) {
      float x = row[i] * inverse;
      x = x > 127.0f ? 127.0f : x > -127.0f ? x : -127.0f;  // rounding of 1 / scale, and NaN
      stored[i] = static_cast<uint8_t>(static_cast<int8_t>(x + (x < 0.0f ? -0.5f : 0.5f)));
    }
    std::memcpy(stored + dim, &scale, sizeof scale);
  }
  static void LoadRow(const uint8_t* stored, uint32_t dim, float* row) {
    const float scale = Scale(stored, dim);
    for (uint32_t i = 0; i < dim; ++i) row[i] = static_cast<int8_t>(stored[i]) * scale;
  }
};

// A core that multiplies in float32 ----------------------------------------------------------------------------------

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

// One step of the online softmax --------------------------------------------------------------------------------------

// Turns scores[0..n) of one query into weights e^{s - max}, zeros up to kTileKeys; extends max and sum, and returns the
// factor for what was summed under the old maximum.
template <class V>
MAGICPIG_INLINE float SoftmaxTile(float* scores, uint32_t n, float& max, float& sum) {
  using F = typename V::F;
  for (uint32_t j = n; j < kTileKeys; ++j) scores[j] = -INFINITY;
  F largest = V::Load(scores);
  for (uint32_t j = V::kLanes; j < kTileKeys; j += V::kLanes) largest = V::Max(largest, V::Load(scores + j));
  const float tile_max = V::Largest(largest);
  const float new_max = tile_max > max ? tile_max : max;
  const F shift = V::Set1(new_max);
  F total = V::Zero();
  for (uint32_t j = 0; j < kTileKeys; j += V::kLanes) {
    const F weight = Exp<V>(V::Sub(V::Load(scores + j), shift));
    total = V::Add(total, weight);
    V::Store(scores + j, weight);
  }
  const float rescale = tile_max > max ? Rescale(max, new_max) : 1.0f;
  sum = sum * rescale + V::Sum(total);
  max = new_max;
  return rescale;
}

// Exact attention of a few query heads ---------------------------------------------------------------------------------

// Rows between the prefetch of a row into the second cache and its use, measured: of adjacent rows and of gathered ones.
// The hardware's own prefetcher stops at the end of each page of 4 KiB, and gathered rows it cannot know. A line is
// prefetched with each line that is used: the few that may be on their way at once limit what is read, and a burst
// leaves them idle afterwards.
inline constexpr uint32_t kAheadInSpan = 96;
inline constexpr uint32_t kAheadInSelection = 40;

template <class Core, int G>
MAGICPIG_INLINE void ExtendHeads(const HeadRows& rows, const uint8_t* const* keys, const uint8_t* const* values,
                                 uint32_t n, const void* queries, float* states) {
  const uint32_t dim = rows.dim, stride = StateSize(dim);
  alignas(64) float scores[G * kTileKeys + Core::V::kLanes];
  Core::template Scores<G>(keys, n, queries, dim, scores, [&](uint32_t j) { return keys[j + kAheadInSpan]; });
  float scale[G];
  for (int g = 0; g < G; ++g) {
    float* state = states + g * stride;
    scale[g] = SoftmaxTile<typename Core::V>(scores + g * kTileKeys, n, StateMax(state, dim), StateSum(state, dim));
  }
  Core::template Accumulate<G>(values, n, scores, dim, scale, states, stride,
                               [&](uint32_t j) { return values[j + kAheadInSpan]; });
}

template <class Core>
void ExtendSpan(const HeadRows& rows, uint32_t begin, uint32_t end, const void* queries, uint32_t count,
                float* states) {
  const uint32_t query_bytes = Core::QueryBytes(rows.dim), stride = StateSize(rows.dim);
  // Those of the tile, and behind them those to prefetch.
  const uint8_t* keys[kTileKeys + kAheadInSpan];
  const uint8_t* values[kTileKeys + kAheadInSpan];
  for (uint32_t token = begin; token < end;) {
    const uint32_t next = (token / kTileKeys + 1) * kTileKeys;
    const uint32_t n = (next < end ? next : end) - token;
    for (uint32_t j = 0; j < kTileKeys + kAheadInSpan; ++j) {
      const uint32_t at = token + j < end ? token + j : end - 1;
      keys[j] = rows.Key(at);
      values[j] = rows.Value(at);
    }
    for (uint32_t done = 0; done < count;) {
      const auto* query = static_cast<const uint8_t*>(queries) + done * query_bytes;
      float* state = states + done * stride;
      switch (count - done) {
        case 1: ExtendHeads<Core, 1>(rows, keys, values, n, query, state); break;
        case 2: ExtendHeads<Core, 2>(rows, keys, values, n, query, state); break;
        case 3: ExtendHeads<Core, 3>(rows, keys, values, n, query, state); break;
        default: ExtendHeads<Core, 4>(rows, keys, values, n, query, state); break;
      }
      done += count - done < kMaxGroup ? count - done : kMaxGroup;
    }
    token += n;
  }
}

template <class Core>
void ScoreSpan(const HeadRows& rows, uint32_t begin, uint32_t end, const void* prepared, float* scores) {
  for (uint32_t token = begin; token < end; token += kTileKeys) {
    const uint8_t* keys[kTileKeys];
    const uint32_t n = end - token < kTileKeys ? end - token : kTileKeys;
    for (uint32_t j = 0; j < n; ++j) keys[j] = rows.Key(token + j);
    Core::template Scores<1>(keys, n, prepared, rows.dim, scores + (token - begin),
                             [&](uint32_t j) { return keys[j < n ? j : 0]; });
  }
}

// Sampled attention of one query head (Algorithm 1) --------------------------------------------------------------------

template <class Core>
void ExtendSelection(const HeadRows& rows, uint32_t first, const magicpig_selection& selection, const void* prepared,
                     const float* query, float scale, float* scores, float* corrections, float* state) {
  using V = typename Core::V;
  using F = typename V::F;
  const uint32_t dim = rows.dim, count = selection.count;
  if (count == 0) return;
  const uint32_t* ids = selection.ids;
  const bool by_cosine = selection.correction == MAGICPIG_CORRECTION_COSINE_TABLE;
  const auto at = [&](uint32_t j) { return ids[j < count ? j : count - 1]; };

  // s_i = q . k_i / sqrt(d)
  for (uint32_t j = 0; j < kAheadInSelection && j < count; ++j) Prefetch(rows.Key(first + ids[j]), rows.row_bytes);
  for (uint32_t j = 0; j < count; j += kTileKeys) {
    const uint8_t* keys[kTileKeys];
    const uint32_t n = count - j < kTileKeys ? count - j : kTileKeys;
    for (uint32_t k = 0; k < n; ++k) keys[k] = rows.Key(first + ids[j + k]);
    Core::template Scores<1>(keys, n, prepared, dim, scores + j, [&](uint32_t k) {
      const uint32_t id = at(j + k + kAheadInSelection);
      if (by_cosine) __builtin_prefetch(selection.inverse_norms + id, 0, 2);
      return rows.Key(first + id);
    });
  }

  // s_i - log u_i
  if (by_cosine) {
    float norm2 = 0.0f, shift = 0.0f;
    for (uint32_t i = 0; i < dim; ++i) {
      norm2 += query[i] * query[i];
      if (selection.centre != nullptr) shift += query[i] * selection.centre[i];
    }
    const float inverse = norm2 > 0.0f ? 1.0f / __builtin_sqrtf(norm2) : 0.0f;
    // cosine = (q . k - q . mu) / (|q| |k - mu|), where q . k = s / scale
    const F slope = V::Set1(inverse / scale), offset = V::Set1(-shift * inverse);
    const float half = 0.5f * static_cast<float>(selection.table_size - 1);
    for (uint32_t j = 0; j < count; j += V::kLanes) {
      uint32_t id[V::kLanes];
      for (int k = 0; k < V::kLanes; ++k) id[k] = at(j + k);
      const F score = V::Load(scores + j);
      const F cosine = V::Mul(V::Fma(score, slope, offset), V::Gather(selection.inverse_norms, id));
      const F x = V::Fma(cosine, V::Set1(half), V::Set1(half));
      const F clamped = V::Min(V::Max(x, V::Zero()), V::Set1(2.0f * half));
      const F correction = V::Interpolate(selection.table, selection.table_size, clamped);
      if (corrections != nullptr) V::Store(corrections + j, correction);
      V::Store(scores + j, V::Add(score, correction));
    }
  } else if (selection.correction == MAGICPIG_CORRECTION_LOG_PROBABILITY) {
    for (uint32_t j = 0; j < count; ++j) {
      if (corrections != nullptr) corrections[j] = -selection.log_probability[j];
      scores[j] -= selection.log_probability[j];
    }
  }

  // softmax
  for (uint32_t j = 0; j < kAheadInSelection && j < count; ++j) Prefetch(rows.Value(first + ids[j]), rows.row_bytes);
  for (uint32_t j = count; j < count + V::kLanes; ++j) scores[j] = -INFINITY;
  F largest = V::Load(scores);
  for (uint32_t j = V::kLanes; j < count; j += V::kLanes) largest = V::Max(largest, V::Load(scores + j));
  const float selected_max = V::Largest(largest);
  float& max = StateMax(state, dim);
  const float new_max = selected_max > max ? selected_max : max;
  F total = V::Zero();
  for (uint32_t j = 0; j < count; j += V::kLanes) {
    const F weight = Exp<V>(V::Sub(V::Load(scores + j), V::Set1(new_max)));
    total = V::Add(total, weight);
    V::Store(scores + j, weight);
  }
  float rescale = selected_max > max ? Rescale(max, new_max) : 1.0f;
  float& sum = StateSum(state, dim);
  sum = sum * rescale + V::Sum(total);
  max = new_max;

  // weighted sum of values
  for (uint32_t j = 0; j < count; j += kTileKeys) {
    const uint8_t* values[kTileKeys];
    const uint32_t n = count - j < kTileKeys ? count - j : kTileKeys;
    for (uint32_t k = 0; k < n; ++k) values[k] = rows.Value(first + ids[j + k]);
    Core::template Accumulate<1>(values, n, scores + j, dim, &rescale, state, 0,
                                 [&](uint32_t k) { return rows.Value(first + at(j + k + kAheadInSelection)); });
    rescale = 1.0f;
  }
}

template <class Core>
float SelectionVariance(const HeadRows& rows, uint32_t first, const magicpig_selection& selection, const float* weights,
                        const float* corrections, const float* mean) {
  using V = typename Core::V;
  using Elements = typename Core::Elements;
  using F = typename V::F;
  float variance = 0.0f;
  for (uint32_t j = 0; j < selection.count; ++j) {
    const float excluded = 1.0f - __builtin_expf(-corrections[j]);
    if (excluded <= 0.0f) continue;  // certain to be read
    const uint8_t* value = rows.Value(first + selection.ids[j]);
    F scale = V::Set1(1.0f);
    if constexpr (Elements::kScaled) scale = V::Set1(Elements::Scale(value, rows.dim));
    F distance = V::Zero();
    uint32_t i = 0;
    const auto step = [&](F element) __attribute__((always_inline)) {
      const F difference = V::Sub(V::Mul(element, scale), V::Load(mean + i));
      distance = V::Fma(difference, difference, distance);
    };
    for (; i + V::kLanes <= rows.dim; i += V::kLanes) step(Elements::Load(value, i));
    if constexpr (V::kLanes == 16) {
      if (i < rows.dim) step(Elements::LoadHalf(value, i));
    }
    variance += weights[j] * weights[j] * excluded * V::Sum(distance);
  }
  return variance;
}

// Exact attention of a tile of queries (flash style) -------------------------------------------------------------------

// c[r][..] = c[r][..] * scale[r] + a[r] . b for R rows and N vectors of columns; a (R, steps) words, b (steps, b_stride).
template <class Core, int R, int N>
MAGICPIG_INLINE void MultiplyBlock(const uint8_t* a, uint32_t a_bytes, const float* b, uint32_t b_stride,
                                   uint32_t steps, const float* scale, float* c, uint32_t c_stride) {
  using V = typename Core::V;
  using F = typename V::F;
  F sum[R][N];
  for (int r = 0; r < R; ++r) {
    for (int k = 0; k < N; ++k) {
      sum[r][k] = scale == nullptr ? V::Zero()
                                   : V::Mul(V::Load(c + r * c_stride + k * V::kLanes), V::Set1(scale[r]));
    }
  }
  for (uint32_t i = 0; i < steps; ++i) {
    F column[N];
    for (int k = 0; k < N; ++k) column[k] = Core::LoadPacked(b + i * b_stride + k * V::kLanes);
    for (int r = 0; r < R; ++r) {
      const F x = Core::Broadcast(a + r * a_bytes + 4 * i);
      for (int k = 0; k < N; ++k) sum[r][k] = Core::Multiply(x, column[k], sum[r][k]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int k = 0; k < N; ++k) V::Store(c + r * c_stride + k * V::kLanes, sum[r][k]);
  }
}

template <class Core, int R>
MAGICPIG_INLINE void MultiplyRows(const uint8_t* a, uint32_t a_bytes, const float* b, uint32_t columns, uint32_t steps,
                                  const float* scale, float* c, uint32_t c_stride) {
  constexpr uint32_t kVectors = Core::V::kTileVectors, kLanes = Core::V::kLanes;
  uint32_t i = 0;
  for (; i + kVectors * kLanes <= columns; i += kVectors * kLanes) {
    MultiplyBlock<Core, R, kVectors>(a, a_bytes, b + i, columns, steps, scale, c + i, c_stride);
  }
  for (; i < columns; i += kLanes) {
    MultiplyBlock<Core, R, 1>(a, a_bytes, b + i, columns, steps, scale, c + i, c_stride);
  }
}

// R query rows against one packed tile of keys and values.
template <class Core, int R>
void TileRows(const QueryTile& tile, uint32_t row, uint32_t token, uint32_t n, const float* keys, const float* values,
              uint32_t dim, float* states) {
  using V = typename Core::V;
  alignas(64) float scores[R * kTileKeys];
  alignas(64) uint8_t weights[R * Core::kWeightBytes];
  const uint32_t query_bytes = Core::QueryBytes(dim), stride = StateSize(dim);
  float* state = states + row * stride;
  MultiplyRows<Core, R>(static_cast<const uint8_t*>(tile.queries) + row * query_bytes, query_bytes, keys, kTileKeys,
                        Core::KeySteps(dim), nullptr, scores, kTileKeys);
  float scale[R];
  for (int r = 0; r < R; ++r) {
    const uint32_t seen = tile.first + (row + r) / tile.group + 1 - token;  // keys of this tile up to the query itself
    scale[r] = SoftmaxTile<V>(scores + r * kTileKeys, seen < n ? seen : n, StateMax(state + r * stride, dim),
                              StateSum(state + r * stride, dim));
    Core::PackWeights(scores + r * kTileKeys, weights + r * Core::kWeightBytes);
  }
  MultiplyRows<Core, R>(weights, Core::kWeightBytes, values, PaddedDim(dim), Core::kValueSteps, scale, state, stride);
}

template <class Core, int R = Core::V::kTileRows>
void TileRowsUpTo(uint32_t count, const QueryTile& tile, uint32_t row, uint32_t token, uint32_t n, const float* keys,
                  const float* values, uint32_t dim, float* states) {
  if (count >= R) {
    TileRows<Core, R>(tile, row, token, n, keys, values, dim, states);
  } else if constexpr (R > 1) {
    TileRowsUpTo<Core, R - 1>(count, tile, row, token, n, keys, values, dim, states);
  }
}

template <class Core>
size_t TileBytes(uint32_t dim) {
  return 2 * sizeof(float) * kTileKeys * PaddedDim(dim) / Core::kPack;
}

template <class Core>
void ExtendTile(const HeadRows& rows, uint32_t begin, uint32_t end, const QueryTile& tile, float* states,
                void* scratch) {
  const uint32_t dim = rows.dim;
  auto* packed_keys = static_cast<float*>(scratch);
  float* packed_values = packed_keys + kTileKeys * PaddedDim(dim) / Core::kPack;
  const uint8_t* keys[kTileKeys];
  const uint8_t* values[kTileKeys];
  for (uint32_t token = begin; token < end; token += kTileKeys) {
    // Rows whose position lies before this tile see none of it.
    const uint32_t row = token > tile.first ? (token - tile.first) * tile.group : 0;
    if (row >= tile.rows) return;
    const uint32_t n = end - token < kTileKeys ? end - token : kTileKeys;
    for (uint32_t j = 0; j < n; ++j) {
      keys[j] = rows.Key(token + j);
      values[j] = rows.Value(token + j);
    }
    Core::PackKeys(keys, n, dim, packed_keys);
    Core::PackValues(values, n, dim, packed_values);
    for (uint32_t r = row; r < tile.rows; r += Core::V::kTileRows) {
      TileRowsUpTo<Core>(tile.rows - r, tile, r, token, n, packed_keys, packed_values, dim, states);
    }
  }
}

template <class Core>
constexpr Kernels MakeKernels() {
  return {&Core::QueryBytes,     &TileBytes<Core>,  &Core::Elements::StoreRow, &Core::Elements::LoadRow,
          &Core::PrepareQuery,   &ScoreSpan<Core>, &ExtendSpan<Core>, &ExtendSelection<Core>, &SelectionVariance<Core>, &ExtendTile<Core>};
}

}  // namespace magicpig::kv

#endif  // MAGICPIG_KV_ATTENTION_KERNELS_H_
