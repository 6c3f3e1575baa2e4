#include "simhash.h"

#include "../device/layout.h"
#include "../device/tensor_core.h"
#include "../device/warp.h"

namespace magicpig {
namespace {

// ---- Projections ------------------------------------------------------------------------------------------------------

constexpr int kDrawThreads = 256;

// One thread four weights: one call of the generator.
__global__ void __launch_bounds__(kDrawThreads)
    projections_kernel(int8_t* projections, WeightQuantiles quantiles, int dim, int bits, int64_t quads, uint32_t key0, uint32_t key1) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kDrawThreads + threadIdx.x;
  if (i >= quads) return;
  const int per_row = projection_stride(dim) / 4;
  const uint32_t row = static_cast<uint32_t>(i / per_row), quad = static_cast<uint32_t>(i % per_row);
  const uint32_t table = row / static_cast<uint32_t>(bits), bit = row % static_cast<uint32_t>(bits);
  const PhiloxWords words = philox({{quad, bit, table, 0u}}, key0, key1);
  uint32_t packed = 0;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const bool live = static_cast<int>(quad) * 4 + j < dim;
    const int weight = live ? projection_weight(quantiles, words.word[j]) : 0;
    packed |= static_cast<uint32_t>(weight & 255) << (8 * j);
  }
  reinterpret_cast<uint32_t*>(projections)[i] = packed;
}

// ---- Codes ------------------------------------------------------------------------------------------------------------

// A block hashes 128 vectors, 16 a warp, into one group of up to kGroupTables tables. The vectors are the A operands, rounded
// once, negated and kept in registers as high and low bytes; the projections stream through shared memory, 64 rows at a time. The two
// products share one accumulator: high first, times 256, then low. It holds -x.w, whose sign bit is the bit of the code: one funnel
// shift each collects them. Signs are packed in shared memory as one stream of bits for each vector, from which codes of any width
// are cut; neither projections of vectors nor rounded vectors reach memory.
constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kRows = kWarps * 16;
constexpr int kGroupTables = 64;
constexpr int kColumns = 64;
constexpr int kStages = 3;
// One word more than the longest stream, for code_from_signs; odd, so that the words of different rows fall into different banks.
constexpr int kSignWords = kGroupTables * kMaxHashBits / 32 + 1;

__host__ __device__ constexpr size_t shared_bytes(int stride) {
  return static_cast<size_t>(kStages) * kColumns * stride + static_cast<size_t>(kRows) * kSignWords * 4;
}

// Column n of product j of a step is its projection 16 (n / 2) + 2 j + n % 2: a lane, which has columns 2 member and 2 member + 1 of each
// product (layout.h), so comes to hold the signs of 16 projections that follow one another.
constexpr int kProducts = kColumns / 8;
__host__ __device__ constexpr int product_row(int n, int j) { return n / 2 * 2 * kProducts + 2 * j + n % 2; }

// Where a tile holds a chunk of a row. The eight rows of a product fall into different banks, as do the chunks of a row; rows of 64 bytes
// hold four chunks, two rows to a bank cycle.
template <int kStride>
__host__ __device__ constexpr int projection_chunk(int row, int chunk) {
  constexpr int kChunks = kStride / kChunkBytes;
  const int pair = row / (2 * kProducts) % 4;
  return row * kChunks + (chunk ^ (kChunks == 4 ? pair : 2 * pair + row % 2));
}

template <int kStride>
constexpr bool without_bank_conflicts() {
  for (int chunk = 0; chunk < kStride / kChunkBytes; ++chunk) {
    for (int j = 0; j < kProducts; ++j) {
      int banks = 0;  // groups of four
      for (int n = 0; n < 8; ++n) banks |= 1 << projection_chunk<kStride>(product_row(n, j), chunk) % 8;
      if (banks != 255) return false;
    }
  }
  return true;
}
static_assert(without_bank_conflicts<64>() && without_bank_conflicts<128>() && without_bank_conflicts<256>());

