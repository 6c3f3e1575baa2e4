// Key sketches: encoding.
#include "../device/rotation.h"
#include "sketch_math.h"

namespace magicpig {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;

__global__ void __launch_bounds__(kWarp) flips_kernel(uint32_t* flips, int per_rotation, uint32_t key0, uint32_t key1) {
  const int i = static_cast<int>(threadIdx.x);
  if (i >= kHadamardRotations * per_rotation) return;
  const uint32_t word = static_cast<uint32_t>(i % per_rotation);
  const PhiloxWords drawn = philox({{word / 4, static_cast<uint32_t>(i / per_rotation), 0u, kSketchDomain}}, key0, key1);
  const uint32_t which = word % 4;
  flips[i] = which == 0 ? drawn.word[0] : which == 1 ? drawn.word[1] : which == 2 ? drawn.word[2] : drawn.word[3];
}

// One word of fields: bits `shift` and on of its coordinates' levels.
__device__ __forceinline__ uint32_t packed_fields(const uint8_t* levels, int size, int width, int word, int shift) {
  uint32_t packed = 0;
  for (int bit = 0; bit < 32; bit += width) {
    const uint32_t level = levels[field_coordinate(size, width, word, bit)];
    packed |= (level >> shift & ((1u << width) - 1u)) << bit;
  }
  return packed;
}

// A warp encodes one key of one KV head.
template <int kSize, typename T>
__global__ void __launch_bounds__(kThreads)
    encode_kernel(SketchView view, int32_t* rejected, const T* x, const float* centres, const uint32_t* flips, SketchGrid grid,
                  SketchShape shape, SketchKeys keys) {
  constexpr int kRegisters = kSize / 32;
  __shared__ uint8_t levels[kWarps][kSize];
  const int lane = static_cast<int>(lane_id()), warp = static_cast<int>(warp_id());
  const int kv_head = static_cast<int>(blockIdx.y);
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  if (row >= keys.rows) return;  // a whole warp, and no barrier of the block follows

  float values[kRegisters];
#pragma unroll
  for (int j = 0; j < kRegisters; ++j) {
    const int i = j * 32 + lane;
    values[j] = i < shape.dim ? load_value(x + row * keys.row_stride + kv_head * keys.head_stride + i) : 0.0f;
    if (centres != nullptr && i < shape.dim) values[j] -= centres[kv_head * shape.dim + i];
  }
  int y[kRegisters];
  const Rounding rounding = round_by_norm(y, values);
  rotate_vector(y, flips);

  int best_step = grid.steps[0];
  int64_t best_dot = 0, best_square = 1;
#pragma unroll
  for (int candidate = 0; candidate < kSketchSteps; ++candidate) {
    const int step = grid.steps[candidate];
    int64_t dot = 0, square = 0;
#pragma unroll
    for (int j = 0; j < kRegisters; ++j) {
      const int v = 2 * sketch_level(y[j], step, shape.bits) - ((1 << shape.bits) - 1);
      dot += static_cast<int64_t>(v) * y[j];
      square += static_cast<int64_t>(v) * v;
    }
    dot = warp_sum(dot);
    square = warp_sum(square);
    if (candidate == 0 || dot * dot * best_square > best_dot * best_dot * square) {
      best_step = step;
      best_dot = dot;
      best_square = square;
    }
  }

#pragma unroll
  for (int j = 0; j < kRegisters; ++j) levels[warp][j * 32 + lane] = static_cast<uint8_t>(sketch_level(y[j], best_step, shape.bits));
  __syncwarp();
  const int64_t key = keys.first_key + row;
  const int64_t place = (view.page(keys.sequence, static_cast<int>(key / kSketchPage)) * shape.kv_heads + kv_head) * kSketchPage + key % kSketchPage;
  const int width = field_width(shape.bits), first_words = kRegisters * width, words = sketch_words(kSize, shape.bits);
  for (int word = lane; word < words; word += static_cast<int>(kWarp)) {
    view.codes[place * words + word] = word < first_words ? packed_fields(levels[warp], kSize, width, word, 0)
                                                          : packed_fields(levels[warp], kSize, 1, word - first_words, 2);
  }
  if (lane == 0) {
    const float inverse_norm = rounding.zero ? 0.0f : static_cast<float>(1 / rounding.norm);
    const bool short_enough = rounding.zero || inverse_norm >= kLeastInverseNorm;
    const bool usable = inverse_norm > 0 && short_enough && best_dot > 0;
    const double factor = usable ? sketch_norm(kSize) / (static_cast<double>(inverse_norm) * static_cast<double>(best_dot)) : 0.0;
    view.factors[place] = to_bf16(static_cast<float>(factor)).bits;
    if (rejected != nullptr && (!rounding.finite || !short_enough)) atomicAdd(rejected, 1);
  }
}

template <typename T>
cudaError_t encode(cudaStream_t stream, const SketchView& view, int32_t* rejected, const T* x, const float* centres, const uint32_t* flips,
                   const SketchShape& shape, const SketchKeys& keys) {
  const int size = hadamard_size(shape.dim);
  const auto kernel = size == 64 ? encode_kernel<64, T> : size == 128 ? encode_kernel<128, T> : encode_kernel<256, T>;
  const dim3 grid(static_cast<unsigned>(ceil_div(keys.rows, kWarps)), static_cast<unsigned>(shape.kv_heads));
  return launch(kernel, grid, dim3(kThreads), 0, stream, view, rejected, x, centres, flips, sketch_grid(size, shape.bits), shape, keys);
}

}  // namespace

cudaError_t sketch_flips(cudaStream_t stream, uint32_t* flips, int dim, uint64_t seed) {
  if (dim < 1 || dim > kMaxHashDim) return cudaErrorInvalidValue;
  return launch(flips_kernel, dim3(1), dim3(kWarp), 0, stream, flips, hadamard_size(dim) / 32, static_cast<uint32_t>(seed),
                static_cast<uint32_t>(seed >> 32));
}

cudaError_t sketch_encode(cudaStream_t stream, const SketchView& view, int32_t* rejected, const void* x, bool x_bf16, const float* centres,
                          const uint32_t* flips, const SketchShape& shape, const SketchKeys& keys) {
  if (!sketch_fits(shape) || keys.sequence < 0 || keys.first_key < 0 || keys.rows < 0) return cudaErrorInvalidValue;
  return x_bf16 ? encode(stream, view, rejected, static_cast<const bf16*>(x), centres, flips, shape, keys)
                : encode(stream, view, rejected, static_cast<const float*>(x), centres, flips, shape, keys);
}

}  // namespace magicpig
