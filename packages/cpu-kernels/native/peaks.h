// What an instruction set does at most: the loops that measure ceilings. See kernels_generic.h for V and Q.
#ifndef MAGICPIG_CPU_PEAKS_H_
#define MAGICPIG_CPU_PEAKS_H_

#include <cstddef>

#include "kernels.h"
#include "multiply_quantised.h"

namespace magicpig::cpu {
namespace {

template <typename V>
uint64_t PeakF32(size_t iterations) {
  constexpr int kSums = 10;  // enough to hide the latency, few enough for sixteen registers
  V sums[kSums];
  for (V& sum : sums) sum = V::Broadcast(1);
  const V a = V::Broadcast(0.5f), b = V::Broadcast(0.25f);
  for (size_t i = 0; i < iterations; ++i) {
    for (V& sum : sums) sum = V::Opaque(V::MulAdd(sum, a, b));
  }
  return iterations * kSums * V::kLanes * 2;
}

template <typename Q>
uint64_t PeakInt16(size_t iterations) {
  constexpr int kSums = 8;
  alignas(64) static constexpr std::byte kBytes[64] = {};
  const std::byte* unknown = kBytes;
  asm volatile("" : "+r"(unknown));
  const auto weights = Q::Weights::Bytes(unknown);
  typename Q::Sum sums[kSums];
  typename Q::Inputs inputs[kSums] = {};
  for (auto& sum : sums) sum = Q::Start(1, 0);
  for (size_t i = 0; i < iterations; ++i) {
    const auto* changing = inputs;
    asm volatile("" : "+r"(changing));  // may point anywhere now: no part of a product moves out of the loop
#pragma GCC unroll 8
    for (int j = 0; j < kSums; ++j) {
      sums[j] = Q::Opaque(Q::Add(sums[j], weights, changing[j]));
    }
  }
  return iterations * kSums * Q::V::kLanes * 4 * 2;
}

template <typename V>
void Read(const void* data, size_t bytes) {
  const float* p = static_cast<const float*>(data);
  constexpr size_t n = V::kLanes;
  // Nothing is computed: Opaque makes the compiler load each vector.
  for (const float* end = p + bytes / sizeof(float); p < end; p += 4 * n) {
    V::Opaque(V::Load(p));
    V::Opaque(V::Load(p + n));
    V::Opaque(V::Load(p + 2 * n));
    V::Opaque(V::Load(p + 3 * n));
  }
}

}  // namespace
}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_PEAKS_H_