__device__ __forceinline__ float4 load4(const float* x) { return *reinterpret_cast<const float4*>(x); }
__device__ __forceinline__ float4 load4(const bf16* x) {
  const uint2 packed = *reinterpret_cast<const uint2*>(x);
  return make_float4(low_bf16(packed.x), high_bf16(packed.x), low_bf16(packed.y), high_bf16(packed.y));
}

// Adding 1.5 * 2^23 leaves the nearest integer, ties to even, in the low bits. The product is rounded first: no fused operation.
__device__ __forceinline__ int round_to_int(float value, float scale) {
  constexpr float kRound = 0x1.8p23f;
  return static_cast<int>(float_to_bits(__fadd_rn(__fmul_rn(value, scale), kRound)) - float_to_bits(kRound));
}

template <int kStride, typename T>
__global__ void __launch_bounds__(kThreads)
    simhash_kernel(uint16_t* codes, float* inverse_norms, int32_t* non_finite, const T* x, const float* centre,
                   const int8_t* projections, HashShape shape, int group_tables) {
  constexpr int kSteps = kStride / 32;  // of the matrix product
  constexpr int kChunks = kStride / kChunkBytes;
  uint4* tiles = dynamic_shared<uint4>();
  uint32_t* signs = reinterpret_cast<uint32_t*>(tiles + kStages * kColumns * kChunks);  // [kRows][kSignWords]

  const int lane = static_cast<int>(lane_id()), warp = static_cast<int>(warp_id());
  const int member = lane % 4;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kRows;
  const int first_table = static_cast<int>(blockIdx.y) * group_tables;
  const int tables = shape.tables - first_table < group_tables ? shape.tables - first_table : group_tables;
  const int64_t first_column = static_cast<int64_t>(first_table) * shape.bits;
  const int columns = tables * shape.bits;
  const int steps = (columns + kColumns - 1) / kColumns;

  // A thread copies one chunk of every kStep-th row.
  constexpr int kStep = kThreads / kChunks;
  const int own_row = static_cast<int>(threadIdx.x) / kChunks, own_chunk = static_cast<int>(threadIdx.x) % kChunks;
  projections += (first_column + own_row) * kStride + own_chunk * kChunkBytes;
  const auto load = [&](int step) {
    if (step < steps) {
      uint4* const tile = tiles + step % kStages * kColumns * kChunks;
      const int left = columns - step * kColumns - own_row;
#pragma unroll
      for (int row = 0; row < kColumns; row += kStep) {
        copy_async(tile + projection_chunk<kStride>(own_row + row, own_chunk), projections + (step * kColumns + row) * kStride, row < left);
      }
    }
    commit_copies();
  };
  for (int step = 0; step < kStages - 1; ++step) load(step);
  // The word behind each stream, which code_from_signs reads and shifts out.
  if (threadIdx.x < kRows) signs[threadIdx.x * kSignWords + steps * (kColumns / 32)] = 0;

  // A operands: lane (group, member) holds components 32 s + 4 member .. + 3 and 32 s + 16 + 4 member .. + 3 of vectors
  // `group` and `group + 8` of the warp's 16.
  uint32_t high[kSteps][4], low[kSteps][4];
  // The blocks of the other groups of tables need no norms: doubles are slow on many devices.
  const bool norms = inverse_norms != nullptr && blockIdx.y == 0;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t row = first_row + warp * 16 + lane / 4 + 8 * half;
    const bool live = row < shape.rows;
    float4 values[kSteps][2];
    uint32_t largest = 0;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const int column = s * 32 + part * 16 + member * 4;
        float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (live && column < shape.dim) {
          v = load4(x + row * shape.x_stride + column);
          if (centre != nullptr) {
            const float4 c = load4(centre + column);
            v = make_float4(__fsub_rn(v.x, c.x), __fsub_rn(v.y, c.y), __fsub_rn(v.z, c.z), __fsub_rn(v.w, c.w));
          }
        }
        values[s][part] = v;
        // The bits of magnitudes order as the magnitudes do, infinities and NaN above all others.
        const uint32_t bits[4] = {float_to_bits(v.x), float_to_bits(v.y), float_to_bits(v.z), float_to_bits(v.w)};
#pragma unroll
        for (int e = 0; e < 4; ++e) largest = largest > (bits[e] & 0x7fffffffu) ? largest : bits[e] & 0x7fffffffu;
      }
    }
