// y = x W^T for many rows on the tensor cores: prefill, where cuBLASLt is not to be had.
#ifndef MAGICPIG_KERNELS_GEMM_H_
#define MAGICPIG_KERNELS_GEMM_H_

#include "../device/bf16.h"
#include "linear.h"  // reference::linear is the reference of this kernel too

namespace magicpig {

// out [rows][outputs] f32 = x [rows][inputs] bf16 * weight [outputs][inputs] bf16, transposed, + bias [outputs] f32 (may be
// null), added to what out holds when `accumulate`. inputs is a multiple of 8; rows and outputs are any. A row's sums do not
// depend on the other rows.
cudaError_t gemm(cudaStream_t stream, float* out, const bf16* x, const bf16* weight, const float* bias, int rows, int outputs,
                 int inputs, bool accumulate);

}  // namespace magicpig

#endif  // MAGICPIG_KERNELS_GEMM_H_
