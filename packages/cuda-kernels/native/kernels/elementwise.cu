#include "elementwise.h"

#include "../device/launch.h"

namespace magicpig {
namespace {

constexpr int kThreads = 256;
constexpr float kNaN = __builtin_nanf("");

__device__ __forceinline__ float silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }

// One thread eight values, so that loads and stores are 16 bytes wide.
__global__ void __launch_bounds__(kThreads) swiglu_kernel(bf16* out, const float* gate_up, int64_t groups, int width) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= groups) return;
  const int per_row = width / 8;
  const int64_t row = i / per_row;
  const float* gate = gate_up + row * 2 * width + i % per_row * 8;
  uint32_t packed[4];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float4 g = reinterpret_cast<const float4*>(gate)[half];
    const float4 u = reinterpret_cast<const float4*>(gate + width)[half];
    packed[2 * half] = pack_bf16(silu(g.x) * u.x, silu(g.y) * u.y);
    packed[2 * half + 1] = pack_bf16(silu(g.z) * u.z, silu(g.w) * u.w);
  }
  reinterpret_cast<uint4*>(out)[i] = make_uint4(packed[0], packed[1], packed[2], packed[3]);
}

__global__ void __launch_bounds__(kThreads) add_kernel(float* x, const float* y, int64_t count) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 4;
  if (i + 4 <= count) {
    float4 a = *reinterpret_cast<const float4*>(x + i);
    const float4 b = *reinterpret_cast<const float4*>(y + i);
    a = make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
    *reinterpret_cast<float4*>(x + i) = a;
  } else {
    for (int64_t j = i; j < count; ++j) x[j] += y[j];
  }
}

__global__ void __launch_bounds__(kThreads) add_bias_kernel(float* x, const float* bias, int width, bool accumulate) {
  float* row = x + static_cast<int64_t>(blockIdx.x) * width;
  for (int i = threadIdx.x * 4; i < width; i += kThreads * 4) {
    float4 r = *reinterpret_cast<const float4*>(bias + i);
    if (accumulate) {
      const float4 a = *reinterpret_cast<const float4*>(row + i);
      r = make_float4(a.x + r.x, a.y + r.y, a.z + r.z, a.w + r.w);
    }
    *reinterpret_cast<float4*>(row + i) = r;
  }
}

__global__ void __launch_bounds__(kThreads) embed_kernel(float* out, const bf16* table, const int32_t* tokens, int width, int vocabulary) {
  const int64_t row = blockIdx.x;
  const int32_t token = tokens[row];
  const bool valid = token >= 0 && token < vocabulary;
  for (int i = threadIdx.x * 8; i < width; i += kThreads * 8) {
    float4* to = reinterpret_cast<float4*>(out + row * width + i);
    if (valid) {
      const uint4 packed = *reinterpret_cast<const uint4*>(table + static_cast<int64_t>(token) * width + i);
      to[0] = make_float4(low_bf16(packed.x), high_bf16(packed.x), low_bf16(packed.y), high_bf16(packed.y));
      to[1] = make_float4(low_bf16(packed.z), high_bf16(packed.z), low_bf16(packed.w), high_bf16(packed.w));
    } else {
      to[0] = to[1] = make_float4(kNaN, kNaN, kNaN, kNaN);
    }
  }
}

__global__ void __launch_bounds__(kThreads) copy_rows_kernel(float* out, const float* x, const int32_t* indices, int width, int x_rows) {
  const int64_t row = blockIdx.x;
  const int32_t index = indices[row];
  const bool valid = index >= 0 && index < x_rows;
  for (int i = threadIdx.x * 4; i < width; i += kThreads * 4) {
    *reinterpret_cast<float4*>(out + row * width + i) =
        valid ? *reinterpret_cast<const float4*>(x + static_cast<int64_t>(index) * width + i) : make_float4(kNaN, kNaN, kNaN, kNaN);
  }
}

