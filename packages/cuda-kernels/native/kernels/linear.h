// y = x W^T for one to sixteen rows of x: what decoding is made of. Bound by reading W once.
#ifndef MAGICPIG_KERNELS_LINEAR_H_
#define MAGICPIG_KERNELS_LINEAR_H_

#include "weights.h"

namespace magicpig {

constexpr int kMaxLinearRows = 16;

// out [rows][outputs] f32 = x [rows][inputs] bf16 * weight [outputs][inputs], transposed, + bias [outputs] f32 (may be
// null), added to what out holds when `accumulate`. rows is 1..16, inputs a multiple of 8, of 32 for quantised weights. A row's
// sums are taken in an order that depends on `inputs` and the kind of weights alone.
cudaError_t linear(cudaStream_t stream, float* out, const bf16* x, const WeightView& weight, const float* bias, int rows, int outputs,
                   int inputs, bool accumulate);

// SwiGLU's two products and the activation in one pass: out [rows][width] bf16 = silu(x G^T) * (x U^T), weight
// [2 width][inputs] holding G, then U. width is a multiple of 8.
cudaError_t linear_gated(cudaStream_t stream, bf16* out, const bf16* x, const WeightView& weight, int rows, int width, int inputs);

namespace reference {

inline void linear(double* out, const bf16* x, const bf16* weight, const float* bias, int rows, int outputs, int inputs) {
  for (int row = 0; row < rows; ++row) {
    for (int output = 0; output < outputs; ++output) {
      double sum = bias != nullptr ? bias[output] : 0.0;
      for (int i = 0; i < inputs; ++i) {
        sum += static_cast<double>(to_float(x[static_cast<int64_t>(row) * inputs + i])) *
               to_float(weight[static_cast<int64_t>(output) * inputs + i]);
      }
      out[static_cast<int64_t>(row) * outputs + output] = sum;
    }
  }
}

}  // namespace reference
}  // namespace magicpig

#endif  // MAGICPIG_KERNELS_LINEAR_H_