#pragma unroll
    for (int lanes = 1; lanes < 4; lanes *= 2) {
      const uint32_t other = __shfl_xor_sync(kAllLanes, largest, lanes);
      largest = largest > other ? largest : other;
    }
    const bool finite = largest < 0x7f800000u;
    const bool zero = !finite || bits_to_float(largest) < 0x1p-100f;
    // Rounding is symmetric: a negative scale gives the negated integers.
    const float scale = zero ? 0.0f : -__fdiv_rn(static_cast<float>(rounding_limit(shape.dim)), bits_to_float(largest));
    if (norms) {
      double squares = 0;
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
#pragma unroll
        for (int part = 0; part < 2; ++part) {
          const float4 v = values[s][part];
          squares += static_cast<double>(v.x) * v.x + static_cast<double>(v.y) * v.y + static_cast<double>(v.z) * v.z +
                     static_cast<double>(v.w) * v.w;
        }
      }
#pragma unroll
      for (int lanes = 1; lanes < 4; lanes *= 2) squares += __shfl_xor_sync(kAllLanes, squares, lanes);
      if (live && member == 0) {
        inverse_norms[row] = !finite ? __builtin_nanf("") : zero ? 0.0f : static_cast<float>(1.0 / sqrt(squares));
      }
    }
    if (live && member == 0 && blockIdx.y == 0 && !finite && non_finite != nullptr) atomicAdd(non_finite, 1);
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const float4 v = values[s][part];
        const int rounded[4] = {zero ? 0 : round_to_int(v.x, scale), zero ? 0 : round_to_int(v.y, scale),
                                zero ? 0 : round_to_int(v.z, scale), zero ? 0 : round_to_int(v.w, scale)};
        uint32_t packed_high = 0, packed_low = 0;
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          packed_high |= static_cast<uint32_t>(high_byte(rounded[e]) & 255) << (8 * e);
          packed_low |= static_cast<uint32_t>(low_byte(rounded[e])) << (8 * e);
        }
        high[s][half + 2 * part] = packed_high;
        low[s][half + 2 * part] = packed_low;
      }
    }
  }

  // What the lane points at of the even and of the odd ldmatrix of a row: one brings two steps of eight columns.
  const int b_row = product_row(lane % 8, 0);
  const int b_place[2] = {projection_chunk<kStride>(b_row, lane / 8), projection_chunk<kStride>(b_row, (kChunks > 4 ? 4 : 0) + lane / 8)};
  uint16_t* const own_signs = reinterpret_cast<uint16_t*>(signs + (warp * 16 + lane / 4) * kSignWords) + member;
  for (int step = 0; step < steps; ++step) {
    wait_copies<kStages - 2>();
    __syncthreads();  // this step's projections are there for all, and nobody reads those that load() overwrites
    load(step + kStages - 1);
    const uint4* tile = tiles + step % kStages * kColumns * kChunks;
    uint32_t bits[2] = {0, 0};  // of the lane's two vectors
#pragma unroll
    for (int j = kProducts - 1; j >= 0; --j) {
      uint32_t b[kSteps / 2][4];
#pragma unroll
      for (int s = 0; s < kSteps / 2; ++s) load_matrices(b[s], tile + b_place[s % 2] + 2 * j * kChunks + s / 2 * 8);
      int32_t sum[4];
      first_mma_s8(sum, high[0], b[0][0], b[0][1]);
#pragma unroll
      for (int s = 1; s < kSteps; ++s) mma_s8(sum, high[s], b[s / 2][s % 2 * 2], b[s / 2][s % 2 * 2 + 1]);
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[e] *= 256;
#pragma unroll
      for (int s = 0; s < kSteps; ++s) mma_u8_s8(sum, low[s], b[s / 2][s % 2 * 2], b[s / 2][s % 2 * 2 + 1]);
#pragma unroll
      for (int e = 3; e >= 0; --e) bits[e / 2] = __funnelshift_l(static_cast<uint32_t>(sum[e]), bits[e / 2], 1);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) own_signs[half * 8 * kSignWords * 2 + step * (kColumns / 16)] = static_cast<uint16_t>(bits[half]);
  }
  wait_copies<0>();
  __syncthreads();

  // Vectors vary fastest: with codes [tables][rows], as the table build wants them, a warp writes 64 adjacent bytes.
  for (int i = threadIdx.x; i < tables * kRows; i += kThreads) {
    const int local = i % kRows, table = i / kRows;
    const int64_t row = first_row + local;
    if (row < shape.rows) {
      codes[row * shape.row_stride + (first_table + table) * shape.table_stride] =
          static_cast<uint16_t>(code_from_signs(signs + local * kSignWords, table, shape.bits));
    }
  }
}

