#include "sketch.h"

#include "../device/layout.h"
#include "../device/rotation.h"
#include "../device/tensor_core.h"

namespace magicpig {
namespace {

// ---- Encoding ---------------------------------------------------------------------------------------------------------

constexpr int kEncodeWarps = 4;
constexpr int kEncodeThreads = kEncodeWarps * kWarp;

__global__ void __launch_bounds__(kWarp) sketch_flips_kernel(uint32_t* flips, int per_rotation, uint32_t key0, uint32_t key1) {
  const int i = static_cast<int>(threadIdx.x);
  if (i >= kHadamardRotations * per_rotation) return;
  const uint32_t word = static_cast<uint32_t>(i % per_rotation);
  const PhiloxWords drawn = philox({{word / 4, static_cast<uint32_t>(i / per_rotation), 0u, kSketchDomain}}, key0, key1);
  const uint32_t which = word % 4;
  flips[i] = which == 0 ? drawn.word[0] : which == 1 ? drawn.word[1] : which == 2 ? drawn.word[2] : drawn.word[3];
}

// A warp encodes one key.
template <int kSize, typename T>
__global__ void __launch_bounds__(kEncodeThreads)
    encode_kernel(uint32_t* codes, uint16_t* factors, const T* x, const float* centre, const uint32_t* flips, SketchGrid grid, int dim,
                  int bits, int rows, int64_t x_stride) {
  constexpr int kRegisters = kSize / 32;
  __shared__ uint8_t levels[kEncodeWarps][kSize];
  const int lane = static_cast<int>(lane_id()), warp = static_cast<int>(warp_id());
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kEncodeWarps + warp;
  if (row >= rows) return;  // a whole warp, and no barrier of the block follows

  float values[kRegisters];
#pragma unroll
  for (int j = 0; j < kRegisters; ++j) {
    const int i = j * 32 + lane;
    values[j] = i < dim ? load_value(x + row * x_stride + i) : 0.0f;
    if (centre != nullptr && i < dim) values[j] = __fsub_rn(values[j], centre[i]);
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
      const int v = 2 * sketch_level(y[j], step, bits) - ((1 << bits) - 1);
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
  for (int j = 0; j < kRegisters; ++j) levels[warp][j * 32 + lane] = static_cast<uint8_t>(sketch_level(y[j], best_step, bits));
  __syncwarp();
  // One lane one word: it looks for its 32 coordinates by the inverse of plane_word and plane_bit.
  for (int w = lane; w < bits * kRegisters; w += static_cast<int>(kWarp)) {
    const int plane = w / kRegisters, word = w % kRegisters;
    uint32_t packed = 0;
    for (int bit = 0; bit < 32; ++bit) {
      const int c = bit / 8;
      const int member = kSize == 64 ? word * 2 + bit % 8 / 4 : word % 4;
      const int t = kSize == 64 ? bit % 4 : word / 4 * 8 + bit % 8;
      packed |= (static_cast<uint32_t>(levels[warp][t * 16 + member * 4 + c]) >> plane & 1u) << bit;
    }
    codes[row * bits * kRegisters + w] = packed;
  }
  if (lane == 0) {
    const bool usable = best_dot > 0 && !rounding.zero;
    const float factor = usable ? static_cast<float>(rounding.norm * sketch_norm(kSize) / static_cast<double>(best_dot)) : 0.0f;
    factors[row] = to_bf16(factor).bits;
  }
}

// ---- Queries ----------------------------------------------------------------------------------------------------------

struct QueryScale {
  int32_t sum;  // of q8
  float sigma, offset;
};

// A warp prepares one query head.
template <int kSize>
__global__ void __launch_bounds__(kWarp)
    query_kernel(int8_t* q8, QueryScale* scales, const float* q, const float* centres, const uint32_t* flips, int dim, int group,
                 float scale) {
  constexpr int kRegisters = kSize / 32;
  const int lane = static_cast<int>(lane_id());
  const int64_t head = blockIdx.x;
  float values[kRegisters];
  double products[kRegisters];
#pragma unroll
  for (int j = 0; j < kRegisters; ++j) {
    const int i = j * 32 + lane;
    values[j] = i < dim ? q[head * dim + i] : 0.0f;
    products[j] = i < dim && centres != nullptr
                      ? static_cast<double>(values[j]) * static_cast<double>(centres[head / group * dim + i])
                      : 0.0;
  }
  int y[kRegisters];
  const Rounding rounding = round_by_norm(y, values);
  rotate_vector(y, flips);
  int largest = 0;
#pragma unroll
  for (int j = 0; j < kRegisters; ++j) largest = largest > (y[j] < 0 ? -y[j] : y[j]) ? largest : (y[j] < 0 ? -y[j] : y[j]);
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const int other = __shfl_xor_sync(kAllLanes, largest, lanes);
    largest = largest > other ? largest : other;
  }
  const float to_8_bits = largest > 0 ? __fdiv_rn(127.0f, static_cast<float>(largest)) : 0.0f;
  int sum = 0;
#pragma unroll
  for (int j = 0; j < kRegisters; ++j) {
    const int rounded = round_product(static_cast<float>(y[j]), to_8_bits);
    q8[head * kSize + j * 32 + lane] = static_cast<int8_t>(rounded);
    sum += rounded;
  }
  sum = warp_sum(sum);
  const double offset = interleaved_sum(products);
  if (lane == 0) {
    const double sigma = static_cast<double>(largest) * rounding.norm / (127.0 * sketch_norm(kSize)) * static_cast<double>(scale);
    scales[head] = {sum, rounding.zero ? 0.0f : static_cast<float>(sigma), static_cast<float>(offset * static_cast<double>(scale))};
  }
}

// ---- Scan -------------------------------------------------------------------------------------------------------------

constexpr int kScanWarps = 8;
constexpr int kScanThreads = kScanWarps * kWarp;
constexpr int kScanHeads = 8;   // query heads that share one reading of the codes: columns of the matrix product
constexpr int kScanTiles = 8;   // of 16 keys, a warp
constexpr int kScanKeys = kScanWarps * kScanTiles * 16;

// Scores [query heads][capacity] of keys against up to eight query heads of a group, on the integer tensor cores: levels u are the A
// operand, put together from bit planes in registers, queries the B operand; <v, q8> = 2 <u, q8> - (2^b - 1) sum q8.
template <int kSize>
__global__ void __launch_bounds__(kScanThreads)
    scan_kernel(float* scores, uint32_t* largest, const uint32_t* codes, const uint16_t* factors, const int8_t* q8,
                const QueryScale* scales, SketchShape shape, int keys) {
  constexpr int kRegisters = kSize / 32;
  constexpr int kOperands = kSize / 16;  // 4-coordinate registers a lane holds of one key
  const int lane = static_cast<int>(lane_id()), warp = static_cast<int>(warp_id());
  const int member = lane % 4, row = lane / 4;
  const int64_t kv_head = blockIdx.y;
  const int first = static_cast<int>(blockIdx.z) * kScanHeads;
  const int heads = shape.group - first < kScanHeads ? shape.group - first : kScanHeads;
  const int64_t first_head = kv_head * shape.group + first;
  codes += kv_head * shape.capacity * shape.bits * kRegisters;
  factors += kv_head * shape.capacity;

  uint32_t b[kOperands];
#pragma unroll
  for (int t = 0; t < kOperands; ++t) {
    b[t] = row < heads ? *reinterpret_cast<const uint32_t*>(q8 + (first_head + row) * kSize + t * 16 + member * 4) : 0u;
  }
  QueryScale scale[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int head = 2 * member + i;
    scale[i] = head < heads ? scales[first_head + head] : QueryScale{0, 0.0f, 0.0f};
  }

  uint32_t top[2] = {0, 0};
  for (int tile = 0; tile < kScanTiles; ++tile) {
    const int64_t first_key = (static_cast<int64_t>(blockIdx.x) * kScanWarps + warp) * (kScanTiles * 16) + tile * 16;
    if (first_key >= keys) break;
    uint32_t u[2][kOperands] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t key = first_key + row + 8 * half;
      for (int plane = 0; plane < shape.bits; ++plane) {
#pragma unroll
        for (int part = 0; part < (kSize == 256 ? 2 : 1); ++part) {
          const int word = kSize == 64 ? member / 2 : member + part * 4;
          const uint32_t bits = key < keys ? __ldcs(codes + (key * shape.bits + plane) * kRegisters + word) : 0u;
#pragma unroll
          for (int t = 0; t < (kSize == 64 ? 4 : 8); ++t) {
            const int shift = kSize == 64 ? member % 2 * 4 + t : t;
            u[half][part * 8 + t] |= (bits >> shift & 0x01010101u) << plane;
          }
        }
      }
    }
    int32_t dots[4] = {0, 0, 0, 0};
#pragma unroll
    for (int t = 0; t < kOperands / 2; ++t) {
      const uint32_t a[4] = {u[0][2 * t], u[1][2 * t], u[0][2 * t + 1], u[1][2 * t + 1]};
      mma_u8_s8(dots, a, b[2 * t], b[2 * t + 1]);
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int64_t key = first_key + fragment_row(lane, e);
      const int head = fragment_column(lane, e);
      if (key >= keys || head >= heads) continue;
      const QueryScale& s = scale[e % 2];
      const int dot = 2 * dots[e] - ((1 << shape.bits) - 1) * s.sum;
      const float estimate = multiply(multiply(static_cast<float>(dot), s.sigma), to_float(bf16{factors[key]}));
      const float score = sum_of(estimate, s.offset);
      scores[(first_head + head) * shape.capacity + key] = score;
      const uint32_t bits = ordered_bits(score);
      top[e % 2] = top[e % 2] > bits ? top[e % 2] : bits;
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int lanes = 4; lanes < 32; lanes *= 2) {
      const uint32_t other = __shfl_xor_sync(kAllLanes, top[i], lanes);
      top[i] = top[i] > other ? top[i] : other;
    }
    if (row == 0 && 2 * member + i < heads) atomicMax(largest + first_head + 2 * member + i, top[i]);
  }
}

// ---- Threshold and draw -----------------------------------------------------------------------------------------------

constexpr int kDrawThreads = 256;
constexpr int kDrawChunk = 4096;  // keys a block

__global__ void __launch_bounds__(kDrawThreads)
    histogram_kernel(uint32_t* histogram, const float* scores, const uint32_t* largest, int64_t capacity, int keys) {
  __shared__ uint32_t bins[kSketchBins];
  const int64_t head = blockIdx.y;
  bins[threadIdx.x] = 0;
  __syncthreads();
  const float top = from_ordered_bits(largest[head]);
  const int begin = static_cast<int>(blockIdx.x) * kDrawChunk;
  const int end = begin + kDrawChunk < keys ? begin + kDrawChunk : keys;
  for (int i = begin + static_cast<int>(threadIdx.x); i < end; i += kDrawThreads) {
    atomicAdd(bins + sketch_bin(top, scores[head * capacity + i]), 1u);
  }
  __syncthreads();
  if (bins[threadIdx.x] != 0) atomicAdd(histogram + head * kSketchBins + threadIdx.x, bins[threadIdx.x]);
}

__global__ void __launch_bounds__(kWarp)
    threshold_kernel(SketchDraw* draws, const uint32_t* histogram, const uint32_t* largest, SketchBins bins, int heads, int keys,
                     double budget, double floor_share) {
  const int head = static_cast<int>(blockIdx.x * kWarp + threadIdx.x);
  if (head >= heads) return;
  draws[head] = sketch_threshold(histogram + static_cast<int64_t>(head) * kSketchBins, bins, from_ordered_bits(largest[head]), keys, budget,
                                 floor_share);
}

// Which keys are drawn: a mask [heads][mask_words], and their number in each chunk, chunk_counts [heads][chunks].
__global__ void __launch_bounds__(kDrawThreads)
    mark_kernel(uint32_t* mask, uint32_t* chunk_counts, const float* scores, const SketchDraw* draws, int64_t capacity, int mask_words,
                int chunks, int keys, uint32_t layer, uint32_t step, uint64_t seed) {
  __shared__ uint32_t scratch[kWarp];
  const int64_t head = blockIdx.y;
  const SketchDraw draw = draws[head];
  uint32_t count = 0;
  for (int offset = 0; offset < kDrawChunk; offset += kDrawThreads) {
    const int i = static_cast<int>(blockIdx.x) * kDrawChunk + offset + static_cast<int>(threadIdx.x);
    bool drawn = false;
    if (i < keys) {
      const float pi = sketch_probability(draw, scores[head * capacity + i]);
      drawn = sketch_drawn(pi, static_cast<uint32_t>(i), static_cast<uint32_t>(head), layer, step, seed);
    }
    const uint32_t word = __ballot_sync(kAllLanes, drawn);
    if (lane_id() == 0 && i < keys) {
      mask[head * mask_words + i / 32] = word;
      count += static_cast<uint32_t>(__popc(word));
    }
  }
  const uint32_t total = block_sum(count, scratch);
  if (threadIdx.x == 0) chunk_counts[head * chunks + blockIdx.x] = total;
}

// Writes the drawn keys of one chunk, in order, behind those of the chunks before it. A thread takes half a word of the mask.
__global__ void __launch_bounds__(kDrawThreads)
    collect_kernel(uint32_t* ids, float* minus_log, int32_t* counts, const uint32_t* mask, const uint32_t* chunk_counts,
                   const float* scores, const SketchDraw* draws, int64_t capacity, int mask_words, int chunks, int keys, int room) {
  constexpr int kKeys = kDrawChunk / kDrawThreads;
  static_assert(kKeys == 16);
  __shared__ uint32_t scratch[kWarp], warp_totals[kDrawThreads / kWarp];
  const int64_t head = blockIdx.y;
  const int lane = static_cast<int>(lane_id()), warp = static_cast<int>(warp_id());
  uint32_t before = 0;
  for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(blockIdx.x); i += kDrawThreads) before += chunk_counts[head * chunks + i];
  before = block_sum(before, scratch);

