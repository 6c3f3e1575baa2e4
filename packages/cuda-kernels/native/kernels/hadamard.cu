#include "hadamard.h"

#include "../device/rotation.h"

namespace magicpig {
namespace {

constexpr int kFlipThreads = 128;

__global__ void __launch_bounds__(kFlipThreads) flips_kernel(uint32_t* flips, int words, int per_rotation, uint32_t key0, uint32_t key1) {
  const int i = static_cast<int>(blockIdx.x * kFlipThreads + threadIdx.x);
  if (i >= words) return;
  const uint32_t word = static_cast<uint32_t>(i % per_rotation);
  const uint32_t rotation = static_cast<uint32_t>(i / per_rotation % kHadamardRotations);
  const uint32_t block = static_cast<uint32_t>(i / per_rotation / kHadamardRotations);
  const PhiloxWords drawn = philox({{word / 4, rotation, block, 1u}}, key0, key1);
  const uint32_t which = word % 4;  // no indexing at run time: the words stay in registers
  flips[i] = which == 0 ? drawn.word[0] : which == 1 ? drawn.word[1] : which == 2 ? drawn.word[2] : drawn.word[3];
}

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;

// Words of one vector's stream of signs, and one to spare.
__host__ __device__ constexpr int stream_words(int size, int blocks) { return blocks * (size / 32) + 1; }

// A warp hashes one vector.
template <int kSize, typename T>
__global__ void __launch_bounds__(kThreads)
    hadamard_kernel(uint16_t* codes, float* inverse_norms, int32_t* non_finite, const T* x, const float* centre, const uint32_t* flips,
                    HashShape shape, int blocks) {
  constexpr int kRegisters = kSize / 32;
  const int lane = static_cast<int>(lane_id()), warp = static_cast<int>(warp_id());
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  if (row >= shape.rows) return;  // a whole warp, and no barrier of the block follows
  uint32_t* signs = dynamic_shared<uint32_t>() + warp * stream_words(kSize, blocks);

  float values[kRegisters];
#pragma unroll
  for (int j = 0; j < kRegisters; ++j) {
    const int i = j * 32 + lane;
    values[j] = i < shape.dim ? load_value(x + row * shape.x_stride + i) : 0.0f;
    if (centre != nullptr && i < shape.dim) values[j] = __fsub_rn(values[j], centre[i]);
  }
  int rounded[kRegisters];
  const Rounding rounding = round_by_norm(rounded, values);
  if (lane == 0) {
    if (inverse_norms != nullptr) {
      inverse_norms[row] = !rounding.finite ? __builtin_nanf("") : rounding.zero ? 0.0f : static_cast<float>(1.0 / rounding.norm);
    }
    if (!rounding.finite && non_finite != nullptr) atomicAdd(non_finite, 1);
  }

  for (int block = 0; block < blocks; ++block) {
    int v[kRegisters];
#pragma unroll
    for (int j = 0; j < kRegisters; ++j) v[j] = rounded[j];
    rotate_vector(v, flips + block * kHadamardRotations * kRegisters);
#pragma unroll
    for (int j = 0; j < kRegisters; ++j) {
      const uint32_t word = __ballot_sync(kAllLanes, v[j] > 0);
      if (lane == 0) signs[block * kRegisters + j] = word;
    }
  }
  __syncwarp();

  for (int table = lane; table < shape.tables; table += static_cast<int>(kWarp)) {
    uint32_t code = 0;
    for (int j = 0; j < shape.bits; ++j) {
      const int projection = j * shape.tables + table;
      code |= (signs[projection / 32] >> (projection % 32) & 1u) << j;
    }
    codes[row * shape.row_stride + table * shape.table_stride] = static_cast<uint16_t>(code);
  }
}

bool fits(const HashShape& shape) {
  return shape.rows >= 0 && shape.dim > 0 && shape.dim <= kMaxHashDim && shape.bits >= 1 && shape.bits <= kMaxHashBits &&
         shape.tables >= 1;
}

template <typename T>
cudaError_t run(cudaStream_t stream, uint16_t* codes, float* inverse_norms, int32_t* non_finite, const T* x, const float* centre,
                const uint32_t* flips, const HashShape& shape) {
  if (!fits(shape) || shape.tables > 4096) return cudaErrorInvalidValue;
  const int size = hadamard_size(shape.dim), blocks = hadamard_blocks(shape.dim, shape.bits, shape.tables);
  const auto kernel = size == 64 ? hadamard_kernel<64, T> : size == 128 ? hadamard_kernel<128, T> : hadamard_kernel<256, T>;
  const size_t bytes = static_cast<size_t>(kWarps) * stream_words(size, blocks) * sizeof(uint32_t);
  return launch(kernel, dim3(static_cast<unsigned>(ceil_div(shape.rows, kWarps))), dim3(kThreads), bytes, stream, codes, inverse_norms,
                non_finite, x, centre, flips, shape, blocks);
}

}  // namespace

cudaError_t hadamard_flips(cudaStream_t stream, uint32_t* flips, int dim, int bits, int tables, uint64_t seed) {
  if (!fits(HashShape{0, dim, bits, tables, 0, 0, 0})) return cudaErrorInvalidValue;
  const int words = hadamard_words(dim, bits, tables);
  return launch(flips_kernel, dim3(static_cast<unsigned>(ceil_div(words, kFlipThreads))), dim3(kFlipThreads), 0, stream, flips, words,
                hadamard_size(dim) / 32, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
}

cudaError_t hadamard(cudaStream_t stream, uint16_t* codes, float* inverse_norms, int32_t* non_finite, const float* x,
                     const float* centre, const uint32_t* flips, const HashShape& shape) {
  return run(stream, codes, inverse_norms, non_finite, x, centre, flips, shape);
}

cudaError_t hadamard_bf16(cudaStream_t stream, uint16_t* codes, float* inverse_norms, int32_t* non_finite, const bf16* x,
                          const float* centre, const uint32_t* flips, const HashShape& shape) {
  return run(stream, codes, inverse_norms, non_finite, x, centre, flips, shape);
}

}  // namespace magicpig
