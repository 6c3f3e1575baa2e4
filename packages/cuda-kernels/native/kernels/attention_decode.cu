#include "attention_decode.h"

#include "../device/online_softmax.h"
#include "../device/tensor_core.h"

namespace magicpig {
namespace {

// A block takes one split of the keys of one KV head of one sequence, and up to 16 of the query heads that share it, which fill
// the 16 rows of a matrix product. Its four warps take 16 keys each of every 64 and never wait for one another: each has its
// own two stages of shared memory and its own softmax. They merge at the end.
constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kHeads = 16;
constexpr int kWarpKeys = 16;
constexpr int kStages = 2;
static_assert(kWarps * kWarpKeys == kPageTokens);

template <int kDim>
__host__ __device__ constexpr size_t shared_bytes() {
  return static_cast<size_t>(kWarps) * kStages * 2 * kWarpKeys * kDim * 2;
}

struct Outputs {
  float* f32;
  bf16* b16;
  float* lse;
};

__device__ __forceinline__ void store(const Outputs& out, int64_t at, float value) {
  if (out.f32 != nullptr) {
    out.f32[at] = value;
  } else {
    out.b16[at] = to_bf16(value);
  }
}

// The result of split i of a row goes to place row * splits + i of `out`.
template <int kDim>
__global__ void __launch_bounds__(kThreads)
    decode_kernel(Outputs out, const bf16* q, KvView kv, const int32_t* lengths, const int32_t* gaps, DecodeShape shape, int splits) {
  constexpr int kChunks = kDim / 8;
  constexpr int kTileChunks = kWarpKeys * kChunks;
  const int lane = static_cast<int>(lane_id()), warp = static_cast<int>(warp_id());
  const int group = shape.query_heads / shape.kv_heads;
  const int head_blocks = (group + kHeads - 1) / kHeads;
  const int split = static_cast<int>(blockIdx.x);
  const int kv_head = static_cast<int>(blockIdx.y) / head_blocks;
  const int first_head = static_cast<int>(blockIdx.y) % head_blocks * kHeads;  // within the group
  const int heads = group - first_head < kHeads ? group - first_head : kHeads;
  const int64_t sequence = blockIdx.z;
  const int64_t first_row = sequence * shape.query_heads + kv_head * group + first_head;

  const int length = lengths[sequence] < shape.max_keys ? lengths[sequence] : shape.max_keys;
  const int begin = split * shape.split;
  const int end = split_end(split, shape.split, length);
  if (begin >= length && splits > 1) return;  // the merge does not look at splits past the end
  const int gap_begin = gaps != nullptr ? gaps[2 * sequence] : length, gap_end = gaps != nullptr ? gaps[2 * sequence + 1] : length;
  const bool left_out = begin >= gap_begin && end <= gap_end;  // the whole split
  const int tiles = end > begin && !left_out ? (end - begin + kPageTokens - 1) / kPageTokens : 0;

  const int32_t* pages = kv.pages != nullptr ? kv.pages + sequence * shape.pages_stride : nullptr;
  const int64_t base = kv.pages != nullptr ? 0 : sequence * shape.sequence_stride;
  uint4* own = dynamic_shared<uint4>() + warp * kStages * 2 * kTileChunks;
  const auto k_tile = [&](int stage) { return own + stage * 2 * kTileChunks; };
  const auto v_tile = [&](int stage) { return k_tile(stage) + kTileChunks; };
  // A lane copies one chunk of every kStep-th key.
  constexpr int kStep = static_cast<int>(kWarp) / kChunks;
  const int own_key = lane / kChunks, own_chunk = lane % kChunks;
  const int own_place = swizzled_chunk(own_key, own_chunk, kChunks);
  const bool live = own_chunk < shape.head_dim / 8;
  const auto load = [&](int tile) {
    if (tile < tiles) {
      // A tile is one page.
      const int64_t offset = base + kv.row(pages, begin + tile * kPageTokens, kv_head) + (warp * kWarpKeys + own_key) * kv.token_stride + own_chunk * 8;
      const int first = begin + tile * kPageTokens + warp * kWarpKeys + own_key;
#pragma unroll
      for (int key = 0; key < kWarpKeys; key += kStep) {
        const bool valid = live && first + key < end && !(first + key >= gap_begin && first + key < gap_end);
        const int place = (own_place ^ (key & 7)) + key * kChunks;  // swizzled_chunk(own_key + key, own_chunk, kChunks)
        copy_async(k_tile(tile % kStages) + place, kv.k + offset + key * kv.token_stride, valid);
        copy_async(v_tile(tile % kStages) + place, kv.v + offset + key * kv.token_stride, valid);
      }
    }
    commit_copies();
  };
  load(0);

  // Rows past the last head are zeros.
  uint32_t q_operand[kDim / 16][4];
#pragma unroll
  for (int d = 0; d < kDim / 16; ++d) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i % 2 * 8, column = d * 16 + lane % 4 * 2 + i / 2 * 8;
      const bool valid = row < heads && column < shape.head_dim;
      q_operand[d][i] = valid ? *reinterpret_cast<const uint32_t*>(q + (first_row + row) * shape.head_dim + column) : 0u;
    }
  }