  const int first = static_cast<int>(blockIdx.x) * kDrawChunk + static_cast<int>(threadIdx.x) * kKeys;
  const uint32_t own = first < keys ? mask[head * mask_words + first / 32] >> (first % 32) & 0xffffu : 0u;
  const auto count = static_cast<uint32_t>(__popc(own));
  uint32_t inclusive = count;
  for (unsigned delta = 1; delta < kWarp; delta *= 2) {
    const uint32_t other = __shfl_up_sync(kAllLanes, inclusive, delta);
    if (lane >= static_cast<int>(delta)) inclusive += other;
  }
  if (lane == static_cast<int>(kWarp) - 1) warp_totals[warp] = inclusive;
  __syncthreads();
  uint32_t place = before + inclusive - count;
  for (int w = 0; w < warp; ++w) place += warp_totals[w];

  const SketchDraw draw = draws[head];
  for (uint32_t rest = own; rest != 0; rest &= rest - 1, ++place) {
    if (place >= static_cast<uint32_t>(room)) break;
    const int key = first + __ffs(static_cast<int>(rest)) - 1;
    ids[head * room + place] = static_cast<uint32_t>(key);
    minus_log[head * room + place] = -logf(sketch_probability(draw, scores[head * capacity + key]));
  }
  if (blockIdx.x == gridDim.x - 1 && threadIdx.x == 0) {
    counts[head] = static_cast<int32_t>(before + chunk_counts[head * chunks + blockIdx.x]);
  }
}

