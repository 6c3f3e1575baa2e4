#include "rope.h"

#include "../device/launch.h"

namespace magicpig {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads)
    rope_table_kernel(float* table, const int32_t* positions, const float* frequencies, int rows, int head_dim, float scale) {
  const int half = head_dim / 2;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= static_cast<int64_t>(rows) * half) return;
  const int row = static_cast<int>(i / half), j = static_cast<int>(i % half);
  const double angle = static_cast<double>(positions[row]) * static_cast<double>(frequencies[j]);
  float* out = table + static_cast<int64_t>(row) * head_dim + j;
  out[0] = static_cast<float>(cos(angle) * static_cast<double>(scale));
  out[half] = static_cast<float>(sin(angle) * static_cast<double>(scale));
}

struct Pair4 {
  float4 low, high;
};

// Rotates four pairs (j, j + half), .. of one head.
__device__ __forceinline__ Pair4 rotate(float4 a, float4 b, float4 c, float4 s) {
  return {make_float4(a.x * c.x - b.x * s.x, a.y * c.y - b.y * s.y, a.z * c.z - b.z * s.z, a.w * c.w - b.w * s.w),
          make_float4(b.x * c.x + a.x * s.x, b.y * c.y + a.y * s.y, b.z * c.z + a.z * s.z, b.w * c.w + a.w * s.w)};
}

__device__ __forceinline__ float4 load4(const float* from) { return *reinterpret_cast<const float4*>(from); }
__device__ __forceinline__ void store4(float* to, float4 value) { *reinterpret_cast<float4*>(to) = value; }
__device__ __forceinline__ void store4(bf16* to, float4 value) {
  *reinterpret_cast<uint2*>(to) = make_uint2(pack_bf16(value.x, value.y), pack_bf16(value.z, value.w));
}

// One thread four pairs; a block walks one row.
__global__ void __launch_bounds__(kThreads)
    rope_kernel(float* x, const float* table, int64_t stride, int heads, int head_dim) {
  const int half = head_dim / 2, quads = half / 4;
  float* row = x + static_cast<int64_t>(blockIdx.x) * stride;
  const float* angles = table + static_cast<int64_t>(blockIdx.x) * head_dim;
  for (int i = threadIdx.x; i < heads * quads; i += kThreads) {
    const int j = i % quads * 4;
    float* values = row + i / quads * head_dim + j;
    const Pair4 r = rotate(load4(values), load4(values + half), load4(angles + j), load4(angles + half + j));
    store4(values, r.low);
    store4(values + half, r.high);
  }
}

__global__ void __launch_bounds__(kThreads)
    rope_split_kernel(bf16* q, bf16* k, bf16* v, const float* qkv, const float* table, const int32_t* slots, int query_heads,
                      int kv_heads, int head_dim) {
  const int64_t row = blockIdx.x;
  const int64_t slot = slots != nullptr ? slots[row] : row;
  const int half = head_dim / 2, quads = half / 4;
  const int heads = query_heads + 2 * kv_heads;
  const float* in = qkv + row * heads * head_dim;
  const float* angles = table + row * head_dim;
  for (int i = threadIdx.x; i < heads * quads; i += kThreads) {
    const int head = i / quads, j = i % quads * 4;
    float4 low = load4(in + head * head_dim + j), high = load4(in + head * head_dim + half + j);
    if (head < query_heads + kv_heads) {
      const Pair4 r = rotate(low, high, load4(angles + j), load4(angles + half + j));
      low = r.low;
      high = r.high;
    }
    bf16* out;
    if (head < query_heads) {
      out = q + (row * query_heads + head) * head_dim;
    } else if (slot < 0) {
      continue;
    } else if (head < query_heads + kv_heads) {
      out = k + (slot * kv_heads + head - query_heads) * head_dim;
    } else {
      out = v + (slot * kv_heads + head - query_heads - kv_heads) * head_dim;
    }
    store4(out + j, low);
    store4(out + half + j, high);
  }
}

bool fits(int rows, int head_dim) { return rows >= 0 && head_dim > 0 && head_dim % 8 == 0; }

}  // namespace

cudaError_t rope_table(cudaStream_t stream, float* table, const int32_t* positions, const float* frequencies, int rows,
                       int head_dim, float scale) {
  if (!fits(rows, head_dim)) return cudaErrorInvalidValue;
  const auto blocks = static_cast<unsigned>(ceil_div(static_cast<int64_t>(rows) * (head_dim / 2), kThreads));
  return launch(rope_table_kernel, dim3(blocks), dim3(kThreads), 0, stream, table, positions, frequencies, rows, head_dim, scale);
}

cudaError_t rope(cudaStream_t stream, float* x, const float* table, int rows, int64_t stride, int heads, int head_dim) {
  if (!fits(rows, head_dim) || heads < 0 || stride < static_cast<int64_t>(heads) * head_dim || stride % 4 != 0) {
    return cudaErrorInvalidValue;
  }
  return launch(rope_kernel, dim3(rows), dim3(kThreads), 0, stream, x, table, stride, heads, head_dim);
}

cudaError_t rope_split(cudaStream_t stream, bf16* q, bf16* k, bf16* v, const float* qkv, const float* table, const int32_t* slots,
                       int rows, int query_heads, int kv_heads, int head_dim) {
  if (!fits(rows, head_dim) || query_heads <= 0 || kv_heads <= 0) return cudaErrorInvalidValue;
  return launch(rope_split_kernel, dim3(rows), dim3(kThreads), 0, stream, q, k, v, qkv, table, slots, query_heads, kv_heads,
                head_dim);
}

}  // namespace magicpig