  // What the lane points at in a tile's columns 0..15.
  const int a_place = swizzled_chunk(a_block_row(lane), a_block_chunk(lane), kChunks);
  const int b_place = swizzled_chunk(b_block_row(lane), b_block_chunk(lane), kChunks);

  float acc[kDim / 8][4] = {};
  OnlineSoftmax softmax;
  const float scale = shape.scale * kLog2E;
  for (int tile = 0; tile < tiles; ++tile) {
    load(tile + 1);
    wait_copies<1>();
    __syncwarp();  // the other lanes' copies too

    float scores[kWarpKeys / 8][4] = {};
#pragma unroll
    for (int d = 0; d < kDim / 16; ++d) {
      uint32_t b[4];
      load_matrices(b, k_tile(tile % kStages) + further_chunks(b_place, d));
      mma_bf16(scores[0], q_operand[d], b[0], b[1]);
      mma_bf16(scores[1], q_operand[d], b[2], b[3]);
    }
    const int first_key = begin + tile * kPageTokens + warp * kWarpKeys;
    if (first_key + kWarpKeys > end || (first_key + kWarpKeys > gap_begin && first_key < gap_end)) {
#pragma unroll
      for (int j = 0; j < kWarpKeys / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int key = first_key + j * 8 + fragment_column(lane, e);
          if (key >= end || (key >= gap_begin && key < gap_end)) scores[j][e] = -kInfinity;
        }
      }
    }

    float shrink[2];
    softmax.update(scores, scale, shrink);
    if (__any_sync(kAllLanes, shrink[0] != 1.0f || shrink[1] != 1.0f)) {
#pragma unroll
      for (int d = 0; d < kDim / 8; ++d) {
#pragma unroll
        for (int e = 0; e < 4; ++e) acc[d][e] *= shrink[e / 2];
      }
    }
    uint32_t weights[4];
    weights_operand(weights, scores, 0);
#pragma unroll
    for (int d = 0; d < kDim / 16; ++d) {
      uint32_t b[4];
      load_matrices_transposed(b, v_tile(tile % kStages) + further_chunks(a_place, d));
      mma_bf16(acc[2 * d], weights, b[0], b[1]);
      mma_bf16(acc[2 * d + 1], weights, b[2], b[3]);
    }
    __syncwarp();  // nobody reads this stage any more; the next round overwrites it
  }
  wait_copies<0>();

  // The four warps' parts, in warp order.
  __shared__ float largest[kWarps][kHeads], sums[kWarps][kHeads];
  __syncthreads();  // all tiles have been read: their place holds the sums [kWarps][kHeads][kDim] now
  float* parts = dynamic_shared<float>();
  static_assert(shared_bytes<kDim>() >= kWarps * kHeads * kDim * sizeof(float));
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float sum = group_sum(softmax.sum[half]);
    const int row = fragment_row(lane, 2 * half);
    if (lane % 4 == 0) {
      largest[warp][row] = softmax.largest[half];
      sums[warp][row] = sum;
    }
#pragma unroll
    for (int d = 0; d < kDim / 8; ++d) {
      float* part = parts + (warp * kHeads + row) * kDim + d * 8 + fragment_column(lane, 0);
      part[0] = acc[d][2 * half];
      part[1] = acc[d][2 * half + 1];
    }
  }
  __syncthreads();

  for (int i = threadIdx.x; i < heads * shape.head_dim; i += kThreads) {
    const int row = i / shape.head_dim, column = i % shape.head_dim;
    float top = -kInfinity;
#pragma unroll
    for (int part = 0; part < kWarps; ++part) top = fmaxf(top, largest[part][row]);
    float total = 0.0f, value = 0.0f;
#pragma unroll
    for (int part = 0; part < kWarps; ++part) {
      const float weight = top == -kInfinity ? 0.0f : fast_exp2(largest[part][row] - top);
      total += sums[part][row] * weight;
      value += parts[(part * kHeads + row) * kDim + column] * weight;
    }
    const int64_t place = (first_row + row) * splits + split;
    store(out, place * shape.head_dim + column, total > 0.0f ? value / total : 0.0f);
    if (column == 0 && out.lse != nullptr) out.lse[place] = total > 0.0f ? top * kLn2 + logf(total) : -kInfinity;
  }
}

