// Random values drawn on the device, so that the weights of a `random:` model need not travel.
#ifndef MAGICPIG_KERNELS_FILL_H_
#define MAGICPIG_KERNELS_FILL_H_

#include <cmath>

#include "simhash.h"  // philox

namespace magicpig {

// out[i] = mean + deviation * n_(first + i), as float32, or as bf16 when out_f32 is null; first is a multiple of 4. n_i depends on
// seed and i alone, and is that of @magicpig/cpu-kernels within 2e-6: element i of each block of four is half of a Box-Muller pair
// from Philox(counter {i / 4 low, i / 4 high, 0, 0}, key seed).
cudaError_t fill_normal(cudaStream_t stream, float* out_f32, bf16* out_bf16, int64_t count, uint64_t seed, float mean, float deviation,
                        int64_t first);

// A pair of words as what Box and Muller's transform takes: u in (0, 1], and an angle. Two bits of the second word choose the
// quarter turn, 23 a point in the eighth turn to either side of its middle.
struct NormalPair {
  float u;
  float eighths;  // of a turn, -1 .. 1
  bool swap, negate;
};
__host__ __device__ inline NormalPair normal_pair(uint32_t a, uint32_t b) {
  return {static_cast<float>(static_cast<int32_t>(a >> 8) + 1) * 0x1p-24f,
          static_cast<float>(static_cast<int32_t>(b >> 2 & 0x7fffffu) - 0x400000) * 0x1p-22f, (b & 1u) != 0, (b & 2u) != 0};
}

namespace reference {

inline double normal(uint64_t seed, uint64_t i) {
  const uint64_t block = i / 4;
  const PhiloxWords words = philox({{static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), 0u, 0u}},
                                   static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  const int pair = static_cast<int>(i % 4) / 2 * 2;
  const NormalPair p = normal_pair(words.word[pair], words.word[pair + 1]);
  // A quarter turn takes (cosine, sine) to (sine, -cosine).
  const double angle = 3.14159265358979323846 / 4 * p.eighths, sine = std::sin(angle), cosine = std::cos(angle);
  const double radius = std::sqrt(-2 * std::log(static_cast<double>(p.u))) * (p.negate ? -1 : 1);
  return radius * (i % 2 == 0 ? (p.swap ? sine : cosine) : (p.swap ? -cosine : sine));
}

}  // namespace reference
}  // namespace magicpig

#endif  // MAGICPIG_KERNELS_FILL_H_
