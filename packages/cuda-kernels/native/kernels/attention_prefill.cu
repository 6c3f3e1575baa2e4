#include "attention_prefill.h"

#include "../device/online_softmax.h"
#include "../device/tensor_core.h"

namespace magicpig {
namespace {

// A block takes 128 rows of one KV head: a row is one query head of one query (layout.h, packed rows), so that the heads of a
// group share every key that is loaded. Each of the eight warps owns 16 rows. Keys and values pass through two stages of
// shared memory, 64 tokens at a time; with head_dim 128 that and the queries are 96 KiB.
constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kRows = kWarps * 16;
constexpr int kKeys = kPageTokens;
constexpr int kStages = 2;

constexpr size_t shared_bytes(int dim) { return (kRows + kStages * 2 * kKeys) * static_cast<size_t>(dim) * 2; }

// kDim: head_dim rounded up to 64 or 128; the rest is zeros.
template <int kDim>
__global__ void __launch_bounds__(kThreads, 1)
    prefill_kernel(float* out_f32, bf16* out_bf16, float* lse, const bf16* q, KvView kv, PrefillShape shape) {
  constexpr int kChunks = kDim / 8;
  constexpr int kTileChunks = kKeys * kChunks;
  uint4* q_tile = dynamic_shared<uint4>();
  const auto k_tile = [&](int stage) { return q_tile + kRows * kChunks + stage * 2 * kTileChunks; };
  const auto v_tile = [&](int stage) { return k_tile(stage) + kTileChunks; };

  const int lane = static_cast<int>(lane_id()), warp = static_cast<int>(warp_id());
  const int group = shape.query_heads / shape.kv_heads;
  const int rows = shape.queries * group;  // the launcher refuses more than fit an int
  const int kv_head = static_cast<int>(blockIdx.y);
  // The last rows see the most keys: they start first.
  const int first_row = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kRows;
  const int last_row = (first_row + kRows < rows ? first_row + kRows : rows) - 1;
  const int live_chunks = shape.head_dim / 8;

  const int most = visible_keys(shape.query_position + packed_query(last_row, group), shape.key_position, shape.keys);
  const int least = visible_keys(shape.query_position + packed_query(first_row, group), shape.key_position, shape.keys);
  const int tiles = static_cast<int>(ceil_div(most, kKeys));

  for (int i = threadIdx.x; i < kRows * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const bool valid = first_row + row < rows && chunk < live_chunks;
    const int64_t head = static_cast<int64_t>(packed_query(first_row + row, group)) * shape.query_heads + kv_head * group +
                         packed_head(first_row + row, group);
    copy_async(q_tile + swizzled_chunk(row, chunk, kChunks), valid ? q + head * shape.head_dim + chunk * 8 : q, valid);
  }
  const auto load = [&](int tile) {
    if (tile < tiles) {
      uint4* ks = k_tile(tile % kStages);
      uint4* vs = v_tile(tile % kStages);
      for (int i = threadIdx.x; i < kTileChunks; i += kThreads) {
        const int token = i / kChunks, chunk = i % kChunks;
        // Past the end zeros, since what is there may be NaN, and 0 * NaN would reach the result.
        const bool valid = tile * kKeys + token < most && chunk < live_chunks;
        const int64_t offset = valid ? kv.row(kv.pages, tile * kKeys + token, kv_head) + chunk * 8 : 0;
        copy_async(ks + swizzled_chunk(token, chunk, kChunks), kv.k + offset, valid);
        copy_async(vs + swizzled_chunk(token, chunk, kChunks), kv.v + offset, valid);
      }
    }
    commit_copies();
  };
  load(0);

  int visible[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + warp * 16 + fragment_row(lane, 2 * half);
    visible[half] = visible_keys(shape.query_position + packed_query(row, group), shape.key_position, shape.keys);
  }

  uint32_t q_operand[kDim / 16][4];
  float acc[kDim / 8][4] = {};
  OnlineSoftmax softmax;
  const float scale = shape.scale * kLog2E;

  for (int tile = 0; tile < tiles; ++tile) {
    load(tile + 1);
    wait_copies<1>();
    __syncthreads();  // this tile is there for all
    if (tile == 0) {
#pragma unroll
      for (int d = 0; d < kDim / 16; ++d) {
        load_matrices(q_operand[d], q_tile + swizzled_chunk(warp * 16 + a_block_row(lane), d * 2 + a_block_chunk(lane), kChunks));
      }
    }

    const uint4* ks = k_tile(tile % kStages);
    float scores[kKeys / 8][4] = {};
#pragma unroll
    for (int d = 0; d < kDim / 16; ++d) {
#pragma unroll
      for (int j = 0; j < kKeys / 16; ++j) {
        uint32_t b[4];
        load_matrices(b, ks + swizzled_chunk(j * 16 + b_block_row(lane), d * 2 + b_block_chunk(lane), kChunks));
        mma_bf16(scores[2 * j], q_operand[d], b[0], b[1]);
        mma_bf16(scores[2 * j + 1], q_operand[d], b[2], b[3]);
      }
    }
    if ((tile + 1) * kKeys > least) {
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (tile * kKeys + j * 8 + fragment_column(lane, e) >= visible[e / 2]) scores[j][e] = -kInfinity;
        }
      }
    }