// One block a row: eight warps take every eighth split, then add up in warp order.
constexpr int kMergeWarps = 8;

__global__ void __launch_bounds__(kMergeWarps * kWarp)
    merge_splits_kernel(Outputs out, const float* parts, const float* part_lse, const int32_t* lengths, DecodeShape shape, int splits) {
  __shared__ float scratch[kWarp];
  __shared__ float sums[kMergeWarps][128];
  const int64_t row = blockIdx.x;
  const int64_t sequence = row / shape.query_heads;
  const int length = lengths[sequence] < shape.max_keys ? lengths[sequence] : shape.max_keys;
  int live = length > 0 ? split_count(length, shape.split) : 0;
  const int lane = static_cast<int>(lane_id()), warp = static_cast<int>(warp_id());
  const float* row_lse = part_lse + row * splits;

  float top = -kInfinity;
  for (int i = threadIdx.x; i < live; i += kMergeWarps * kWarp) top = fmaxf(top, row_lse[i]);
  top = warp_max(top);
  if (lane == 0) scratch[warp] = top;
  __syncthreads();
  top = warp_max(lane < kMergeWarps ? scratch[lane] : -kInfinity);
  if (top == -kInfinity) live = 0;  // all keys are left out
  __syncthreads();  // scratch is used again

  const int column = lane * 4;
  float4 value = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  float total = 0.0f;  // of this warp's splits, the same in every lane
#pragma unroll 4
  for (int i = warp; i < live; i += kMergeWarps) {
    const float weight = __expf(row_lse[i] - top);
    total += weight;
    if (column < shape.head_dim) {
      const float4 part = *reinterpret_cast<const float4*>(parts + (row * splits + i) * shape.head_dim + column);
      value = make_float4(value.x + weight * part.x, value.y + weight * part.y, value.z + weight * part.z, value.w + weight * part.w);
    }
  }
  *reinterpret_cast<float4*>(&sums[warp][column]) = value;
  if (lane == 0) scratch[warp] = total;
  __syncthreads();

  for (int i = threadIdx.x; i < shape.head_dim; i += kMergeWarps * kWarp) {
    float sum = 0.0f, weight = 0.0f;
#pragma unroll
    for (int part = 0; part < kMergeWarps; ++part) {
      sum += sums[part][i];
      weight += scratch[part];
    }
    store(out, row * shape.head_dim + i, live > 0 ? sum / weight : 0.0f);
    if (i == 0 && out.lse != nullptr) out.lse[row] = live > 0 ? top + logf(weight) : -kInfinity;
  }
}

constexpr int kMergeThreads = 256;

// One thread four columns of one row.
__global__ void __launch_bounds__(kMergeThreads)
    merge_attention_kernel(Outputs out, const float* a, const float* lse_a, const float* b, const float* lse_b, int rows, int head_dim) {
  const int per_row = head_dim / 4;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kMergeThreads + threadIdx.x;
  const bool valid = i < static_cast<int64_t>(rows) * per_row;
  const int64_t row = valid ? i / per_row : 0;
  const float x = lse_a[row], y = lse_b[row];
  const float top = fmaxf(x, y);
  const float pivot = top == -kInfinity ? 0.0f : top;
  const float weight_a = __expf(x - pivot), weight_b = __expf(y - pivot);
  const float sum = weight_a + weight_b;
  const float share_a = sum > 0.0f ? weight_a / sum : 0.0f, share_b = sum > 0.0f ? weight_b / sum : 0.0f;
  if (valid) {
    // A part without keys may hold anything, so that it is left out rather than multiplied by zero.
    const float4 zero = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    const float4 p = share_a > 0.0f ? reinterpret_cast<const float4*>(a)[i] : zero;
    const float4 q = share_b > 0.0f ? reinterpret_cast<const float4*>(b)[i] : zero;
    const float4 r = make_float4(share_a * p.x + share_b * q.x, share_a * p.y + share_b * q.y, share_a * p.z + share_b * q.z,
                                 share_a * p.w + share_b * q.w);
    if (out.f32 != nullptr) {
      reinterpret_cast<float4*>(out.f32)[i] = r;
    } else {
      reinterpret_cast<uint2*>(out.b16)[i] = make_uint2(pack_bf16(r.x, r.y), pack_bf16(r.z, r.w));
    }
  }
}

