#include "scatter_rows.h"

#include "../device/launch.h"

namespace magicpig {
namespace {

constexpr int kThreads = 256;

// One thread eight elements; neighbours write neighbours.
__global__ void __launch_bounds__(kThreads)
    scatter_kernel(bf16* out, const bf16* x, const int32_t* slots, int rows, int heads, int dim) {
  const int per_head = dim / 8, per_row = heads * per_head;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= static_cast<int64_t>(rows) * per_row) return;
  const int row = static_cast<int>(i / per_row), head = static_cast<int>(i % per_row) / per_head, part = static_cast<int>(i % per_head);
  const int64_t slot = slots != nullptr ? slots[row] : row;
  if (slot < 0) return;
  reinterpret_cast<uint4*>(out + (slot * heads + head) * dim)[part] =
      reinterpret_cast<const uint4*>(x + (static_cast<int64_t>(head) * rows + row) * dim)[part];
}

}  // namespace

cudaError_t scatter_rows(cudaStream_t stream, bf16* out, const bf16* x, const int32_t* slots, int rows, int heads, int dim) {
  if (rows < 0 || heads <= 0 || dim <= 0 || dim % 8 != 0) return cudaErrorInvalidValue;
  const int64_t threads = static_cast<int64_t>(rows) * heads * (dim / 8);
  return launch(scatter_kernel, dim3(static_cast<unsigned>(ceil_div(threads, kThreads))), dim3(kThreads), 0, stream, out, x, slots, rows, heads, dim);
}

}  // namespace magicpig
