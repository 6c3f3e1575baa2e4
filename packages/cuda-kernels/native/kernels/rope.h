// Rotary position embedding (Su et al. 2021), pairing element j with j + head_dim / 2 as Hugging Face's Llama does.
#ifndef MAGICPIG_KERNELS_ROPE_H_
#define MAGICPIG_KERNELS_ROPE_H_

#include <cmath>

#include "../device/bf16.h"

namespace magicpig {

// table [rows][head_dim] f32: cos(positions[r] * f[j]) * scale for j < head_dim / 2, then the sines. positions [rows] i32,
// frequencies [head_dim / 2] f32 in radians a token. Angles are computed in float64: at position 100,000 a float32 angle
// is off by up to 0.004 rad.
cudaError_t rope_table(cudaStream_t stream, float* table, const int32_t* positions, const float* frequencies, int rows,
                       int head_dim, float scale);

// Rotates the first `heads` heads of each row of x [rows][stride] f32 in place. head_dim is a multiple of 8.
cudaError_t rope(cudaStream_t stream, float* x, const float* table, int rows, int64_t stride, int heads, int head_dim);

// From the fused projection to what attention reads, in one pass: qkv [rows][(query_heads + 2 kv_heads) * head_dim] f32 ->
// q [rows][query_heads][head_dim] bf16, rotated; k and v bf16, k rotated, row r to slot slots[r] (slots [rows] i32; r itself
// when null) of k, v [slot][kv_heads][head_dim]. Rows whose slot is negative are not stored.
cudaError_t rope_split(cudaStream_t stream, bf16* q, bf16* k, bf16* v, const float* qkv, const float* table, const int32_t* slots,
                       int rows, int query_heads, int kv_heads, int head_dim);

namespace reference {

inline void rope_table(double* table, const int32_t* positions, const float* frequencies, int rows, int head_dim, double scale) {
  const int half = head_dim / 2;
  for (int row = 0; row < rows; ++row) {
    for (int j = 0; j < half; ++j) {
      const double angle = static_cast<double>(positions[row]) * frequencies[j];
      table[row * head_dim + j] = std::cos(angle) * scale;
      table[row * head_dim + half + j] = std::sin(angle) * scale;
    }
  }
}

inline void rope(double* x, const double* table, int rows, int64_t stride, int heads, int head_dim) {
  const int half = head_dim / 2;
  for (int row = 0; row < rows; ++row) {
    for (int head = 0; head < heads; ++head) {
      double* values = x + row * stride + head * head_dim;
      for (int j = 0; j < half; ++j) {
        const double cosine = table[row * head_dim + j], sine = table[row * head_dim + half + j];
        const double a = values[j], b = values[j + half];
        values[j] = a * cosine - b * sine;
        values[j + half] = b * cosine + a * sine;
      }
    }
  }
}

}  // namespace reference
}  // namespace magicpig

#endif  // MAGICPIG_KERNELS_ROPE_H_