__global__ void __launch_bounds__(kMergeThreads) merge_lse_kernel(float* lse, const float* lse_a, const float* lse_b, int rows) {
  const int row = static_cast<int>(blockIdx.x * kMergeThreads + threadIdx.x);
  if (row >= rows) return;
  const float x = lse_a[row], y = lse_b[row];
  const float top = fmaxf(x, y);
  lse[row] = top == -kInfinity ? top : top + logf(__expf(x - top) + __expf(y - top));
}

int splits_of(const DecodeShape& shape) {
  const int splits = split_count(shape.max_keys, shape.split);
  return splits > 1 ? splits : 1;
}

int64_t rows_of(const DecodeShape& shape) { return static_cast<int64_t>(shape.sequences) * shape.query_heads; }

template <int kDim>
cudaError_t run(cudaStream_t stream, const Outputs& out, const bf16* q, const KvView& kv, const int32_t* lengths,
                const int32_t* gaps, const DecodeShape& shape, int splits) {
  const int group = shape.query_heads / shape.kv_heads;
  const dim3 grid(static_cast<unsigned>(splits), static_cast<unsigned>(shape.kv_heads * ceil_div(group, kHeads)),
                  static_cast<unsigned>(shape.sequences));
  return launch(decode_kernel<kDim>, grid, dim3(kThreads), shared_bytes<kDim>(), stream, out, q, kv, lengths, gaps, shape, splits);
}

}  // namespace

size_t attention_decode_workspace(const DecodeShape& shape) {
  const int splits = splits_of(shape);
  if (splits == 1) return 0;
  return static_cast<size_t>(rows_of(shape)) * splits * (shape.head_dim + 1) * sizeof(float);
}

cudaError_t attention_decode(cudaStream_t stream, float* out_f32, bf16* out_bf16, float* lse, void* workspace, const bf16* q,
                             const KvView& kv, const int32_t* lengths, const int32_t* gaps, const DecodeShape& shape) {
  if (shape.sequences < 0 || shape.sequences > 65535 || shape.max_keys < 0 || shape.split <= 0 || shape.split % kPageTokens != 0 ||
      shape.kv_heads <= 0 || shape.query_heads <= 0 || shape.query_heads % shape.kv_heads != 0 || shape.query_heads > 65535 ||
      shape.head_dim <= 0 || shape.head_dim > 128 || shape.head_dim % 8 != 0 || (out_f32 == nullptr) == (out_bf16 == nullptr) ||
      shape.max_keys > INT32_MAX - shape.split) {
    return cudaErrorInvalidValue;
  }
  const int splits = splits_of(shape);
  const Outputs out{out_f32, out_bf16, lse};
  Outputs first = out;
  if (splits > 1) {
    if (workspace == nullptr) return cudaErrorInvalidValue;
    float* parts = static_cast<float*>(workspace);
    first = {parts, nullptr, parts + rows_of(shape) * splits * shape.head_dim};
  }
  const cudaError_t error = shape.head_dim <= 64 ? run<64>(stream, first, q, kv, lengths, gaps, shape, splits)
                                                 : run<128>(stream, first, q, kv, lengths, gaps, shape, splits);
  if (error != cudaSuccess || splits == 1) return error;
  return launch(merge_splits_kernel, dim3(static_cast<unsigned>(rows_of(shape))), dim3(kMergeWarps * kWarp), 0, stream, out, first.f32,
                first.lse, lengths, shape, splits);
}

cudaError_t merge_attention(cudaStream_t stream, float* out_f32, bf16* out_bf16, float* lse, const float* a, const float* lse_a,
                            const float* b, const float* lse_b, int rows, int head_dim) {
  if (rows < 0 || head_dim <= 0 || head_dim % 4 != 0 || (out_f32 == nullptr) == (out_bf16 == nullptr)) return cudaErrorInvalidValue;
  const auto blocks = static_cast<unsigned>(ceil_div(static_cast<int64_t>(rows) * (head_dim / 4), kMergeThreads));
  const cudaError_t error = launch(merge_attention_kernel, dim3(blocks), dim3(kMergeThreads), 0, stream,
                                   Outputs{out_f32, out_bf16, nullptr}, a, lse_a, b, lse_b, rows, head_dim);
  if (error != cudaSuccess || lse == nullptr) return error;
  // Afterwards, since lse may be lse_a.
  return launch(merge_lse_kernel, dim3(static_cast<unsigned>(ceil_div(rows, kMergeThreads))), dim3(kMergeThreads), 0, stream, lse,
                lse_a, lse_b, rows);
}

}  // namespace magicpig