// Tables a block takes: fewer when there are few vectors, so that the whole device works on a decode step's queries.
int tables_per_block(int rows, int tables) {
  constexpr int64_t kEnoughBlocks = 128;
  int group = kGroupTables;
  while (group > 8 && ceil_div(rows, kRows) * ceil_div(tables, group) < kEnoughBlocks) group /= 2;
  return group;
}

template <typename T>
cudaError_t run(cudaStream_t stream, uint16_t* codes, float* inverse_norms, int32_t* non_finite, const T* x, const float* centre,
                const int8_t* projections, const HashShape& shape) {
  if (shape.rows < 0 || shape.dim <= 0 || shape.dim > kMaxHashDim || shape.dim % 4 != 0 || shape.bits < 1 ||
      shape.bits > kMaxHashBits || shape.tables < 1 || shape.x_stride % 4 != 0) {
    return cudaErrorInvalidValue;
  }
  const int group = tables_per_block(shape.rows, shape.tables);
  const dim3 grid(static_cast<unsigned>(ceil_div(shape.rows, kRows)), static_cast<unsigned>(ceil_div(shape.tables, group)));
  if (grid.y > 65535) return cudaErrorInvalidValue;
  const int stride = projection_stride(shape.dim);
  const auto kernel = stride == 64 ? simhash_kernel<64, T> : stride == 128 ? simhash_kernel<128, T> : simhash_kernel<256, T>;
  return launch(kernel, grid, dim3(kThreads), shared_bytes(stride), stream, codes, inverse_norms, non_finite, x, centre, projections,
                shape, group);
}

// ---- Mean -------------------------------------------------------------------------------------------------------------

constexpr int kMeanThreads = 32;
constexpr int kMeanAhead = 16;  // loads in flight before the sums, which wait for each other

__device__ __forceinline__ float to_float(float x) { return x; }

template <typename T>
__global__ void __launch_bounds__(kMeanThreads)
    column_mean_kernel(float* mean, const T* x, int rows, int dim, int64_t x_stride, int64_t head_stride) {
  const int column = static_cast<int>(blockIdx.x * kMeanThreads + threadIdx.x);
  if (column >= dim) return;
  const int64_t head = blockIdx.y;
  const T* values = x + head * head_stride + column;
  double sum = 0;
  int row = 0;
  for (; row + kMeanAhead <= rows; row += kMeanAhead) {
    float ahead[kMeanAhead];
#pragma unroll
    for (int i = 0; i < kMeanAhead; ++i) ahead[i] = to_float(values[(row + i) * x_stride]);
#pragma unroll
    for (int i = 0; i < kMeanAhead; ++i) sum += static_cast<double>(ahead[i]);
  }
  for (; row < rows; ++row) sum += static_cast<double>(to_float(values[row * x_stride]));
  mean[head * dim + column] = static_cast<float>(sum / static_cast<double>(rows));
}

