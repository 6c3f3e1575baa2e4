#include "linear.h"

#include "../device/layout.h"
#include "../device/tensor_core.h"
#include "../device/warp.h"

namespace magicpig {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kWindow = 32;  // inputs that a warp takes at a time: four lanes of eight

// W is the A operand of the matrix product (16 rows), x the B operand (8 columns), so that one load of W serves every row of
// x. The order of k within a product is free as long as both operands agree: lane (group, member) takes the eight inputs
// 8 member .. 8 member + 7 of its window with one 16-byte load, and calls the pairs (0, 1) of them k = 2 member, 2 member + 1
// and (2, 3) k = 2 member + 8, 2 member + 9 in a first product, (4, 5) and (6, 7) in a second. Nothing is staged in shared
// memory; the eight warps of a block share the inputs window by window and add up at the end.
//
// kRowTiles: 16-row tiles of W a block holds. kColumnTiles: 8-row tiles of x. kGated: rows 8..15 of each tile come from U
// where rows 0..7 come from G.
template <int kRowTiles, int kColumnTiles, bool kGated>
__global__ void __launch_bounds__(kThreads)
    linear_kernel(void* out, const bf16* x, const bf16* weight, const float* bias, int rows, int outputs, int inputs, bool accumulate) {
  constexpr int kTileOutputs = kGated ? 8 : 16;
  constexpr int kBlockOutputs = kRowTiles * kTileOutputs;
  constexpr int kBlockRows = kColumnTiles * 8;
  __shared__ float sums[kWarps][kRowTiles * 16][kBlockRows];

  const int lane = static_cast<int>(lane_id()), warp = static_cast<int>(warp_id());
  const int group = lane / 4, member = lane % 4;
  const int first_output = static_cast<int>(blockIdx.x) * kBlockOutputs;

  // Rows past the end are read as the last one and dropped at the end, so that the loop has no branch.
  const bf16* w_rows[kRowTiles][2];
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int output = first_output + tile * kTileOutputs + (kGated ? group : half * 8 + group);
      const int clamped = output < outputs ? output : outputs - 1;
      w_rows[tile][half] = weight + static_cast<int64_t>(kGated && half == 1 ? outputs + clamped : clamped) * inputs;
    }
  }
  const bf16* x_rows[kColumnTiles];
#pragma unroll
  for (int tile = 0; tile < kColumnTiles; ++tile) {
    const int row = tile * 8 + group;
    x_rows[tile] = x + static_cast<int64_t>(row < rows ? row : rows - 1) * inputs;
  }

  float acc[kRowTiles][kColumnTiles][4] = {};
#pragma unroll 2
  for (int start = warp * kWindow; start < inputs; start += kWarps * kWindow) {
    const int k = start + member * 8;
    const bool valid = k < inputs;
    const uint4 zero = make_uint4(0, 0, 0, 0);
    uint4 w[kRowTiles][2], b[kColumnTiles];
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        w[tile][half] = valid ? __ldcs(reinterpret_cast<const uint4*>(w_rows[tile][half] + k)) : zero;
      }
    }
#pragma unroll
    for (int tile = 0; tile < kColumnTiles; ++tile) {
      b[tile] = valid ? __ldg(reinterpret_cast<const uint4*>(x_rows[tile] + k)) : zero;
    }
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      const uint32_t first[4] = {w[i][0].x, w[i][1].x, w[i][0].y, w[i][1].y};
      const uint32_t second[4] = {w[i][0].z, w[i][1].z, w[i][0].w, w[i][1].w};
#pragma unroll
      for (int j = 0; j < kColumnTiles; ++j) {
        mma_bf16(acc[i][j], first, b[j].x, b[j].y);
        mma_bf16(acc[i][j], second, b[j].z, b[j].w);
      }
    }
  }

#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
    for (int j = 0; j < kColumnTiles; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[warp][i * 16 + fragment_row(lane, e)][j * 8 + fragment_column(lane, e)] = acc[i][j][e];
    }
  }
  __syncthreads();

  for (int i = threadIdx.x; i < kBlockOutputs * kBlockRows; i += kThreads) {
    const int local = i % kBlockOutputs, row = i / kBlockOutputs;
    const int output = first_output + local;
    if (row >= rows || output >= outputs) continue;
    const int place = kGated ? local / 8 * 16 + local % 8 : local;
    float sum = 0.0f, up = 0.0f;
#pragma unroll
    for (int part = 0; part < kWarps; ++part) {
      sum += sums[part][place][row];
      if constexpr (kGated) up += sums[part][place + 8][row];
    }
    const int64_t at = static_cast<int64_t>(row) * outputs + output;
    if constexpr (kGated) {
      static_cast<bf16*>(out)[at] = to_bf16(__fdividef(sum, 1.0f + __expf(-sum)) * up);
    } else {
      float* result = static_cast<float*>(out);
      if (bias != nullptr) sum += bias[output];
      result[at] = accumulate ? result[at] + sum : sum;
    }
  }
}

template <bool kGated>
cudaError_t run(cudaStream_t stream, void* out, const bf16* x, const bf16* weight, const float* bias, int rows, int outputs,
                int inputs, bool accumulate) {
  if (rows < 0 || rows > kMaxLinearRows || outputs <= 0 || inputs <= 0 || inputs % 8 != 0) return cudaErrorInvalidValue;
  if (rows == 0) return cudaSuccess;
  const int tile = kGated ? 8 : 16;
  if (rows <= 8) {
    return launch(linear_kernel<1, 1, kGated>, dim3(static_cast<unsigned>(ceil_div(outputs, tile))), dim3(kThreads), 0, stream, out,
                  x, weight, bias, rows, outputs, inputs, accumulate);
  }
  // Two tiles of W a block: x, which every block reads whole, is then read half as often.
  return launch(linear_kernel<2, 2, kGated>, dim3(static_cast<unsigned>(ceil_div(outputs, 2 * tile))), dim3(kThreads), 0, stream,
                out, x, weight, bias, rows, outputs, inputs, accumulate);
}

}  // namespace

cudaError_t linear(cudaStream_t stream, float* out, const bf16* x, const bf16* weight, const float* bias, int rows, int outputs,
                   int inputs, bool accumulate) {
  return run<false>(stream, out, x, weight, bias, rows, outputs, inputs, accumulate);
}

cudaError_t linear_gated(cudaStream_t stream, bf16* out, const bf16* x, const bf16* weight, int rows, int width, int inputs) {
  return run<true>(stream, out, x, weight, nullptr, rows, width, inputs, false);
}

}  // namespace magicpig
