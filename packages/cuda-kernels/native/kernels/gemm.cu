#include "gemm.h"

#include "../device/layout.h"
#include "../device/tensor_core.h"
#include "../device/warp.h"

namespace magicpig {
namespace {

// A block computes 128 x 128 results; its eight warps, two by four, 64 x 32 each. Tiles of 128 x 64 of both operands pass
// through three stages of shared memory (96 KiB, what every architecture from sm_80 on can give one block).
constexpr int kThreads = 256;
constexpr int kTile = 128, kDepth = 64, kStages = 3;
constexpr int kChunks = kDepth / 8;
constexpr int kTileBytes = kTile * kDepth * 2;
constexpr int kWarpRows = 64, kWarpColumns = 32;

__global__ void __launch_bounds__(kThreads, 2)
    gemm_kernel(float* out, const bf16* x, const bf16* weight, const float* bias, int rows, int outputs, int inputs, bool accumulate) {
  uint4* shared = dynamic_shared<uint4>();
  const auto x_tile = [&](int stage) { return shared + stage * 2 * (kTileBytes / kChunkBytes); };
  const auto w_tile = [&](int stage) { return x_tile(stage) + kTileBytes / kChunkBytes; };

  const int lane = static_cast<int>(lane_id()), warp = static_cast<int>(warp_id());
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kTile, first_output = static_cast<int64_t>(blockIdx.y) * kTile;
  const int warp_row = warp / 4 * kWarpRows, warp_column = warp % 4 * kWarpColumns;
  const int steps = static_cast<int>(ceil_div(inputs, kDepth));

  // A thread copies one chunk of every kStep-th row of both tiles. All its rows are swizzled alike.
  constexpr int kStep = kThreads / kChunks;
  static_assert(kStep % 8 == 0);
  const int own_row = static_cast<int>(threadIdx.x) / kChunks, own_chunk = static_cast<int>(threadIdx.x) % kChunks;
  const int own_place = swizzled_chunk(own_row, own_chunk, kChunks);
  const bf16* own_x = x + (first_row + own_row) * inputs + own_chunk * 8;
  const bf16* own_weight = weight + (first_output + own_row) * inputs + own_chunk * 8;
  const int64_t x_rows = rows - first_row - own_row, weight_rows = outputs - first_output - own_row;  // from the thread's first on
  const auto load = [&](int step) {
    if (step < steps) {
      const bool live = step * kDepth + own_chunk * 8 < inputs;  // zeros where the matrix ends
      uint4* xs = x_tile(step % kStages) + own_place;
      uint4* ws = w_tile(step % kStages) + own_place;
#pragma unroll
      for (int row = 0; row < kTile; row += kStep) {
        const int64_t offset = static_cast<int64_t>(row) * inputs + step * kDepth;
        copy_async(xs + row * kChunks, own_x + offset, live && row < x_rows);
        copy_async(ws + row * kChunks, own_weight + offset, live && row < weight_rows);
      }
    }
    commit_copies();  // an empty group at the end keeps the count of groups that wait_copies relies on
  };

  // What the lane points at in a block of 16 rows of each tile, columns 0..15.
  const int a_place = swizzled_chunk(a_block_row(lane), a_block_chunk(lane), kChunks);
  const int b_place = swizzled_chunk(b_block_row(lane), b_block_chunk(lane), kChunks);

  float acc[kWarpRows / 16][kWarpColumns / 8][4] = {};
  for (int step = 0; step < kStages - 1; ++step) load(step);
  for (int step = 0; step < steps; ++step) {
    wait_copies<kStages - 2>();
    __syncthreads();  // the tiles of this step are there, and nobody reads those of the step before, which load() overwrites
    load(step + kStages - 1);
    const uint4* xs = x_tile(step % kStages);
    const uint4* ws = w_tile(step % kStages);
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k) {
      uint32_t a[kWarpRows / 16][4], b[kWarpColumns / 16][4];
#pragma unroll
      for (int i = 0; i < kWarpRows / 16; ++i) {
        load_matrices(a[i], xs + further_chunks(a_place, k) + (warp_row + i * 16) * kChunks);
      }
#pragma unroll
      for (int j = 0; j < kWarpColumns / 16; ++j) {
        load_matrices(b[j], ws + further_chunks(b_place, k) + (warp_column + j * 16) * kChunks);
      }
#pragma unroll
      for (int i = 0; i < kWarpRows / 16; ++i) {
#pragma unroll
        for (int j = 0; j < kWarpColumns / 16; ++j) {
          mma_bf16(acc[i][2 * j], a[i], b[j][0], b[j][1]);
          mma_bf16(acc[i][2 * j + 1], a[i], b[j][2], b[j][3]);
        }
      }
    }
  }
  wait_copies<0>();

#pragma unroll
  for (int i = 0; i < kWarpRows / 16; ++i) {
#pragma unroll
    for (int j = 0; j < kWarpColumns / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int64_t row = first_row + warp_row + i * 16 + fragment_row(lane, e);
        const int64_t output = first_output + warp_column + j * 8 + fragment_column(lane, e);
        if (row >= rows || output >= outputs) continue;
        float* to = out + row * outputs + output;
        float sum = acc[i][j][e];
        if (bias != nullptr) sum += bias[output];
        *to = accumulate ? *to + sum : sum;
      }
    }
  }
}

}  // namespace

cudaError_t gemm(cudaStream_t stream, float* out, const bf16* x, const bf16* weight, const float* bias, int rows, int outputs,
                 int inputs, bool accumulate) {
  if (rows < 0 || outputs <= 0 || inputs <= 0 || inputs % 8 != 0 || ceil_div(outputs, kTile) > 65535) return cudaErrorInvalidValue;
  // Row tiles vary fastest, so that the blocks that run together share tiles of W in the L2 cache.
  const dim3 grid(static_cast<unsigned>(ceil_div(rows, kTile)), static_cast<unsigned>(ceil_div(outputs, kTile)));
  return launch(gemm_kernel, grid, dim3(kThreads), kStages * 2 * kTileBytes, stream, out, x, weight, bias, rows, outputs, inputs,
                accumulate);
}

}  // namespace magicpig
