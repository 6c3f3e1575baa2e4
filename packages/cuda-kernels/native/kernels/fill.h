// Random values drawn on the device, so that the weights of a `random:` model need not travel.
#ifndef MAGICPIG_KERNELS_FILL_H_
#define MAGICPIG_KERNELS_FILL_H_

#include <cmath>

#include "simhash.h"  // philox

namespace magicpig {

// out[i] = mean + deviation * n_i, as float32, or as bf16 when out_f32 is null. n_i depends on seed and i alone: element i of each
// block of four is half of a Box-Muller pair from Philox(counter {i / 4 low, i / 4 high, 0, 0}, key seed).
cudaError_t fill_normal(cudaStream_t stream, float* out_f32, bf16* out_bf16, int64_t count, uint64_t seed, float mean, float deviation);

namespace reference {

inline double normal(uint64_t seed, uint64_t i) {
  const uint64_t block = i / 4;
  const PhiloxWords words = philox({{static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), 0u, 0u}},
                                   static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  const int pair = static_cast<int>(i % 4) / 2 * 2;
  const double u = (words.word[pair] + 1.0) * 0x1p-32, v = words.word[pair + 1] * 0x1p-32;
  const double radius = std::sqrt(-2 * std::log(u)), angle = 2 * 3.14159265358979323846 * v;
  return i % 2 == 0 ? radius * std::cos(angle) : radius * std::sin(angle);
}

}  // namespace reference
}  // namespace magicpig

#endif  // MAGICPIG_KERNELS_FILL_H_