    float shrink[2];
    softmax.update(scores, scale, shrink);
#pragma unroll
    for (int d = 0; d < kDim / 8; ++d) {
#pragma unroll
      for (int e = 0; e < 4; ++e) acc[d][e] *= shrink[e / 2];
    }

    const uint4* vs = v_tile(tile % kStages);
#pragma unroll
    for (int j = 0; j < kKeys / 16; ++j) {
      uint32_t weights[4];
      weights_operand(weights, scores, j);
#pragma unroll
      for (int d = 0; d < kDim / 16; ++d) {
        uint32_t b[4];
        load_matrices_transposed(b, vs + swizzled_chunk(j * 16 + a_block_row(lane), d * 2 + a_block_chunk(lane), kChunks));
        mma_bf16(acc[2 * d], weights, b[0], b[1]);
        mma_bf16(acc[2 * d + 1], weights, b[2], b[3]);
      }
    }
    __syncthreads();  // nobody reads this stage any more; the next round overwrites it
  }
  wait_copies<0>();

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float sum = group_sum(softmax.sum[half]);
    const int row = first_row + warp * 16 + fragment_row(lane, 2 * half);
    if (row >= rows) continue;
    const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
    const int64_t head =
        static_cast<int64_t>(packed_query(row, group)) * shape.query_heads + kv_head * group + packed_head(row, group);
    if (lse != nullptr && lane % 4 == 0) {
      lse[head] = sum > 0.0f ? softmax.largest[half] * kLn2 + logf(sum) : -kInfinity;
    }
#pragma unroll
    for (int d = 0; d < kDim / 8; ++d) {
      const int column = d * 8 + fragment_column(lane, 0);
      if (column >= shape.head_dim) continue;
      const float a = acc[d][2 * half] * inverse, b = acc[d][2 * half + 1] * inverse;
      const int64_t at = head * shape.head_dim + column;
      if (out_f32 != nullptr) {
        *reinterpret_cast<float2*>(out_f32 + at) = make_float2(a, b);
      } else {
        *reinterpret_cast<uint32_t*>(out_bf16 + at) = pack_bf16(a, b);
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
  if (rows > INT32_MAX - kRows || shape.kv_heads > 65535) return cudaErrorInvalidValue;
  const dim3 grid(static_cast<unsigned>(ceil_div(rows, kRows)), static_cast<unsigned>(shape.kv_heads));
  if (shape.head_dim <= 64) {
    return launch(prefill_kernel<64>, grid, dim3(kThreads), shared_bytes(64), stream, out_f32, out_bf16, lse, q, kv, shape);
  }
  return launch(prefill_kernel<128>, grid, dim3(kThreads), shared_bytes(128), stream, out_f32, out_bf16, lse, q, kv, shape);
}

}  // namespace magicpig
