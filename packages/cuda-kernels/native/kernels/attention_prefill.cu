#include "attention_prefill.h"

#include "../device/online_softmax.h"
#include "../device/tensor_core.h"

namespace magicpig {
namespace {

// A block takes 128 rows of one KV head: a row is one query head of one query (layout.h, packed rows), so that the heads of a
// group share every key that is loaded. Each of the four warps owns 32 rows, two row tiles: every operand that it loads from shared
// memory, which limits the kernel otherwise, serves two products. While scores are computed the values of their tile arrive, while
// weights and values are multiplied the next keys do. Two blocks fit on a multiprocessor, so that one's softmax hides behind the other's
// products.
constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kRowTiles = 2;
constexpr int kWarpRows = kRowTiles * 16;
constexpr int kRows = kWarps * kWarpRows;

template <int kDim, int kKeys>
constexpr size_t shared_bytes() {
  return (kRows + 2 * kKeys) * static_cast<size_t>(kDim) * 2;
}

// kDim: head_dim rounded up to 64 or 128; the rest is zeros. kKeys: keys of a tile, which divide a page.
template <int kDim, int kKeys>
__global__ void __launch_bounds__(kThreads, 2)
    prefill_kernel(float* out_f32, bf16* out_bf16, float* lse, const bf16* q, KvView kv, PrefillShape shape) {
  static_assert(kPageTokens % kKeys == 0);
  constexpr int kChunks = kDim / 8;
  uint4* q_tile = dynamic_shared<uint4>();
  uint4* k_tile = q_tile + kRows * kChunks;
  uint4* v_tile = k_tile + kKeys * kChunks;

  const int lane = static_cast<int>(lane_id()), warp = static_cast<int>(warp_id());
  const int group = shape.query_heads / shape.kv_heads;
  const int rows = shape.queries * group;  // the launcher refuses more than fit an int
  const int kv_head = static_cast<int>(blockIdx.y);
  // The last rows see the most keys: they start first.
  const int first_row = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kRows;
  const int last_row = (first_row + kRows < rows ? first_row + kRows : rows) - 1;

  const int most = visible_keys(shape.query_position + packed_query(last_row, group), shape.key_position, shape.keys);
  const int least = visible_keys(shape.query_position + packed_query(first_row, group), shape.key_position, shape.keys);

  // A thread copies one chunk of every kStep-th row. All its rows are swizzled alike.
  constexpr int kStep = kThreads / kChunks;
  static_assert(kStep % 8 == 0);
  const int own_row = static_cast<int>(threadIdx.x) / kChunks, own_chunk = static_cast<int>(threadIdx.x) % kChunks;
  const int own_place = swizzled_chunk(own_row, own_chunk, kChunks);
  const bool live = own_chunk < shape.head_dim / 8;

  for (int row = own_row; row < kRows; row += kStep) {
    const int64_t head = static_cast<int64_t>(packed_query(first_row + row, group)) * shape.query_heads + kv_head * group +
                         packed_head(first_row + row, group);
    const bool valid = first_row + row < rows && live;
    copy_async(q_tile + own_place + (row - own_row) * kChunks, valid ? q + head * shape.head_dim + own_chunk * 8 : q, valid);
  }
  // Keys first .. first + kKeys - 1, which lie in one page.
  const auto load = [&](uint4* to, const bf16* from, int first) {
    if (first < most) {
      const int left = live ? most - first - own_row : 0;
      from += kv.row(kv.pages, first, kv_head) + own_row * kv.token_stride + own_chunk * 8;
#pragma unroll
      for (int row = 0; row < kKeys; row += kStep) {
        // Past the end zeros, since what is there may be NaN, and 0 * NaN would reach the result.
        copy_async(to + own_place + row * kChunks, from + row * kv.token_stride, row < left);
      }
    }
    commit_copies();
  };
  load(k_tile, kv.k, 0);

  // What the lane points at in a block of 16 rows of each tile, columns 0..15.
  const int a_place = swizzled_chunk(a_block_row(lane), a_block_chunk(lane), kChunks);
  const int b_place = swizzled_chunk(b_block_row(lane), b_block_chunk(lane), kChunks);
  constexpr int kBlock = 16 * kChunks;

  float acc[kRowTiles][kDim / 8][4] = {};
  OnlineSoftmax softmax[kRowTiles];
  const float scale = shape.scale * kLog2E;

  for (int first = 0; first < most; first += kKeys) {
    wait_copies<0>();
    __syncthreads();  // the keys are there for all, and nobody reads the values of the tile before
    load(v_tile, kv.v, first);

    float scores[kRowTiles][kKeys / 8][4];
#pragma unroll
    for (int d = 0; d < kDim / 16; ++d) {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        load_matrices(a[i], q_tile + further_chunks(a_place, d) + (warp * kRowTiles + i) * kBlock);
      }
#pragma unroll
      for (int j = 0; j < kKeys / 16; ++j) {
        uint32_t b[4];
        load_matrices(b, k_tile + further_chunks(b_place, d) + j * kBlock);
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i) {
          if (d == 0) {
            first_mma_bf16(scores[i][2 * j], a[i], b[0], b[1]);
            first_mma_bf16(scores[i][2 * j + 1], a[i], b[2], b[3]);
          } else {
            mma_bf16(scores[i][2 * j], a[i], b[0], b[1]);
            mma_bf16(scores[i][2 * j + 1], a[i], b[2], b[3]);
          }
        }
      }
    }
    wait_copies<0>();
    __syncthreads();  // the values are there for all, and nobody reads the keys any more
    load(k_tile, kv.k, first + kKeys);