template <typename T>
cudaError_t run_mean(cudaStream_t stream, float* mean, const T* x, int rows, int heads, int dim, int64_t x_stride, int64_t head_stride) {
  if (rows < 1 || heads < 0 || heads > 65535 || dim < 1) return cudaErrorInvalidValue;
  const dim3 grid(static_cast<unsigned>(ceil_div(dim, kMeanThreads)), static_cast<unsigned>(heads));
  return launch(column_mean_kernel<T>, grid, dim3(kMeanThreads), 0, stream, mean, x, rows, dim, x_stride, head_stride);
}

}  // namespace

WeightQuantiles weight_quantiles() {
  return {{
      107020574,  213624049,  319398199,  423940441,  526862429,  627794368,  726388972,  822325010,  915310351,
      1005084500, 1091420552, 1174126581, 1253046430, 1328059925, 1399082539, 1466064521, 1528989550, 1587872958,
      1642759586, 1693721325, 1740854428, 1784276636, 1824124209, 1860548903, 1893714977, 1923796256, 1950973325,
      1975430879, 1997355270, 2016932268, 2034345075, 2049772575, 2063387850, 2075356946, 2085837890, 2094979938,
      2102923050, 2109797564, 2115724052, 2120813339, 2125166657, 2128875924, 2132024106, 2134685662, 2136927043,
      2138807224, 2140378265, 2141685880, 2142769997, 2143665313, 2144401827, 2145005344, 2145497953, 2145898468,
      2146222837, 2146484514, 2146694792, 2146863108, 2146997311, 2147103899, 2147188222, 2147254673, 2147306835,
  }};
}

cudaError_t simhash_projections(cudaStream_t stream, int8_t* projections, int dim, int bits, int tables, uint64_t seed) {
  if (dim < 1 || dim > kMaxHashDim || bits < 1 || bits > kMaxHashBits || tables < 1) return cudaErrorInvalidValue;
  const int64_t quads = static_cast<int64_t>(bits) * tables * (projection_stride(dim) / 4);
  return launch(projections_kernel, dim3(static_cast<unsigned>(ceil_div(quads, kDrawThreads))), dim3(kDrawThreads), 0, stream,
                projections, weight_quantiles(), dim, bits, quads, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
}

cudaError_t simhash(cudaStream_t stream, uint16_t* codes, float* inverse_norms, int32_t* non_finite, const float* x,
                    const float* centre, const int8_t* projections, const HashShape& shape) {
  return run(stream, codes, inverse_norms, non_finite, x, centre, projections, shape);
}

cudaError_t simhash_bf16(cudaStream_t stream, uint16_t* codes, float* inverse_norms, int32_t* non_finite, const bf16* x,
                         const float* centre, const int8_t* projections, const HashShape& shape) {
  return run(stream, codes, inverse_norms, non_finite, x, centre, projections, shape);
}

cudaError_t column_mean(cudaStream_t stream, float* mean, const float* x, int rows, int heads, int dim, int64_t x_stride,
                        int64_t head_stride) {
  return run_mean(stream, mean, x, rows, heads, dim, x_stride, head_stride);
}

cudaError_t column_mean_bf16(cudaStream_t stream, float* mean, const bf16* x, int rows, int heads, int dim, int64_t x_stride,
                             int64_t head_stride) {
  return run_mean(stream, mean, x, rows, heads, dim, x_stride, head_stride);
}

}  // namespace magicpig
