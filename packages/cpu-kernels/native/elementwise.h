// What is done to single values and rows of them. See kernels_generic.h for V.
#ifndef MAGICPIG_CPU_ELEMENTWISE_H_
#define MAGICPIG_CPU_ELEMENTWISE_H_

#include <math.h>

#include <cstddef>

#include "float16.h"
#include "kernels.h"

namespace magicpig::cpu {
namespace {

inline void RoundRowToBf16(const float* values, size_t count, uint16_t* out) {
  for (size_t i = 0; i < count; ++i) out[i] = FloatToBf16(values[i]);
}

template <typename V>
void Swiglu(const float* sums, size_t count, float* out) {
  constexpr size_t n = V::kLanes;
  const V one = V::Broadcast(1);
  for (size_t i = 0; i < count; i += n) {
    const V gate = V::Load(sums + i);  // sums has kPanel elements: loads past count stay inside
    const V up = V::Load(sums + kPanel / 2 + i);
    const V silu = V::Div(gate, V::Add(one, V::Exp(V::Mul(gate, V::Broadcast(-1)))));
    if (i + n <= count) {
      V::Mul(silu, up).Store(out + i);
    } else {
      V::Mul(silu, up).StorePart(out + i, count - i);
    }
  }
}

inline void Rotate(float* row, const float* table, size_t heads, size_t head_dim) {
  const size_t half = head_dim / 2;
  const float* __restrict cosine = table;
  const float* __restrict sine = table + half;
  for (size_t head = 0; head < heads; ++head) {
    float* __restrict a = row + head * head_dim;
    float* __restrict b = a + half;
    for (size_t j = 0; j < half; ++j) {
      const float x = a[j], y = b[j];
      a[j] = x * cosine[j] - y * sine[j];
      b[j] = y * cosine[j] + x * sine[j];
    }
  }
}

// e^x to about one unit in the last place, for vector types with the integer operations it takes: e^x = 2^n e^r with
// n = round(x / ln 2), r in [-ln 2 / 2, ln 2 / 2] by a two-part ln 2, e^r by Cephes' polynomial (expf). The argument is kept
// where 2^n is a normal number: below it the result is close to float32's smallest, above it close to its largest.
template <typename V>
inline V ExpPolynomial(V x) {
  x = V::Min(V::Max(x, V::Broadcast(-87.0f)), V::Broadcast(88.0f));
  const V n = V::Round(V::Mul(x, V::Broadcast(1.44269504088896341f)));
  V r = V::MulAdd(n, V::Broadcast(-0.693359375f), x);
  r = V::MulAdd(n, V::Broadcast(2.12194440e-4f), r);
  V p = V::Broadcast(1.9875691500e-4f);
  p = V::MulAdd(p, r, V::Broadcast(1.3981999507e-3f));
  p = V::MulAdd(p, r, V::Broadcast(8.3334519073e-3f));
  p = V::MulAdd(p, r, V::Broadcast(4.1665795894e-2f));
  p = V::MulAdd(p, r, V::Broadcast(1.6666665459e-1f));
  p = V::MulAdd(p, r, V::Broadcast(5.0000001201e-1f));
  p = V::MulAdd(p, V::Mul(r, r), V::Add(r, V::Broadcast(1)));
  return V::ScaleByPowerOf2(p, n);
}

template <typename V>
double LogSumExp(const float* values, size_t count, size_t* largest) {
  constexpr size_t n = V::kLanes;
  const size_t whole = count / n * n;
  V most = V::Broadcast(values[0]);
  V check = V::Broadcast(0);  // not a number after a value that is not finite
  for (size_t i = 0; i < whole; i += n) {
    const V x = V::Load(values + i);
    most = V::Max(most, x);
    check = V::MulAdd(x, V::Broadcast(0), check);
  }
  float top = most.Largest(), rest = 0;
  for (size_t i = whole; i < count; ++i) {
    top = values[i] > top ? values[i] : top;
    rest += values[i] * 0.0f;
  }
  if (const float finite = check.Sum() + rest; finite != 0) return finite;
  *largest = 0;
  while (values[*largest] != top) ++*largest;

  // In float32 over a few vectors, whose rounding is that of the exponentials, and in float64 over those.
  constexpr size_t kTogether = 8 * n;
  double sum = 0;
  for (size_t first = 0; first < whole; first += kTogether) {
    V part = V::Broadcast(0);
    for (size_t i = first; i < first + kTogether && i < whole; i += n) {
      part = V::Add(part, V::Exp(V::Add(V::Load(values + i), V::Broadcast(-top))));
    }
    sum += part.Sum();
  }
  for (size_t i = whole; i < count; ++i) sum += exp(values[i] - top);
  return top + log(sum);
}

}  // namespace
}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_ELEMENTWISE_H_
