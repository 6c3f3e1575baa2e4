// Rotary position embedding (RoFormer, arXiv 2104.09864, equation 34) in Hugging Face's pairing.
#ifndef MAGICPIG_CPU_ROTARY_H_
#define MAGICPIG_CPU_ROTARY_H_

#include <magicpig/pool.h>

#include "kernels.h"

namespace magicpig::cpu {

// table (rows, 2 half): cos(positions[r] * frequencies[j]) * scale for j < half, then the sines.
void RopeTable(const magicpig_pool& pool, const int32_t* positions, size_t rows, const float* frequencies, size_t half,
               float scale, float* table);

// Rotates the first `heads` heads of each row of x, rows at distance `stride`, by table (rows, head_dim).
void Rope(const magicpig_pool& pool, const Kernels& kernels, float* x, const float* table, size_t rows, size_t stride,
          size_t heads, size_t head_dim);

}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_ROTARY_H_
