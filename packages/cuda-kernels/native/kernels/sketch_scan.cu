// Key sketches: queries, and the scores of all keys.
#include "../device/layout.h"
#include "../device/rotation.h"
#include "../device/tensor_core.h"
#include "sketch_workspace.h"

namespace magicpig {
namespace {

// ---- Queries ----------------------------------------------------------------------------------------------------------

constexpr int kPrepareWarps = 8;
constexpr int kPrepareThreads = kPrepareWarps * kWarp;

// Largest sum of magnitudes of a span of v.
template <int kRegisters>
__device__ __forceinline__ int largest_span(const int (&v)[kRegisters], bool fine) {
  const int lane = static_cast<int>(lane_id());
  int largest = 0;
#pragma unroll
  for (int j = 0; j < kRegisters; j += 2) {  // 64 coordinates
    const int first = v[j] < 0 ? -v[j] : v[j], second = v[j + 1] < 0 ? -v[j + 1] : v[j + 1];
    int spans[3] = {first + second, 0, 0};
    if (fine) {
      spans[0] = lane < 24 ? first : 0;
      spans[1] = (lane < 24 ? 0 : first) + (lane < 16 ? second : 0);
      spans[2] = lane < 16 ? 0 : second;
    }
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      const int sum = warp_sum(spans[i]);
      largest = largest > sum ? largest : sum;
    }
  }
  return largest;
}

// Rounds y times a gain to q, so that no span exceeds kSpanLimit and no magnitude 127; returns the gain, 0 for a zero vector.
template <int kRegisters>
__device__ __forceinline__ float round_query(int (&q)[kRegisters], const int (&y)[kRegisters], bool fine) {
  int largest = 0;
#pragma unroll
  for (int j = 0; j < kRegisters; ++j) {
    const int magnitude = y[j] < 0 ? -y[j] : y[j];
    largest = largest > magnitude ? largest : magnitude;
    q[j] = 0;
  }
  largest = warp_max(largest);
  if (largest == 0) return 0;
  const auto span = static_cast<float>(largest_span(y, fine));
  const float most = static_cast<float>(kLargestRounded) / static_cast<float>(largest);
  for (int target = kFirstSpan;; target -= kSpanStep) {
    const float wanted = static_cast<float>(target) / span;
    const float gain = most < wanted ? most : wanted;
#pragma unroll
    for (int j = 0; j < kRegisters; ++j) q[j] = round_product(static_cast<float>(y[j]), gain);
    if (largest_span(q, fine) <= kSpanLimit) return gain;
  }
}

// Sum of factor^2 over some of the keys, in four interleaved sums: that of this lane, of the first four.
__device__ __forceinline__ double square_factors(const SketchView& view, int sequence, int kv_head, int kv_heads, int keys, int* count) {
  const int lane = static_cast<int>(lane_id());
  const int runs = (keys + kHistogramRun - 1) / kHistogramRun, step = (runs + kNoiseBlocks - 1) / kNoiseBlocks * kHistogramRun;
  double sum = 0;
  *count = 0;
  for (int first = 0; first < keys; first += step) {
    const uint16_t* factors = view.factors + (view.page(sequence, first / kSketchPage) * kv_heads + kv_head) * kSketchPage + first % kSketchPage;
    const int end = keys - first < kHistogramRun ? keys - first : kHistogramRun;
    for (int i = lane; i < end && lane < 4; i += 4) {
      const double factor = to_float(bf16{factors[i]});
      sum += factor * factor;
    }
    *count += end;
  }
  return sum;
}

// A block prepares the query heads of one KV head: their integers, what depends on the factors of its keys, and empty histograms.
template <int kSize>
__global__ void __launch_bounds__(kPrepareThreads)
    prepare_kernel(SketchQuery* queries, uint32_t* histograms, int8_t* q8, SketchView view, const float* q, const uint32_t* flips,
                   SketchLengths lengths, SketchShape shape, int64_t q_stride, double scale) {
  constexpr int kRegisters = kSize / 32;
  __shared__ uint32_t largest_factors[kPrepareWarps];
  __shared__ double sums[4];
  __shared__ int sum_count;
  const int lane = static_cast<int>(lane_id()), warp = static_cast<int>(warp_id());
  const int kv_head = static_cast<int>(blockIdx.x), sequence = static_cast<int>(blockIdx.y);
  const int keys = lengths[sequence];
  const int64_t first_head = (static_cast<int64_t>(sequence) * shape.kv_heads + kv_head) * shape.group;

  for (int i = static_cast<int>(threadIdx.x); i < shape.group * kHistogramWords; i += kPrepareThreads) {
    histograms[first_head * kHistogramWords + i] = 0;
  }
  // Magnitudes of bfloat16 order as their bits do. Eight to a load; pages hold more than the last keys, whatever that is.
  uint32_t largest = 0;
  for (int first = static_cast<int>(threadIdx.x) * 8; first < keys; first += kPrepareThreads * 8) {
    const int64_t page = view.page(sequence, first / kSketchPage) * shape.kv_heads + kv_head;
    const uint4 eight = *reinterpret_cast<const uint4*>(view.factors + page * kSketchPage + first % kSketchPage);
    const uint32_t pairs[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const uint32_t magnitude = pairs[i / 2] >> (16 * (i % 2)) & 0x7fffu;
      if (first + i < keys && magnitude > largest) largest = magnitude;
    }
  }
  largest = warp_max(largest);
  if (lane == 0) largest_factors[warp] = largest;
  if (warp == kPrepareWarps - 1) {
    int count;
    const double sum = square_factors(view, sequence, kv_head, shape.kv_heads, keys, &count);
    if (lane < 4) sums[lane] = sum;
    if (lane == 0) sum_count = count;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kPrepareWarps; ++i) largest = largest > largest_factors[i] ? largest : largest_factors[i];
  const double square_factor = keys > 0 ? (sums[0] + sums[1] + sums[2] + sums[3]) / static_cast<double>(sum_count) : 0.0;

  for (int member = warp; member < shape.group; member += kPrepareWarps) {
    const int64_t head = first_head + member;
    const float* from = q + sequence * q_stride + static_cast<int64_t>(kv_head * shape.group + member) * shape.dim;
    float values[kRegisters];
#pragma unroll
    for (int j = 0; j < kRegisters; ++j) values[j] = j * 32 + lane < shape.dim ? from[j * 32 + lane] : 0.0f;
    int y[kRegisters], rounded[kRegisters];
    const Rounding rounding = round_by_norm(y, values);
    rotate_vector(y, flips);
    const float gain = round_query(rounded, y, shape.bits >= 3);
    int magnitudes = 0, negative = 0;
#pragma unroll
    for (int j = 0; j < kRegisters; ++j) {
      q8[head * kSize + j * 32 + lane] = static_cast<int8_t>(rounded[j]);
      magnitudes += rounded[j] < 0 ? -rounded[j] : rounded[j];
      negative += rounded[j] < 0 ? -rounded[j] : 0;
    }
    magnitudes = warp_sum(magnitudes);
    negative = warp_sum(negative);
    if (lane != 0) continue;

    const float inverse_norm = rounding.zero ? 0.0f : static_cast<float>(1 / rounding.norm);
    const int top = (1 << shape.bits) - 1, shift = top * magnitudes;
    const double per_unit = static_cast<double>(inverse_norm) * sketch_norm(kSize) * static_cast<double>(gain);
    const float sigma = gain > 0 ? static_cast<float>(scale / per_unit) : 0.0f;
    const double length = gain > 0 ? scale * (1 / static_cast<double>(inverse_norm)) : 0.0;
    const float temper = sketch_temper(shape.bits);
    SketchQuery query;
    query.usable = rounding.finite && (rounding.zero || inverse_norm >= kLeastInverseNorm);
    query.offset = top * negative - (shift >> 1);
    query.lift = sketch_lift((shift + 1) >> 1);
    query.exponent = factor_exponent(largest);
    query.gain = sketch_gain(sigma * temper, query.exponent, query.lift);
    query.largest = 0;
    query.inflation = noise_inflation(static_cast<double>(temper) * sketch_noise(shape.bits) * length * length * square_factor);
    queries[head] = query;
  }
}

// ---- Scan -------------------------------------------------------------------------------------------------------------

constexpr int kScanWarps = 8;
constexpr int kScanThreads = kScanWarps * kWarp;
constexpr int kScanHeads = 8;  // query heads that share one reading of the codes: columns of the matrix product
constexpr int kWarpKeys = kSketchPage / kScanWarps;
constexpr int kTile = 16;      // keys of one matrix product
// Scores of a warp's keys, gathered to be written in whole lines; padded so that heads fall into different banks.
constexpr int kStagedKeys = kWarpKeys + 8;

template <int kWords>
__device__ __forceinline__ void load_words(uint32_t (&words)[kWords], const uint32_t* from) {
  if constexpr (kWords == 1) {
    words[0] = __ldcs(from);
  } else if constexpr (kWords == 2) {
    const uint2 pair = __ldcs(reinterpret_cast<const uint2*>(from));
    words[0] = pair.x, words[1] = pair.y;
  } else {
#pragma unroll
    for (int i = 0; i < kWords; i += 4) {
      const uint4 four = __ldcs(reinterpret_cast<const uint4*>(from + i));
      words[i] = four.x, words[i + 1] = four.y, words[i + 2] = four.z, words[i + 3] = four.w;
    }
  }
}

// Adds the fields of `kWidth` bits of one key, times 2^kShift, to the operands of this lane.
template <int kSize, int kWidth, int kShift>
__device__ __forceinline__ void add_fields(uint32_t (&u)[kSize / 16], const uint32_t* fields, int member) {
  constexpr uint32_t kMask = 0x01010101u * ((1u << kWidth) - 1u);
  if constexpr (kSize * kWidth < 128) {
    const uint32_t word = __ldcs(fields + member / 2) >> (member % 2 * 4);
#pragma unroll
    for (int t = 0; t < kSize / 16; ++t) u[t] |= (word >> t & kMask) << kShift;
  } else {
    constexpr int kWords = kSize * kWidth / 128, kFields = 8 / kWidth;
    uint32_t words[kWords];
    load_words(words, fields + member * kWords);
#pragma unroll
    for (int t = 0; t < kSize / 16; ++t) u[t] |= (words[t / kFields] >> (kWidth * (t % kFields)) & kMask) << kShift;
  }
}

// Scores of one page of keys against up to eight query heads of a group, on the integer tensor cores: levels u are the A operand, put
// together from fields in registers, queries the B operand.
template <int kSize, int kBits>
__global__ void __launch_bounds__(kScanThreads)
    scan_kernel(int16_t* scores, SketchQuery* queries, const int8_t* q8, SketchView view, SketchLengths lengths, SketchShape shape,
                int max_pages, int head_blocks) {
  constexpr int kOperands = kSize / 16;  // 4-coordinate registers a lane holds of one key
  constexpr int kWidth = field_width(kBits), kWords = sketch_words(kSize, kBits);
  alignas(16) __shared__ int16_t staged[kScanWarps][kScanHeads][kStagedKeys];
  const int lane = static_cast<int>(lane_id()), warp = static_cast<int>(warp_id());
  const int member = lane % 4, row = lane / 4;
  const int page = static_cast<int>(blockIdx.x), kv_head = static_cast<int>(blockIdx.y);
  const int sequence = static_cast<int>(blockIdx.z) / head_blocks, first = static_cast<int>(blockIdx.z) % head_blocks * kScanHeads;
  const int keys = lengths[sequence] - page * kSketchPage - warp * kWarpKeys;  // from this warp's first on
  if (keys <= 0) return;  // a whole warp, and no barrier of the block follows
  const int heads = shape.group - first < kScanHeads ? shape.group - first : kScanHeads;
  const int64_t first_head = (static_cast<int64_t>(sequence) * shape.kv_heads + kv_head) * shape.group + first;
  const int64_t place = (view.page(sequence, page) * shape.kv_heads + kv_head) * kSketchPage + warp * kWarpKeys;
  const uint32_t* codes = view.codes + place * kWords;
  const uint16_t* factors = view.factors + place;

  uint32_t b[kOperands];
#pragma unroll
  for (int t = 0; t < kOperands; ++t) {
    b[t] = row < heads ? *reinterpret_cast<const uint32_t*>(q8 + (first_head + row) * kSize + t * 16 + member * 4) : 0u;
  }
  int offset[2] = {0, 0}, lift[2] = {0, 0}, gain[2] = {0, 0};
  const int exponent = queries[first_head].exponent;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int head = 2 * member + i;
    if (head < heads) {
      const SketchQuery& query = queries[first_head + head];
      offset[i] = query.offset, lift[i] = query.lift, gain[i] = query.gain;
    }
  }