// ---- Workspace --------------------------------------------------------------------------------------------------------

constexpr size_t kAlignment = 256;

struct Workspace {
  float* scores;         // [heads][capacity]
  uint32_t* histogram;   // [heads][bins], zeroed with
  uint32_t* largest;     // [heads]
  uint32_t* mask;        // [heads][mask_words]
  uint32_t* chunk_counts;  // [heads][chunks]
  SketchDraw* draws;     // [heads]
  QueryScale* scales;    // [heads]
  int8_t* q8;            // [heads][size]
  size_t bytes;

  Workspace(void* base, const SketchShape& shape) {
    const auto heads = static_cast<size_t>(shape.kv_heads) * static_cast<size_t>(shape.group);
    const auto keys = static_cast<size_t>(shape.capacity);
    size_t at = 0;
    const auto take = [&](auto*& pointer, size_t count) {
      pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(static_cast<char*>(base) + at);
      at += (count * sizeof(*pointer) + kAlignment - 1) / kAlignment * kAlignment;
    };
    take(scores, heads * keys);
    take(histogram, heads * kSketchBins);
    take(largest, heads);
    take(mask, heads * (keys / 32 + 1));
    take(chunk_counts, heads * (keys / kDrawChunk + 1));
    take(draws, heads);
    take(scales, heads);
    take(q8, heads * static_cast<size_t>(hadamard_size(shape.dim)));
    bytes = at;
  }
};

