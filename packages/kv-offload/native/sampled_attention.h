// Sampled attention of one query head over the keys that a selector chose (paper, Algorithm 1).
#ifndef MAGICPIG_KV_SAMPLED_ATTENTION_H_
#define MAGICPIG_KV_SAMPLED_ATTENTION_H_

#include <cstdint>
#include <cstring>

#include "kernels.h"
#include "row_block.h"
#include "softmax.h"

namespace magicpig::kv {

// Sets `block` to the rows of the selected keys from number j on, and fetches their norms, which are read first.
MAGICPIG_INLINE void LocateSelected(const HeadRows& rows, uint32_t first, const magicpig_selection& selection, uint32_t j,
                                    RowBlock& block) {
  block.n = selection.count - j < kTileKeys ? selection.count - j : kTileKeys;
  const uint32_t* ids = selection.ids + j;
  for (uint32_t k = 0; k < block.n; ++k) block.Set(k, rows, first + ids[k]);
  if (selection.correction == MAGICPIG_CORRECTION_COSINE_TABLE) {
    for (uint32_t k = 0; k < block.n; ++k) __builtin_prefetch(selection.inverse_norms + ids[k], 0, 2);
  }
}

// What the selection adds to the scores of one query.
template <class V>
struct Correction {
  const magicpig_selection& selection;
  float slope = 0.0f, offset = 0.0f;  // cosine = (q . k - q . mu) / (|q| |k - mu|), where q . k = s / scale

  MAGICPIG_INLINE Correction(const magicpig_selection& selection, const float* query, float scale, uint32_t dim)
      : selection(selection) {
    if (selection.correction != MAGICPIG_CORRECTION_COSINE_TABLE) return;
    float norm2 = 0.0f, shift = 0.0f;
    for (uint32_t i = 0; i < dim; ++i) {
      norm2 += query[i] * query[i];
      if (selection.centre != nullptr) shift += query[i] * selection.centre[i];
    }
    const float inverse = norm2 > 0.0f ? 1.0f / __builtin_sqrtf(norm2) : 0.0f;
    slope = inverse / scale;
    offset = -shift * inverse;
  }

  // -log u_i of the keys `ids` (kLanes) from the cosine between the query and the centred key.
  MAGICPIG_INLINE typename V::F AtCosine(const uint32_t* ids, typename V::F scores) const {
    const float half = 0.5f * static_cast<float>(selection.table_size - 1);
    const auto cosine = V::Mul(V::Fma(scores, V::Set1(slope), V::Set1(offset)), V::Gather(selection.inverse_norms, ids));
    const auto x = V::Fma(cosine, V::Set1(half), V::Set1(half));
    return V::Interpolate(selection.table, selection.table_size, V::Min(V::Max(x, V::Zero()), V::Set1(2.0f * half)));
  }

  // Corrects the scores of the n keys from number j of the selection on, up to whole vectors; writes -log u_i to `corrections`
  // unless it is nullptr.
  MAGICPIG_INLINE void Apply(uint32_t j, uint32_t n, float* scores, float* corrections) const {
    switch (selection.correction) {
      case MAGICPIG_CORRECTION_NONE: return;
      case MAGICPIG_CORRECTION_COSINE_TABLE:
        for (uint32_t k = 0; k < n; k += V::kLanes) {
          const uint32_t* ids = selection.ids + j + k;
          uint32_t last[V::kLanes];
          if (n - k < V::kLanes) {
            for (uint32_t i = 0; i < V::kLanes; ++i) last[i] = ids[i < n - k ? i : 0];
            ids = last;
          }
          const auto score = V::Load(scores + k), correction = AtCosine(ids, score);
          if (corrections != nullptr) V::Store(corrections + k, correction);
          V::Store(scores + k, V::Add(score, correction));
        }
        return;
      case MAGICPIG_CORRECTION_LOG_PROBABILITY:
        for (uint32_t k = 0; k < n; ++k) {
          if (corrections != nullptr) corrections[k] = -selection.log_probability[j + k];
          scores[k] -= selection.log_probability[j + k];
        }
    }
  }
};

template <class Core>
void ExtendSelection(const HeadRows& rows, uint32_t first, const magicpig_selection& selection,
                     const magicpig_selection* next, const void* prepared, const float* query, float scale, float* scores,
                     float* corrections, float* state) {
  using V = typename Core::V;
  if (selection.count == 0) return;
  const Correction<V> correction(selection, query, scale, rows.dim);
  RowBlock blocks[2];
  LocateSelected(rows, first, selection, 0, blocks[0]);
  for (uint32_t i = 0; i < 2 * blocks[0].n; ++i) PrefetchRow(blocks[0].Row(i), rows.row_bytes);
  for (uint32_t j = 0, number = 0; j < selection.count; j += kTileKeys, ++number) {
    const RowBlock& block = blocks[number % 2];
    RowBlock& later = blocks[(number + 1) % 2];
    if (j + kTileKeys < selection.count) {
      LocateSelected(rows, first, selection, j + kTileKeys, later);
    } else if (next != nullptr && next->count != 0) {
      LocateSelected(rows, first, *next, 0, later);
    } else {
      later = block;
    }
    // s_i = q . k_i / sqrt(d) - log u_i
    alignas(64) float weights[kTileKeys + V::kLanes];
    Core::template Scores<1>(block.keys, block.n, prepared, rows.dim, weights, [&](uint32_t k) { return later.Row(k); });
    correction.Apply(j, block.n, weights, corrections != nullptr ? corrections + j : nullptr);
    if (scores != nullptr) std::memcpy(scores + j, weights, block.n * sizeof(float));
    // o = sum_i w_i v_i, w_i = e^{s_i - max}
    const float rescale = Softmax<V>(weights, block.n, kTileKeys, StateMax(state, rows.dim), StateSum(state, rows.dim));
    Core::template Accumulate<1>(block.values, block.n, weights, rows.dim, &rescale, state, 0,
                                 [&](uint32_t k) { return later.Row(block.n + k); });
  }
}

// sum_i w_i^2 (1 - u_i) |v_i - mean|^2
template <class Core>
float SelectionVariance(const HeadRows& rows, uint32_t first, const magicpig_selection& selection, const float* scores,
                        const float* corrections, float max, const float* mean) {
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
    const float weight = __builtin_expf(scores[j] - max);
    variance += weight * weight * excluded * V::Sum(distance);
  }
  return variance;
}

}  // namespace magicpig::kv

#endif  // MAGICPIG_KV_SAMPLED_ATTENTION_H_
