#include "linear.h"

#include "../device/layout.h"
#include "../device/tensor_core.h"
#include "../device/warp.h"

namespace magicpig {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr uint32_t kOnes = 0x3f803f80u;  // two bf16 of 1

// What a lane multiplies in one step: eight weights of two rows of each tile.
struct Octets {
  uint4 row[2];
};

// Codes as bf16, in which integers up to 256 are exact.
__device__ __forceinline__ uint4 bf16_of_bytes(uint2 codes) {
  // 2^23 + code has the code in its low bits: one byte of the word among those of 0x4b000000.
  const auto value = [](uint32_t word, unsigned byte) { return bits_to_float(__byte_perm(word, 0x4b000000u, 0x7440u + byte)) - (0x1p23f + kQ8Offset); };
  const auto pair = [&](uint32_t word, unsigned byte) { return pack_bf16(value(word, byte), value(word, byte + 1)); };
  return make_uint4(pair(codes.x, 0), pair(codes.x, 2), pair(codes.y, 0), pair(codes.y, 2));
}
// The bf16 128 + n has n in its low bits: nibbles are multiplied as that, and the 128 leave with the minimum.
__device__ __forceinline__ uint32_t bf16_of_nibble_pair(uint32_t word) {
#if defined(__CUDA_ARCH__)
  uint32_t pair;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(pair) : "r"(word), "r"(0x000f000fu), "r"(0x43004300u));  // (a & b) | c
  return pair;
#else
  return (word & 0x000f000fu) | 0x43004300u;
#endif
}
__device__ __forceinline__ uint4 bf16_of_nibbles(uint32_t word) {
  return make_uint4(bf16_of_nibble_pair(word), bf16_of_nibble_pair(word >> 4), bf16_of_nibble_pair(word >> 8), bf16_of_nibble_pair(word >> 12));
}

// The eight weights of block `step` out of what a lane loads of a row's window.
template <WeightKind kKind, typename Raw>
__device__ __forceinline__ uint4 octet(const Raw& raw, int step) {
  if constexpr (kKind == WeightKind::kBf16) {
    return raw;
  } else if constexpr (kKind == WeightKind::kQ8) {
    return bf16_of_bytes(step == 0 ? make_uint2(raw.x, raw.y) : make_uint2(raw.z, raw.w));
  } else {
    return bf16_of_nibbles(step == 0 ? raw.x : raw.y);
  }
}

// acc [16][8] += (or = `from_zero`) the 32 inputs of one step: the lane's eight weights of two rows against its eight inputs.
__device__ __forceinline__ void multiply_octets(float (&acc)[4], const Octets& w, const uint4& x, bool from_zero) {
  const uint32_t first[4] = {w.row[0].x, w.row[1].x, w.row[0].y, w.row[1].y};
  const uint32_t second[4] = {w.row[0].z, w.row[1].z, w.row[0].w, w.row[1].w};
  if (from_zero) {
    first_mma_bf16(acc, first, x.x, x.y);
  } else {
    mma_bf16(acc, first, x.x, x.y);
  }
  mma_bf16(acc, second, x.z, x.w);
}