bool fits(const SketchShape& shape) {
  return shape.dim > 0 && shape.dim <= kMaxHashDim && shape.bits >= 1 && shape.bits <= kMaxSketchBits && shape.kv_heads >= 1 &&
         shape.kv_heads <= 65535 && shape.group >= 1 && shape.kv_heads * static_cast<int64_t>(shape.group) <= 65535 && shape.capacity >= 0 &&
         shape.capacity <= INT32_MAX - kDrawChunk;
}

template <typename T>
cudaError_t encode(cudaStream_t stream, uint32_t* codes, uint16_t* factors, const T* x, const float* centre, const uint32_t* flips,
                   const SketchShape& shape, int rows, int64_t x_stride) {
  const int size = hadamard_size(shape.dim);
  const auto kernel = size == 64 ? encode_kernel<64, T> : size == 128 ? encode_kernel<128, T> : encode_kernel<256, T>;
  return launch(kernel, dim3(static_cast<unsigned>(ceil_div(rows, kEncodeWarps))), dim3(kEncodeThreads), 0, stream, codes, factors, x, centre,
                flips, sketch_grid(size, shape.bits), shape.dim, shape.bits, rows, x_stride);
}

}  // namespace

SketchGrid sketch_grid(int size, int bits) {
  SketchGrid grid;
  const double deviation = sketch_norm(size) / std::sqrt(static_cast<double>(size));
  for (int i = 0; i < kSketchSteps; ++i) grid.steps[i] = static_cast<int>(std::lround(deviation * kOptimalStep[bits - 1] * kStepScales[i]));
  return grid;
}