    uint32_t weights[kRowTiles][kKeys / 16][4];
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      if (first + kKeys > least) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = first_row + warp * kWarpRows + i * 16 + fragment_row(lane, 2 * half);
          const int visible = visible_keys(shape.query_position + packed_query(row, group), shape.key_position, shape.keys) - first;
#pragma unroll
          for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
            for (int e = 2 * half; e < 2 * half + 2; ++e) {
              if (j * 8 + fragment_column(lane, e) >= visible) scores[i][j][e] = -kInfinity;
            }
          }
        }
      }
      float shrink[2];
      softmax[i].update(scores[i], scale, shrink);
      if (__any_sync(kAllLanes, shrink[0] != 1.0f || shrink[1] != 1.0f)) {  // rare after the first tiles
#pragma unroll
        for (int d = 0; d < kDim / 8; ++d) {
#pragma unroll
          for (int e = 0; e < 4; ++e) acc[i][d][e] *= shrink[e / 2];
        }
      }
#pragma unroll
      for (int j = 0; j < kKeys / 16; ++j) weights_operand(weights[i][j], scores[i], j);
    }

#pragma unroll
    for (int d = 0; d < kDim / 16; ++d) {
#pragma unroll
      for (int j = 0; j < kKeys / 16; ++j) {
        uint32_t b[4];
        load_matrices_transposed(b, v_tile + further_chunks(a_place, d) + j * kBlock);
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i) {
          mma_bf16(acc[i][2 * d], weights[i][j], b[0], b[1]);
          mma_bf16(acc[i][2 * d + 1], weights[i][j], b[2], b[3]);
        }
      }
    }
  }
  wait_copies<0>();

#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = group_sum(softmax[i].sum[half]);
      const int row = first_row + warp * kWarpRows + i * 16 + fragment_row(lane, 2 * half);
      if (row >= rows) continue;
      const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
      const int64_t head =
          static_cast<int64_t>(packed_query(row, group)) * shape.query_heads + kv_head * group + packed_head(row, group);
      if (lse != nullptr && lane % 4 == 0) {
        lse[head] = sum > 0.0f ? softmax[i].largest[half] * kLn2 + logf(sum) : -kInfinity;
      }
#pragma unroll
      for (int d = 0; d < kDim / 8; ++d) {
        const int column = d * 8 + fragment_column(lane, 0);
        if (column >= shape.head_dim) continue;
        const float a = acc[i][d][2 * half] * inverse, b = acc[i][d][2 * half + 1] * inverse;
        const int64_t at = head * shape.head_dim + column;
        if (out_f32 != nullptr) {
          *reinterpret_cast<float2*>(out_f32 + at) = make_float2(a, b);
        } else {
          *reinterpret_cast<uint32_t*>(out_bf16 + at) = pack_bf16(a, b);
        }
      }
    }
  }
}

}  // namespace

cudaError_t attention_prefill(cudaStream_t stream, float* out_f32, bf16* out_bf16, float* lse, const bf16* q, const KvView& kv,
                              const PrefillShape& shape) {
  if (shape.queries < 0 || shape.keys < 0 || shape.kv_heads <= 0 || shape.query_heads <= 0 ||
      shape.query_heads % shape.kv_heads != 0 || shape.head_dim <= 0 || shape.head_dim > 128 || shape.head_dim % 8 != 0 ||
      (out_f32 == nullptr) == (out_bf16 == nullptr)) {
    return cudaErrorInvalidValue;
  }
  const int64_t rows = static_cast<int64_t>(shape.queries) * (shape.query_heads / shape.kv_heads);
  if (rows > INT32_MAX - kRows || shape.keys > INT32_MAX - kPageTokens || shape.kv_heads > 65535) return cudaErrorInvalidValue;
  const dim3 grid(static_cast<unsigned>(ceil_div(rows, kRows)), static_cast<unsigned>(shape.kv_heads));
  // Two blocks a multiprocessor with 64 keys a tile and head_dim 128 need 130 KiB of shared memory there, with 32 keys 98 KiB.
  int device = 0, available = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&available, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
  if (error != cudaSuccess) return error;
  const auto run = [&]<int kDim, int kKeys>() {
    return launch(prefill_kernel<kDim, kKeys>, grid, dim3(kThreads), shared_bytes<kDim, kKeys>(), stream, out_f32, out_bf16, lse, q, kv, shape);
  };
  if (shape.head_dim <= 64) return run.operator()<64, 64>();
  return available >= 2 * static_cast<int>(shared_bytes<128, 64>() + 1024) ? run.operator()<128, 64>() : run.operator()<128, 32>();
}

}  // namespace magicpig