// W is the A operand of the matrix product (16 rows), x the B operand (8 columns), so that one load of W serves every row of
// x. The order of k within a product is free as long as both operands agree: lane (group, member) takes the eight inputs
// 8 member .. 8 member + 7 of 32 with one load, and calls the pairs (0, 1) of them k = 2 member, 2 member + 1
// and (2, 3) k = 2 member + 8, 2 member + 9 in a first product, (4, 5) and (6, 7) in a second. Nothing is staged in shared
// memory; the eight warps of a block share the inputs window by window and add up at the end.
//
// Quantised weights are multiplied as their integer codes, block by block; each block's sum is then scaled in float32. A product
// with ones gives the sum of the inputs, by which the minima are multiplied.
//
// kRowTiles: 16-row tiles of W a block holds. kColumnTiles: 8-row tiles of x. kGated: rows 8..15 of each tile come from U
// where rows 0..7 come from G.
template <WeightKind kKind, int kRowTiles, int kColumnTiles, bool kGated>
__global__ void __launch_bounds__(kThreads, kRowTiles == 1 ? 3 : 2)
    linear_kernel(void* out, const bf16* x, WeightView weight, const float* bias, int rows, int outputs, int inputs, bool accumulate) {
  constexpr bool kBlocks = kKind != WeightKind::kBf16;
  constexpr int kWindow = kBlocks ? kWeightPair : kWeightBlock;  // inputs that a warp takes at a time
  constexpr int kSteps = kWindow / kWeightBlock;
  constexpr int kTileOutputs = kGated ? 8 : 16;
  constexpr int kBlockOutputs = kRowTiles * kTileOutputs;
  constexpr int kBlockRows = kColumnTiles * 8;
  __shared__ float sums[kWarps][kRowTiles * 16][kBlockRows];

  const int lane = static_cast<int>(lane_id()), warp = static_cast<int>(warp_id());
  const int group = lane / 4, member = lane % 4;
  const int first_output = static_cast<int>(blockIdx.x) * kBlockOutputs;

  // Rows past the end are read as the last one and dropped at the end, so that the loop has no branch.
  const unsigned char* w_rows[kRowTiles][2];
  const uint16_t* scale_rows[kRowTiles][2];
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int output = first_output + tile * kTileOutputs + (kGated ? group : half * 8 + group);
      const int clamped = output < outputs ? output : outputs - 1;
      const int64_t row = kGated && half == 1 ? outputs + clamped : clamped;
      w_rows[tile][half] = static_cast<const unsigned char*>(weight.values) + row * weight_value_bytes(kKind, inputs);
      if constexpr (kBlocks) scale_rows[tile][half] = weight.scales + row * weight_scale_bytes(kKind, inputs) / 2;
    }
  }
  const bf16* x_rows[kColumnTiles];
#pragma unroll
  for (int tile = 0; tile < kColumnTiles; ++tile) {
    const int row = tile * 8 + group;
    x_rows[tile] = x + static_cast<int64_t>(row < rows ? row : rows - 1) * inputs;
  }

  // Windows whose loads are under way together: the warps of a multiprocessor need some 40 KiB of them to keep memory busy.
  constexpr int kAhead = (kBlocks ? 2 : 4) / kRowTiles;
  using Raw = std::conditional_t<kKind == WeightKind::kQ4, uint2, uint4>;
  float acc[kRowTiles][kColumnTiles][4] = {};
  for (int first = warp * kWindow; first < inputs; first += kAhead * kWarps * kWindow) {
    Raw raw[kAhead][kRowTiles][2];
    [[maybe_unused]] uint2 scales[kAhead][kRowTiles][2];
    uint4 b[kAhead][kColumnTiles][kSteps];
#pragma unroll
    for (int ahead = 0; ahead < kAhead; ++ahead) {
      const int start = first + ahead * kWarps * kWindow, window = start / kWindow;
      const bool live = kBlocks ? start < inputs : start + member * 8 < inputs;
#pragma unroll
      for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          raw[ahead][tile][half] = live ? __ldcs(reinterpret_cast<const Raw*>(w_rows[tile][half]) + window * 4 + member) : Raw{};
          if constexpr (kKind == WeightKind::kQ8) {
            scales[ahead][tile][half] = {live ? __ldg(reinterpret_cast<const uint32_t*>(scale_rows[tile][half]) + window) : 0u, 0u};
          } else if constexpr (kKind == WeightKind::kQ4) {
            scales[ahead][tile][half] = live ? __ldg(reinterpret_cast<const uint2*>(scale_rows[tile][half]) + window) : uint2{};
          }
        }
      }
#pragma unroll
      for (int tile = 0; tile < kColumnTiles; ++tile) {
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          const int k = start + step * kWeightBlock + member * 8;
          b[ahead][tile][step] = k < inputs ? __ldg(reinterpret_cast<const uint4*>(x_rows[tile] + k)) : uint4{};
        }
      }
    }