SketchBins sketch_bins() {
  SketchBins bins;
  for (int i = 0; i < kSketchBins; ++i) bins.weight[i] = std::exp(-(i + 0.5) / 8);
  return bins;
}

cudaError_t sketch_flips(cudaStream_t stream, uint32_t* flips, int dim, uint64_t seed) {
  if (dim < 1 || dim > kMaxHashDim) return cudaErrorInvalidValue;
  return launch(sketch_flips_kernel, dim3(1), dim3(kWarp), 0, stream, flips, hadamard_size(dim) / 32, static_cast<uint32_t>(seed),
                static_cast<uint32_t>(seed >> 32));
}

cudaError_t sketch_encode(cudaStream_t stream, uint32_t* codes, uint16_t* factors, const void* x, bool x_bf16, const float* centre,
                          const uint32_t* flips, const SketchShape& shape, int kv_head, int64_t first_key, int rows, int64_t x_stride) {
  if (!fits(shape) || kv_head < 0 || kv_head >= shape.kv_heads || rows < 0 || first_key < 0 || first_key + rows > shape.capacity) {
    return cudaErrorInvalidValue;
  }
  const int64_t key = kv_head * shape.capacity + first_key;
  codes += key * shape.bits * (hadamard_size(shape.dim) / 32);
  factors += key;
  return x_bf16 ? encode(stream, codes, factors, static_cast<const bf16*>(x), centre, flips, shape, rows, x_stride)
                : encode(stream, codes, factors, static_cast<const float*>(x), centre, flips, shape, rows, x_stride);
}

