// SimHash codes by structured projections: random rotations of three sign flips and fast Hadamard transforms each (Andoni et al.,
// "Practical and Optimal LSH for Angular Distance", 2015), the same integers as @magicpig/lsh's `hadamard`, bit for bit.
//
// A vector is rounded to integers of norm 11,500 and padded with zeros to a power of two, at least 64. Block b of projections is
// its rotation number b: three times (flip signs, transform). Transforms are 16-bit butterflies, halved after every second stage;
// one stage without a partner is halved in the second rotation only. Projection p = j * tables + t is bit j of the code for table t,
// and coordinate p % size of block p / size.
#ifndef MAGICPIG_KERNELS_HADAMARD_H_
#define MAGICPIG_KERNELS_HADAMARD_H_

#include <vector>

#include "simhash.h"

namespace magicpig {

constexpr int kHadamardNorm = 11500;
constexpr int kHadamardRotations = 3;

// Coordinates of a rotation: 64, 128 or 256.
__host__ __device__ constexpr int hadamard_size(int dim) { return dim <= 64 ? 64 : dim <= 128 ? 128 : 256; }
__host__ __device__ constexpr int hadamard_blocks(int dim, int bits, int tables) {
  return (bits * tables + hadamard_size(dim) - 1) / hadamard_size(dim);
}
// 32-bit words of the sign flips [blocks][3][size / 32], a set bit for minus.
constexpr int hadamard_words(int dim, int bits, int tables) {
  return hadamard_blocks(dim, bits, tables) * kHadamardRotations * (hadamard_size(dim) / 32);
}

// Distance between the partners of butterfly `stage` of a transform: groups of 16 elements far apart first, then neighbours.
__host__ __device__ constexpr int hadamard_stride(int size, int stage) { return stage < 4 ? size / 16 << stage : 1 << (stage - 4); }
__host__ __device__ constexpr int hadamard_stages(int size) { return size == 64 ? 6 : size == 128 ? 7 : 8; }
// Whether the results of a stage are halved: every second one, and a last single one if `shift_last`.
__host__ __device__ constexpr bool hadamard_halves(int size, int stage, bool shift_last) {
  return stage % 2 == 1 || (size == 128 && stage == 6 && shift_last);
}

// Word w of rotation r of block b is word w % 4 of Philox(counter {w / 4, r, b, 1}, key seed).
cudaError_t hadamard_flips(cudaStream_t stream, uint32_t* flips, int dim, int bits, int tables, uint64_t seed);

// As simhash() and simhash_bf16(), with flips [hadamard_words] for projections.
cudaError_t hadamard(cudaStream_t stream, uint16_t* codes, float* inverse_norms, int32_t* non_finite, const float* x,
                     const float* centre, const uint32_t* flips, const HashShape& shape);
cudaError_t hadamard_bf16(cudaStream_t stream, uint16_t* codes, float* inverse_norms, int32_t* non_finite, const bf16* x,
                          const float* centre, const uint32_t* flips, const HashShape& shape);

namespace reference {

// Sign flips of one rotation, +1 and -1.
inline std::vector<int> hadamard_signs(uint64_t seed, int block, int rotation, int size) {
  std::vector<int> signs(size);
  for (int i = 0; i < size; ++i) {
    const PhiloxWords words =
        philox({{static_cast<uint32_t>(i / 128), static_cast<uint32_t>(rotation), static_cast<uint32_t>(block), 1u}},
               static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
    signs[i] = words.word[i % 128 / 32] >> i % 32 & 1 ? -1 : 1;
  }
  return signs;
}

inline void hadamard_transform(std::vector<int>& v, bool shift_last) {
  const int size = static_cast<int>(v.size());
  for (int stage = 0; stage < hadamard_stages(size); ++stage) {
    const int stride = hadamard_stride(size, stage);
    for (int i = 0; i < size; ++i) {
      if (i & stride) continue;
      const int sum = v[i] + v[i + stride], rest = v[i] - v[i + stride];
      v[i] = hadamard_halves(size, stage, shift_last) ? sum >> 1 : sum;
      v[i + stride] = hadamard_halves(size, stage, shift_last) ? rest >> 1 : rest;
    }
  }
}

// Codes [tables] of one vector; false when it is not finite.
inline bool hadamard_codes(uint16_t* codes, float* inverse_norm, const float* x, const float* centre, int dim, int bits, int tables,
                           uint64_t seed) {
  double sums[8] = {};
  float peak = 0;
  const auto value = [&](int i) { return centre != nullptr ? x[i] - centre[i] : x[i]; };
  for (int i = 0; i < dim; ++i) {
    if (!std::isfinite(value(i))) return false;
    peak = std::fmax(peak, std::fabs(value(i)));
    sums[i % 8] += static_cast<double>(value(i)) * value(i);
  }
  double square = 0;
  for (const double sum : sums) square += sum;
  const bool zero = peak < 0x1p-100f;
  const double norm = std::sqrt(square);
  *inverse_norm = zero ? 0.0f : static_cast<float>(1 / norm);
  const float scale = static_cast<float>(kHadamardNorm / norm);
  const int size = hadamard_size(dim);
  std::vector<int> rounded(size);
  for (int i = 0; i < dim && !zero; ++i) {
    volatile float product = value(i) * scale;
    volatile float shifted = product + 0x1.8p23f;
    rounded[i] = static_cast<int>(shifted - 0x1.8p23f);
  }
  for (int t = 0; t < tables; ++t) codes[t] = 0;
  for (int block = 0; block < hadamard_blocks(dim, bits, tables); ++block) {
    std::vector<int> v = rounded;
    for (int rotation = 0; rotation < kHadamardRotations; ++rotation) {
      const std::vector<int> signs = hadamard_signs(seed, block, rotation, size);
      for (int i = 0; i < size; ++i) v[i] *= signs[i];
      hadamard_transform(v, rotation == 1);
    }
    for (int i = 0; i < size; ++i) {
      const int projection = block * size + i;
      if (projection < bits * tables && v[i] > 0) codes[projection % tables] |= static_cast<uint16_t>(1 << projection / tables);
    }
  }
  return true;
}

}  // namespace reference
}  // namespace magicpig

#endif  // MAGICPIG_KERNELS_HADAMARD_H_