#pragma unroll
    for (int ahead = 0; ahead < kAhead; ++ahead) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
#pragma unroll
        for (int j = 0; j < kColumnTiles; ++j) {
          [[maybe_unused]] float x_sum[4];
          if constexpr (kKind == WeightKind::kQ4) {
            const uint4 ones = make_uint4(kOnes, kOnes, kOnes, kOnes);
            multiply_octets(x_sum, Octets{{ones, ones}}, b[ahead][j][step], true);
          }
#pragma unroll
          for (int i = 0; i < kRowTiles; ++i) {
            const Octets w{{octet<kKind>(raw[ahead][i][0], step), octet<kKind>(raw[ahead][i][1], step)}};
            if constexpr (!kBlocks) {
              multiply_octets(acc[i][j], w, b[ahead][j][step], false);
              continue;
            }
            float block[4];
            multiply_octets(block, w, b[ahead][j][step], true);
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              const uint2 packed = scales[ahead][i][e / 2];
              if constexpr (kKind == WeightKind::kQ8) {
                acc[i][j][e] += half_to_float(static_cast<uint16_t>(packed.x >> (16 * step))) * block[e];
              } else {
                const uint32_t both = step == 0 ? packed.x : packed.y;
                const float scale = half_to_float(static_cast<uint16_t>(both)), min = half_to_float(static_cast<uint16_t>(both >> 16));
                acc[i][j][e] = fmaf(scale, block[e], fmaf(fmaf(-128.0f, scale, min), x_sum[e], acc[i][j][e]));
              }
            }
          }
        }
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

template <WeightKind kKind, bool kGated>
cudaError_t run(cudaStream_t stream, void* out, const bf16* x, const WeightView& weight, const float* bias, int rows, int outputs,
                int inputs, bool accumulate) {
  if (rows == 0) return cudaSuccess;
  const int tile = kGated ? 8 : 16;
  if (rows <= 8) {
    return launch(linear_kernel<kKind, 1, 1, kGated>, dim3(static_cast<unsigned>(ceil_div(outputs, tile))), dim3(kThreads), 0, stream, out,
                  x, weight, bias, rows, outputs, inputs, accumulate);
  }
  // Two tiles of W a block: x, which every block reads whole, is then read half as often.
  return launch(linear_kernel<kKind, 2, 2, kGated>, dim3(static_cast<unsigned>(ceil_div(outputs, 2 * tile))), dim3(kThreads), 0, stream,
                out, x, weight, bias, rows, outputs, inputs, accumulate);
}

template <bool kGated>
cudaError_t run(cudaStream_t stream, void* out, const bf16* x, const WeightView& weight, const float* bias, int rows, int outputs,
                int inputs, bool accumulate) {
  const int multiple = in_blocks(weight.kind) ? kWeightBlock : 8;
  if (rows < 0 || rows > kMaxLinearRows || outputs <= 0 || inputs <= 0 || inputs % multiple != 0 ||
      weight.kind == WeightKind::kF32) {
    return cudaErrorInvalidValue;
  }
  const auto chosen = weight.kind == WeightKind::kBf16 ? run<WeightKind::kBf16, kGated>
                      : weight.kind == WeightKind::kQ8 ? run<WeightKind::kQ8, kGated>
                                                       : run<WeightKind::kQ4, kGated>;
  return chosen(stream, out, x, weight, bias, rows, outputs, inputs, accumulate);
}

}  // namespace

cudaError_t linear(cudaStream_t stream, float* out, const bf16* x, const WeightView& weight, const float* bias, int rows, int outputs,
                   int inputs, bool accumulate) {
  return run<false>(stream, out, x, weight, bias, rows, outputs, inputs, accumulate);
}

cudaError_t linear_gated(cudaStream_t stream, bf16* out, const bf16* x, const WeightView& weight, int rows, int width, int inputs) {
  return run<true>(stream, out, x, weight, nullptr, rows, width, inputs, false);
}

}  // namespace magicpig
