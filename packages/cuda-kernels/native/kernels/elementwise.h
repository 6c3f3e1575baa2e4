// The operators that touch each value once: SwiGLU, residual sum, embedding and row gathers, conversions.
#ifndef MAGICPIG_KERNELS_ELEMENTWISE_H_
#define MAGICPIG_KERNELS_ELEMENTWISE_H_

#include <cmath>

#include "../device/bf16.h"

namespace magicpig {

// SwiGLU (Shazeer 2020): out [rows][width] bf16 = silu(gate) * up, gate_up [rows][2 width] f32 holding each row's gate, then
// its up. width is a multiple of 8.
cudaError_t swiglu(cudaStream_t stream, bf16* out, const float* gate_up, int rows, int width);

// x [count] += y [count], f32. Pointers are 16-byte aligned, as in all of these; any count.
cudaError_t add(cudaStream_t stream, float* x, const float* y, int64_t count);

// x [rows][width] f32 += bias [width] f32 in every row, or = bias when not `accumulate`. width is a multiple of 4.
cudaError_t add_bias(cudaStream_t stream, float* x, const float* bias, int rows, int width, bool accumulate);

// out [rows][width] f32 = table [vocabulary][width] bf16, row tokens[r]. A token outside the vocabulary gives a row of NaN.
// width is a multiple of 8.
cudaError_t embed(cudaStream_t stream, float* out, const bf16* table, const int32_t* tokens, int rows, int width, int vocabulary);

// out [rows][width] f32 = row indices[r] of x [x_rows][width] f32; an index outside gives NaN. width is a multiple of 4.
cudaError_t copy_rows(cudaStream_t stream, float* out, const float* x, const int32_t* indices, int rows, int width, int x_rows);

// out [count] = x [count], rounded to nearest even.
cudaError_t to_bf16(cudaStream_t stream, bf16* out, const float* x, int64_t count);
// out [count] = x [count].
cudaError_t to_f32(cudaStream_t stream, float* out, const bf16* x, int64_t count);

namespace reference {

inline double swiglu(double gate, double up) { return gate / (1 + std::exp(-gate)) * up; }

}  // namespace reference
}  // namespace magicpig

#endif  // MAGICPIG_KERNELS_ELEMENTWISE_H_
