// Activations as products read them: normalised, rounded, interleaved. See kernels_generic.h for V and Q.
#ifndef MAGICPIG_CPU_PACK_INPUTS_H_
#define MAGICPIG_CPU_PACK_INPUTS_H_

#include <math.h>
#include <string.h>

#include <cstddef>

#include "float16.h"
#include "kernels.h"

namespace magicpig::cpu {
namespace {

// out = x / sqrt(mean(x^2) + epsilon) * weight.
template <typename V>
void RmsNorm(const float* x, size_t cols, const float* weight, float epsilon, float* out) {
  constexpr size_t n = V::kLanes;
  V a = V::Broadcast(0), b = V::Broadcast(0);  // two sums: the additions of one would wait for each other
  size_t i = 0;
  for (; i + 2 * n <= cols; i += 2 * n) {
    const V u = V::Load(x + i), v = V::Load(x + i + n);
    a = V::MulAdd(u, u, a);
    b = V::MulAdd(v, v, b);
  }
  for (; i < cols; i += n) {
    const V u = i + n <= cols ? V::Load(x + i) : V::LoadPart(x + i, cols - i);
    a = V::MulAdd(u, u, a);
  }
  const V scale = V::Broadcast(1.0f / sqrtf(V::Add(a, b).Sum() / static_cast<float>(cols) + epsilon));
  for (i = 0; i + n <= cols; i += n) V::Mul(V::Mul(V::Load(x + i), scale), V::Load(weight + i)).Store(out + i);
  if (i < cols) {
    V::Mul(V::Mul(V::LoadPart(x + i, cols - i), scale), V::LoadPart(weight + i, cols - i)).StorePart(out + i, cols - i);
  }
}

// Rows of x as float32, normalised if asked: points into x or into scratch.
template <typename V>
struct PreparedRows {
  const float* rows[kMaxTileRows];

  PreparedRows(const float* x, size_t stride, int count, size_t cols, const float* norm, float epsilon, float* scratch) {
    for (int r = 0; r < count; ++r) {
      rows[r] = x + r * stride;
      if (norm) {
        RmsNorm<V>(rows[r], cols, norm, epsilon, scratch + r * cols);
        rows[r] = scratch + r * cols;
      }
    }
  }
};

template <typename V, bool kRound>
void PackFloat(const float* x, size_t stride, int rows, size_t cols, const float* norm, float epsilon, float* scratch,
               void* tile) {
  PreparedRows<V> prepared(x, stride, rows, cols, norm, epsilon, scratch);
  if (kRound) {
    for (int r = 0; r < rows; ++r) {
      float* rounded = scratch + r * cols;
      for (size_t k = 0; k < cols; ++k) rounded[k] = RoundToBf16(prepared.rows[r][k]);
      prepared.rows[r] = rounded;
    }
  }
  float* out = static_cast<float*>(tile);
  for (size_t k = 0; k < cols; ++k) {
    for (int r = 0; r < rows; ++r) *out++ = prepared.rows[r][k];
  }
}

// q = values * inverse, rounded to nearest even, for half a block; returns their sum. No product is larger than kMostInput.
inline int32_t RoundToInt16(const float* values, float inverse, int16_t* q) {
  // Adding this to a number of at most 2^22 rounds it to an integer, which is then in the low bits.
  constexpr float kRound = 0x1.8p23f;
  int32_t total = 0;
  for (size_t i = 0; i < kQuantBlock / 2; ++i) {
    q[i] = static_cast<int16_t>(BitsOf(values[i] * inverse + kRound) - BitsOf(kRound));
    total += q[i];
  }
  return total;
}

// Blocks of 32 activations as integers.
template <typename Q>
void PackInt16(const float* x, size_t stride, int rows, size_t cols, const float* norm, float epsilon, float* scratch,
               void* tile) {
  using V = typename Q::V;
  // Smaller blocks count as zero: kMostInput / largest must not overflow.
  constexpr float kSmallest = 1e-30f;
  const PreparedRows<V> prepared(x, stride, rows, cols, norm, epsilon, scratch);
  std::byte* out = static_cast<std::byte*>(tile);
  for (size_t k = 0; k < cols; k += kQuantBlock) {
    auto* inputs = reinterpret_cast<typename Q::Inputs*>(out);
    out += 8 * rows * sizeof(typename Q::Inputs);
    auto* scales = reinterpret_cast<QuantScale*>(out);
    out += rows * sizeof(QuantScale);
    for (int r = 0; r < rows; ++r) {
      const float* values = prepared.rows[r] + k;
      V largest = V::Broadcast(0);
      for (size_t i = 0; i < kQuantBlock; i += V::kLanes) largest = V::Max(largest, V::Abs(V::Load(values + i)));
      const float most = largest.Largest();
      const bool empty = !(most > kSmallest);
      const float inverse = empty ? 0 : kMostInput / most;
      const auto [first, last] = Q::Pack(values, inverse, rows, inputs + r);
      const float scale = empty ? 0 : most / kMostInput;
      scales[r] = {scale, scale * static_cast<float>(first + last), {-first, -last}};
    }
  }
}

}  // namespace
}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_PACK_INPUTS_H_