size_t sketch_draw_workspace(const SketchShape& shape) { return fits(shape) ? Workspace(nullptr, shape).bytes : 0; }

cudaError_t sketch_draw(cudaStream_t stream, uint32_t* ids, float* minus_log, int32_t* counts, void* workspace, const uint32_t* codes,
                        const uint16_t* factors, const float* q, const float* centres, const uint32_t* flips, const SketchShape& shape,
                        const SketchStep& step) {
  if (!fits(shape) || step.keys < 1 || step.keys > shape.capacity || step.room < 0 || !(step.budget >= 0) || !(step.floor_share > 0) ||
      workspace == nullptr) {
    return cudaErrorInvalidValue;
  }
  const Workspace space(workspace, shape);
  const int heads = shape.kv_heads * shape.group;
  const int size = hadamard_size(shape.dim);
  const auto chunks = static_cast<int>(ceil_div(step.keys, kDrawChunk));
  const auto mask_words = static_cast<int>(shape.capacity / 32 + 1);

  // The largest scores lie behind the histogram.
  const auto zeroed = static_cast<size_t>(reinterpret_cast<char*>(space.largest + heads) - reinterpret_cast<char*>(space.histogram));
  cudaError_t error = cudaMemsetAsync(space.histogram, 0, zeroed, stream);
  if (error != cudaSuccess) return error;
  const auto prepare = size == 64 ? query_kernel<64> : size == 128 ? query_kernel<128> : query_kernel<256>;
  error = launch(prepare, dim3(static_cast<unsigned>(heads)), dim3(kWarp), 0, stream, space.q8, space.scales, q, centres, flips, shape.dim,
                 shape.group, step.scale);
  if (error != cudaSuccess) return error;
  const auto scan = size == 64 ? scan_kernel<64> : size == 128 ? scan_kernel<128> : scan_kernel<256>;
  const dim3 scan_grid(static_cast<unsigned>(ceil_div(step.keys, kScanKeys)), static_cast<unsigned>(shape.kv_heads),
                       static_cast<unsigned>(ceil_div(shape.group, kScanHeads)));
  error = launch(scan, scan_grid, dim3(kScanThreads), 0, stream, space.scores, space.largest, codes, factors, space.q8, space.scales, shape,
                 step.keys);
  if (error != cudaSuccess) return error;
  const dim3 grid(static_cast<unsigned>(chunks), static_cast<unsigned>(heads));
  error = launch(histogram_kernel, grid, dim3(kDrawThreads), 0, stream, space.histogram, space.scores, space.largest, shape.capacity, step.keys);
  if (error != cudaSuccess) return error;
  error = launch(threshold_kernel, dim3(static_cast<unsigned>(ceil_div(heads, kWarp))), dim3(kWarp), 0, stream, space.draws, space.histogram,
                 space.largest, sketch_bins(), heads, step.keys, step.budget, step.floor_share);
  if (error != cudaSuccess) return error;
  error = launch(mark_kernel, grid, dim3(kDrawThreads), 0, stream, space.mask, space.chunk_counts, space.scores, space.draws, shape.capacity,
                 mask_words, chunks, step.keys, step.layer, step.step, step.seed);
  if (error != cudaSuccess) return error;
  return launch(collect_kernel, grid, dim3(kDrawThreads), 0, stream, ids, minus_log, counts, space.mask, space.chunk_counts, space.scores,
                space.draws, shape.capacity, mask_words, chunks, step.keys, step.room);
}

}  // namespace magicpig