__global__ void __launch_bounds__(kThreads) to_bf16_kernel(bf16* out, const float* x, int64_t count) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 8;
  if (i + 8 <= count) {
    const float4 a = reinterpret_cast<const float4*>(x + i)[0], b = reinterpret_cast<const float4*>(x + i)[1];
    *reinterpret_cast<uint4*>(out + i) =
        make_uint4(pack_bf16(a.x, a.y), pack_bf16(a.z, a.w), pack_bf16(b.x, b.y), pack_bf16(b.z, b.w));
  } else {
    for (int64_t j = i; j < count; ++j) out[j] = to_bf16(x[j]);
  }
}

__global__ void __launch_bounds__(kThreads) to_f32_kernel(float* out, const bf16* x, int64_t count) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 8;
  if (i + 8 <= count) {
    const uint4 p = *reinterpret_cast<const uint4*>(x + i);
    reinterpret_cast<float4*>(out + i)[0] = make_float4(low_bf16(p.x), high_bf16(p.x), low_bf16(p.y), high_bf16(p.y));
    reinterpret_cast<float4*>(out + i)[1] = make_float4(low_bf16(p.z), high_bf16(p.z), low_bf16(p.w), high_bf16(p.w));
  } else {
    for (int64_t j = i; j < count; ++j) out[j] = to_float(x[j]);
  }
}

dim3 blocks_for(int64_t threads) { return dim3(static_cast<unsigned>(ceil_div(threads, kThreads))); }

}  // namespace

cudaError_t swiglu(cudaStream_t stream, bf16* out, const float* gate_up, int rows, int width) {
  if (rows < 0 || width <= 0 || width % 8 != 0) return cudaErrorInvalidValue;
  const int64_t groups = static_cast<int64_t>(rows) * (width / 8);
  return launch(swiglu_kernel, blocks_for(groups), dim3(kThreads), 0, stream, out, gate_up, groups, width);
}

cudaError_t add(cudaStream_t stream, float* x, const float* y, int64_t count) {
  if (count < 0) return cudaErrorInvalidValue;
  return launch(add_kernel, blocks_for(ceil_div(count, 4)), dim3(kThreads), 0, stream, x, y, count);
}

cudaError_t add_bias(cudaStream_t stream, float* x, const float* bias, int rows, int width, bool accumulate) {
  if (rows < 0 || width <= 0 || width % 4 != 0) return cudaErrorInvalidValue;
  return launch(add_bias_kernel, dim3(rows), dim3(kThreads), 0, stream, x, bias, width, accumulate);
}

cudaError_t embed(cudaStream_t stream, float* out, const bf16* table, const int32_t* tokens, int rows, int width, int vocabulary) {
  if (rows < 0 || width <= 0 || width % 8 != 0 || vocabulary <= 0) return cudaErrorInvalidValue;
  return launch(embed_kernel, dim3(rows), dim3(kThreads), 0, stream, out, table, tokens, width, vocabulary);
}

cudaError_t copy_rows(cudaStream_t stream, float* out, const float* x, const int32_t* indices, int rows, int width, int x_rows) {
  if (rows < 0 || width <= 0 || width % 4 != 0 || x_rows < 0) return cudaErrorInvalidValue;
  return launch(copy_rows_kernel, dim3(rows), dim3(kThreads), 0, stream, out, x, indices, width, x_rows);
}

cudaError_t to_bf16(cudaStream_t stream, bf16* out, const float* x, int64_t count) {
  if (count < 0) return cudaErrorInvalidValue;
  return launch(to_bf16_kernel, blocks_for(ceil_div(count, 8)), dim3(kThreads), 0, stream, out, x, count);
}

cudaError_t to_f32(cudaStream_t stream, float* out, const bf16* x, int64_t count) {
  if (count < 0) return cudaErrorInvalidValue;
  return launch(to_f32_kernel, blocks_for(ceil_div(count, 8)), dim3(kThreads), 0, stream, out, x, count);
}

}  // namespace magicpig
