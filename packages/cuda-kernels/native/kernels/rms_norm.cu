#include "rms_norm.h"

#include "../device/warp.h"

namespace magicpig {
namespace {

constexpr int kThreads = 256;

// One block a row. The row is read twice; the second read finds it in the L1 cache (16 KiB at 4,096 columns), so that
// device memory sees one read and one write.
template <bool kAdd, bool kFloat>
__global__ void __launch_bounds__(kThreads)
    rms_norm_kernel(void* out, const float* x_in, float* x_out, const float* y, const float* weight, int columns, float epsilon) {
  __shared__ float scratch[kWarp];
  const int64_t start = static_cast<int64_t>(blockIdx.x) * columns;
  const int vectors = columns / 4;
  const float4* x = reinterpret_cast<const float4*>(x_in + start);
  const float4* w = reinterpret_cast<const float4*>(weight);

  float squares = 0.0f;
  for (int i = threadIdx.x; i < vectors; i += kThreads) {
    float4 a = x[i];
    if constexpr (kAdd) {
      const float4 b = reinterpret_cast<const float4*>(y + start)[i];
      a = make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
      reinterpret_cast<float4*>(x_out + start)[i] = a;  // read back below by the same thread
    }
    squares += a.x * a.x + a.y * a.y + a.z * a.z + a.w * a.w;
  }
  const float scale = rsqrtf(block_sum(squares, scratch) / static_cast<float>(columns) + epsilon);

  const float4* sum = kAdd ? reinterpret_cast<const float4*>(x_out + start) : x;
  for (int i = threadIdx.x; i < vectors; i += kThreads) {
    const float4 a = sum[i];
    const float4 g = w[i];
    const float4 r = make_float4(a.x * scale * g.x, a.y * scale * g.y, a.z * scale * g.z, a.w * scale * g.w);
    if constexpr (kFloat) {
      reinterpret_cast<float4*>(static_cast<float*>(out) + start)[i] = r;
    } else {
      reinterpret_cast<uint2*>(static_cast<bf16*>(out) + start)[i] = make_uint2(pack_bf16(r.x, r.y), pack_bf16(r.z, r.w));
    }
  }
}

bool fits(int rows, int columns) { return rows >= 0 && columns > 0 && columns % 8 == 0; }

}  // namespace

cudaError_t rms_norm(cudaStream_t stream, bf16* out, const float* x, const float* weight, int rows, int columns, float epsilon) {
  if (!fits(rows, columns)) return cudaErrorInvalidValue;
  return launch(rms_norm_kernel<false, false>, dim3(rows), dim3(kThreads), 0, stream, out, x, nullptr, nullptr, weight, columns,
                epsilon);
}

cudaError_t add_rms_norm(cudaStream_t stream, bf16* out, float* x, const float* y, const float* weight, int rows, int columns,
                         float epsilon) {
  if (!fits(rows, columns)) return cudaErrorInvalidValue;
  return launch(rms_norm_kernel<true, false>, dim3(rows), dim3(kThreads), 0, stream, out, x, x, y, weight, columns, epsilon);
}

cudaError_t rms_norm_f32(cudaStream_t stream, float* out, const float* x, const float* weight, int rows, int columns,
                         float epsilon) {
  if (!fits(rows, columns)) return cudaErrorInvalidValue;
  return launch(rms_norm_kernel<false, true>, dim3(rows), dim3(kThreads), 0, stream, out, x, nullptr, nullptr, weight, columns,
                epsilon);
}

}  // namespace magicpig
