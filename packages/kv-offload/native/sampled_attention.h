// Sampled attention of one query head over the keys that a selector chose (paper, Algorithm 1).
#ifndef MAGICPIG_KV_SAMPLED_ATTENTION_H_
#define MAGICPIG_KV_SAMPLED_ATTENTION_H_

#include <cstdint>

#include "kernels.h"
#include "softmax.h"

namespace magicpig::kv {

// Gathered rows that the hardware's prefetcher cannot know, between their prefetch and their use, measured. A line is
// prefetched with each line that is used: the few that may be on their way at once limit what is read, and a burst leaves
// them idle afterwards.
inline constexpr uint32_t kAheadInSelection = 32;

// The rows that a query head reads, in order: the selected keys, their values, and then the first keys of the next head,
// so that memory is never idle.
struct SelectedRows {
  const HeadRows& rows;
  const uint32_t first;
  const magicpig_selection& selection;
  const magicpig_selection* next;  // the next query head's, or nullptr

  MAGICPIG_INLINE const uint8_t* Key(uint32_t j) const { return rows.Key(first + selection.ids[j]); }
  MAGICPIG_INLINE const uint8_t* Value(uint32_t j) const { return rows.Value(first + selection.ids[j]); }
  // The row to prefetch with key j, and with value j.
  MAGICPIG_INLINE const uint8_t* AfterKey(uint32_t j) const {
    j += kAheadInSelection;
    return j < selection.count ? Key(j) : Value(j - selection.count < selection.count ? j - selection.count : 0);
  }
  MAGICPIG_INLINE const uint8_t* AfterValue(uint32_t j) const {
    j += kAheadInSelection;
    if (j < selection.count) return Value(j);
    if (next == nullptr || j - selection.count >= next->count) return Value(selection.count - 1);
    return rows.Key(first + next->ids[j - selection.count]);
  }
};

// s_i = q . k_i / sqrt(d)
template <class Core>
MAGICPIG_INLINE void ScoreSelection(const SelectedRows& selected, const void* prepared, float* scores) {
  const magicpig_selection& selection = selected.selection;
  const uint32_t count = selection.count, row_bytes = selected.rows.row_bytes;
  for (uint32_t j = 0; j < kAheadInSelection && j < count; ++j) {
    for (uint32_t i = 0; i < row_bytes; i += 64) __builtin_prefetch(selected.Key(j) + i, 0, 2);
  }
  for (uint32_t j = 0; j < count; j += kTileKeys) {
    const uint8_t* keys[kTileKeys];
    const uint32_t n = count - j < kTileKeys ? count - j : kTileKeys;
    for (uint32_t k = 0; k < n; ++k) {
      keys[k] = selected.Key(j + k);
      if (selection.correction == MAGICPIG_CORRECTION_COSINE_TABLE) {
        __builtin_prefetch(selection.inverse_norms + selection.ids[j + k], 0, 2);
      }
    }
    Core::template Scores<1>(keys, n, prepared, selected.rows.dim, scores + j,
                             [&](uint32_t k) { return selected.AfterKey(j + k); });
  }
}

// -log u_i of the keys [j, j + kLanes) from the cosine between the query and the centred key.
template <class V>
struct CosineCorrection {
  const magicpig_selection& selection;
  typename V::F slope, offset;  // cosine = (q . k - q . mu) / (|q| |k - mu|), where q . k = s / scale

  MAGICPIG_INLINE CosineCorrection(const magicpig_selection& selection, const float* query, float scale, uint32_t dim)
      : selection(selection) {
    float norm2 = 0.0f, shift = 0.0f;
    for (uint32_t i = 0; i < dim; ++i) {
      norm2 += query[i] * query[i];
      if (selection.centre != nullptr) shift += query[i] * selection.centre[i];
    }
    const float inverse = norm2 > 0.0f ? 1.0f / __builtin_sqrtf(norm2) : 0.0f;
    slope = V::Set1(inverse / scale);
    offset = V::Set1(-shift * inverse);
  }

  MAGICPIG_INLINE typename V::F At(uint32_t j, typename V::F scores) const {
    const float half = 0.5f * static_cast<float>(selection.table_size - 1);
    uint32_t ids[V::kLanes];
    for (int k = 0; k < V::kLanes; ++k) ids[k] = selection.ids[j + k < selection.count ? j + k : selection.count - 1];
    const auto cosine = V::Mul(V::Fma(scores, slope, offset), V::Gather(selection.inverse_norms, ids));
    const auto x = V::Fma(cosine, V::Set1(half), V::Set1(half));
    return V::Interpolate(selection.table, selection.table_size, V::Min(V::Max(x, V::Zero()), V::Set1(2.0f * half)));
  }
};

// s_i - log u_i
template <class V>
MAGICPIG_INLINE void CorrectScores(const magicpig_selection& selection, const float* query, float scale, uint32_t dim,
                                   float* scores, float* corrections) {
  switch (selection.correction) {
    case MAGICPIG_CORRECTION_NONE: return;
    case MAGICPIG_CORRECTION_COSINE_TABLE: {
      const CosineCorrection<V> by_cosine(selection, query, scale, dim);
      for (uint32_t j = 0; j < selection.count; j += V::kLanes) {
        const auto score = V::Load(scores + j), correction = by_cosine.At(j, score);
        if (corrections != nullptr) V::Store(corrections + j, correction);
        V::Store(scores + j, V::Add(score, correction));
      }
      return;
    }
    case MAGICPIG_CORRECTION_LOG_PROBABILITY:
      for (uint32_t j = 0; j < selection.count; ++j) {
        if (corrections != nullptr) corrections[j] = -selection.log_probability[j];
        scores[j] -= selection.log_probability[j];
      }
  }
}

// o = o * rescale + sum_i w_i v_i
template <class Core>
MAGICPIG_INLINE void SumValues(const SelectedRows& selected, const float* weights, float rescale, float* o) {
  const uint32_t count = selected.selection.count;
  for (uint32_t j = 0; j < count; j += kTileKeys) {
    const uint8_t* values[kTileKeys];
    const uint32_t n = count - j < kTileKeys ? count - j : kTileKeys;
    for (uint32_t k = 0; k < n; ++k) values[k] = selected.Value(j + k);
    Core::template Accumulate<1>(values, n, weights + j, selected.rows.dim, &rescale, o, 0,
                                 [&](uint32_t k) { return selected.AfterValue(j + k); });
    rescale = 1.0f;
  }
}

template <class Core>
void ExtendSelection(const HeadRows& rows, uint32_t first, const magicpig_selection& selection,
                     const magicpig_selection* next, const void* prepared, const float* query, float scale,
                     float* weights, float* corrections, float* state) {
  using V = typename Core::V;
  if (selection.count == 0) return;
  const SelectedRows selected{rows, first, selection, next};
  ScoreSelection<Core>(selected, prepared, weights);
  CorrectScores<V>(selection, query, scale, rows.dim, weights, corrections);
  const uint32_t padded = (selection.count + V::kLanes - 1) / V::kLanes * V::kLanes;
  const float rescale = Softmax<V>(weights, selection.count, padded, StateMax(state, rows.dim), StateSum(state, rows.dim));
  SumValues<Core>(selected, weights, rescale, state);
}

// sum_i w_i^2 (1 - u_i) |v_i - mean|^2
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

}  // namespace magicpig::kv

#endif  // MAGICPIG_KV_SAMPLED_ATTENTION_H_