  int top[2] = {-32769, -32769};
  for (int tile = 0; tile < kWarpKeys && tile < keys; tile += kTile) {
    uint32_t u[2][kOperands] = {};
    int significand[2] = {0, 0};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int key = tile + row + 8 * half;
      if (key < keys) {
        const uint32_t* fields = codes + static_cast<int64_t>(key) * kWords;
        add_fields<kSize, kWidth, 0>(u[half], fields, member);
        if constexpr (kBits == 3) add_fields<kSize, 1, 2>(u[half], fields + kSize / 32 * kWidth, member);
        significand[half] = factor_significand(factors[key], exponent);
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
      const int key = tile + fragment_row(lane, e), i = e % 2;
      const int score = mulhrs(mulhrs((dots[e] + offset[i]) << lift[i], significand[e / 2]), gain[i]);
      staged[warp][2 * member + i][key] = static_cast<int16_t>(score);
      if (key < keys && score > top[i]) top[i] = score;
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int lanes = 4; lanes < 32; lanes *= 2) {
      const int other = __shfl_xor_sync(kAllLanes, top[i], lanes);
      top[i] = top[i] > other ? top[i] : other;
    }
    const int head = 2 * member + i;
    if (row == 0 && head < heads) atomicMax(&queries[first_head + head].largest, static_cast<uint32_t>(top[i] + 32769));
  }
  __syncwarp();

