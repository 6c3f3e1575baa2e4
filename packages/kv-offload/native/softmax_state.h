// Partial softmaxes (see StateSize in kernels.h): none yet, and the union of two.
#ifndef MAGICPIG_KV_SOFTMAX_STATE_H_
#define MAGICPIG_KV_SOFTMAX_STATE_H_

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels.h"

namespace magicpig::kv {

inline void ResetState(float* state, uint32_t dim) {
  std::fill_n(state, PaddedDim(dim), 0.0f);
  StateMax(state, dim) = -INFINITY;
  StateSum(state, dim) = 0.0f;
}

// The softmax over the union of two disjoint sets of keys.
inline void MergeState(float* into, const float* from, uint32_t dim) {
  auto* other = const_cast<float*>(from);
  const float from_max = StateMax(other, dim), into_max = StateMax(into, dim);
  const float max = std::max(into_max, from_max);
  if (max == -INFINITY) return;  // both are empty
  const float a = std::exp(into_max - max), b = std::exp(from_max - max);
  for (uint32_t i = 0; i < dim; ++i) into[i] = into[i] * a + from[i] * b;
  StateSum(into, dim) = StateSum(into, dim) * a + StateSum(other, dim) * b;
  StateMax(into, dim) = max;
}

}  // namespace magicpig::kv

#endif  // MAGICPIG_KV_SOFTMAX_STATE_H_
