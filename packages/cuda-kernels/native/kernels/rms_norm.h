// RMSNorm (Zhang and Sennrich 2019), as Llama uses it: y = x / sqrt(mean(x^2) + epsilon) * weight.
#ifndef MAGICPIG_KERNELS_RMS_NORM_H_
#define MAGICPIG_KERNELS_RMS_NORM_H_

#include <cmath>

#include "../device/bf16.h"

namespace magicpig {

// out [rows][columns] bf16 = norm(x [rows][columns] f32) * weight [columns] f32. columns is a multiple of 8.
cudaError_t rms_norm(cudaStream_t stream, bf16* out, const float* x, const float* weight, int rows, int columns, float epsilon);

// The residual sum first, in the same pass: x += y, then out = norm(x) * weight. y [rows][columns] f32.
cudaError_t add_rms_norm(cudaStream_t stream, bf16* out, float* x, const float* y, const float* weight, int rows, int columns,
                         float epsilon);

// The same norm with a float32 result, for what leaves the matrix units (the reference mode, embeddings).
cudaError_t rms_norm_f32(cudaStream_t stream, float* out, const float* x, const float* weight, int rows, int columns,
                         float epsilon);

namespace reference {

inline void rms_norm(double* out, const double* x, const float* weight, int rows, int columns, double epsilon) {
  for (int row = 0; row < rows; ++row) {
    double squares = 0;
    for (int i = 0; i < columns; ++i) squares += x[row * columns + i] * x[row * columns + i];
    const double scale = 1 / std::sqrt(squares / columns + epsilon);
    for (int i = 0; i < columns; ++i) out[row * columns + i] = x[row * columns + i] * scale * weight[i];
  }
}

}  // namespace reference
}  // namespace magicpig

#endif  // MAGICPIG_KERNELS_RMS_NORM_H_
