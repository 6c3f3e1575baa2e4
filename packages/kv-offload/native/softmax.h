// The exponential and the online softmax, on vectors.
#ifndef MAGICPIG_KV_SOFTMAX_H_
#define MAGICPIG_KV_SOFTMAX_H_

#include <cmath>
#include <cstdint>

#include "kernels.h"

namespace magicpig::kv {

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

// Turns scores[0..n) of one query into weights e^{s - max}, zeros up to `padded`, a multiple of kLanes; extends max and
// sum, and returns the factor for what was summed under the old maximum.
template <class V>
MAGICPIG_INLINE float Softmax(float* scores, uint32_t n, uint32_t padded, float& max, float& sum) {
  using F = typename V::F;
  for (uint32_t j = n; j < padded; ++j) scores[j] = -INFINITY;
  F largest = V::Load(scores);
  for (uint32_t j = V::kLanes; j < padded; j += V::kLanes) largest = V::Max(largest, V::Load(scores + j));
  const float scores_max = V::Largest(largest);
  const float new_max = scores_max > max ? scores_max : max;
  const F shift = V::Set1(new_max);
  F total = V::Zero();
  for (uint32_t j = 0; j < padded; j += V::kLanes) {
    const F weight = Exp<V>(V::Sub(V::Load(scores + j), shift));
    total = V::Add(total, weight);
    V::Store(scores + j, weight);
  }
  const float rescale = scores_max > max ? Rescale(max, new_max) : 1.0f;
  sum = sum * rescale + V::Sum(total);
  max = new_max;
  return rescale;
}

}  // namespace magicpig::kv

#endif  // MAGICPIG_KV_SOFTMAX_H_
