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
  // 2^23 + code has the code in its low bits.
  const auto pair = [](uint32_t word, int shift) {
    constexpr float kBase = 0x1p23f + kQ8Offset;
    return pack_bf16(bits_to_float(0x4b000000u | (word >> shift & 255u)) - kBase, bits_to_float(0x4b000000u | (word >> (shift + 8) & 255u)) - kBase);
  };
  return make_uint4(pair(codes.x, 0), pair(codes.x, 16), pair(codes.y, 0), pair(codes.y, 16));
}
// The bf16 128 + n has n in its low bits.
__device__ __forceinline__ uint32_t bf16_of_nibble_pair(uint32_t word) {
  const uint32_t above = (word & 0x000f000fu) | 0x43004300u;
#if defined(__CUDA_ARCH__)
  uint32_t pair;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(pair) : "r"(above), "r"(kOnes), "r"(0xc300c300u));
  return pair;
#else
  return pack_bf16(low_bf16(above) - 128.0f, high_bf16(above) - 128.0f);
#endif
}
__device__ __forceinline__ uint4 bf16_of_nibbles(uint32_t word) {
  return make_uint4(bf16_of_nibble_pair(word), bf16_of_nibble_pair(word >> 4), bf16_of_nibble_pair(word >> 8), bf16_of_nibble_pair(word >> 12));
}

// acc [16][8] += the 32 inputs of one step: the lane's eight weights of two rows against its eight inputs.
__device__ __forceinline__ void multiply_octets(float (&acc)[4], const Octets& w, const uint4& x) {
  const uint32_t first[4] = {w.row[0].x, w.row[1].x, w.row[0].y, w.row[1].y};
  const uint32_t second[4] = {w.row[0].z, w.row[1].z, w.row[0].w, w.row[1].w};
  mma_bf16(acc, first, x.x, x.y);
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
__global__ void __launch_bounds__(kThreads)
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

  float acc[kRowTiles][kColumnTiles][4] = {};
#pragma unroll 2
  for (int start = warp * kWindow; start < inputs; start += kWarps * kWindow) {
    const uint4 zero = make_uint4(0, 0, 0, 0);
    const int window = start / kWindow;
    Octets w[kRowTiles][kSteps];
    uint4 b[kColumnTiles][kSteps];
    [[maybe_unused]] uint2 scales[kRowTiles][2];
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const unsigned char* row = w_rows[tile][half];
        if constexpr (kKind == WeightKind::kBf16) {
          const int k = start + member * 8;
          w[tile][0].row[half] = k < inputs ? __ldcs(reinterpret_cast<const uint4*>(row) + k / 8) : zero;
        } else if constexpr (kKind == WeightKind::kQ8) {
          const uint4 codes = __ldcs(reinterpret_cast<const uint4*>(row) + window * 4 + member);
          w[tile][0].row[half] = bf16_of_bytes(make_uint2(codes.x, codes.y));
          w[tile][1].row[half] = bf16_of_bytes(make_uint2(codes.z, codes.w));
          scales[tile][half] = make_uint2(__ldg(reinterpret_cast<const uint32_t*>(scale_rows[tile][half]) + window), 0);
        } else {
          const uint2 codes = __ldcs(reinterpret_cast<const uint2*>(row) + window * 4 + member);
          w[tile][0].row[half] = bf16_of_nibbles(codes.x);
          w[tile][1].row[half] = bf16_of_nibbles(codes.y);
          scales[tile][half] = __ldg(reinterpret_cast<const uint2*>(scale_rows[tile][half]) + window);
        }
      }
    }
#pragma unroll
    for (int tile = 0; tile < kColumnTiles; ++tile) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        const int k = start + step * kWeightBlock + member * 8;
        b[tile][step] = k < inputs ? __ldg(reinterpret_cast<const uint4*>(x_rows[tile] + k)) : zero;
      }
    }
    if constexpr (!kBlocks) {
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
        for (int j = 0; j < kColumnTiles; ++j) multiply_octets(acc[i][j], w[i][0], b[j][0]);
      }
    } else {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
#pragma unroll
        for (int j = 0; j < kColumnTiles; ++j) {
          [[maybe_unused]] float x_sum[4] = {};
          if constexpr (kKind == WeightKind::kQ4) {
            const uint4 ones = make_uint4(kOnes, kOnes, kOnes, kOnes);
            multiply_octets(x_sum, Octets{{ones, ones}}, b[j][step]);
          }
#pragma unroll
          for (int i = 0; i < kRowTiles; ++i) {
            float block[4] = {};
            multiply_octets(block, w[i][step], b[j][step]);
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              const uint2 packed = scales[i][e / 2];
              if constexpr (kKind == WeightKind::kQ8) {
                acc[i][j][e] += half_to_float(static_cast<uint16_t>(packed.x >> (16 * step))) * block[e];
              } else {
                const uint32_t both = step == 0 ? packed.x : packed.y;
                const float scale = half_to_float(static_cast<uint16_t>(both)), min = half_to_float(static_cast<uint16_t>(both >> 16));
                acc[i][j][e] += scale * block[e] + min * x_sum[e];
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