  // Eight scores to a store, half a warp to a head.
  const int part = lane % 16 * 8;
  for (int head = lane / 16; head < heads && part < keys; head += 2) {
    int16_t* to = scores + ((first_head + head) * max_pages + page) * kSketchPage + warp * kWarpKeys + part;
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(&staged[warp][head][part]);
  }
}

using ScanKernel = void (*)(int16_t*, SketchQuery*, const int8_t*, SketchView, SketchLengths, SketchShape, int, int);
template <int kSize>
ScanKernel scan_kernel_of(int bits) {
  constexpr ScanKernel kKernels[kMaxSketchBits] = {scan_kernel<kSize, 1>, scan_kernel<kSize, 2>, scan_kernel<kSize, 3>, scan_kernel<kSize, 4>};
  return kKernels[bits - 1];
}

}  // namespace

cudaError_t sketch_scan(cudaStream_t stream, const SketchWorkspace& space, const SketchView& view, const float* q, const uint32_t* flips,
                        const int32_t* keys, const SketchShape& shape, const SketchDraw& draw) {
  const int size = hadamard_size(shape.dim);
  const SketchLengths lengths{keys, draw.max_keys};
  const auto kv_heads = static_cast<unsigned>(shape.kv_heads), sequences = static_cast<unsigned>(draw.sequences);
  const auto prepare = size == 64 ? prepare_kernel<64> : size == 128 ? prepare_kernel<128> : prepare_kernel<256>;
  const cudaError_t error = launch(prepare, dim3(kv_heads, sequences), dim3(kPrepareThreads), 0, stream, space.queries, space.histograms, space.q8,
                                   view, q, flips, lengths, shape, draw.q_stride, draw.scale);
  if (error != cudaSuccess) return error;
  const auto scan = size == 64 ? scan_kernel_of<64>(shape.bits) : size == 128 ? scan_kernel_of<128>(shape.bits) : scan_kernel_of<256>(shape.bits);
  const auto head_blocks = static_cast<unsigned>(ceil_div(shape.group, kScanHeads));
  return launch(scan, dim3(static_cast<unsigned>(space.max_pages), kv_heads, sequences * head_blocks), dim3(kScanThreads), 0, stream,
                space.scores, space.queries, space.q8, view, lengths, shape, space.max_pages, static_cast<int>(head_blocks));
}

}  // namespace magicpig
