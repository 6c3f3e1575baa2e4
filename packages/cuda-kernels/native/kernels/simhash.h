// SimHash codes (Charikar 2002; MagicPIG, Algorithm 1), the same integers as @magicpig/lsh's, bit for bit.
//
// Projections are odd 8-bit integers drawn by a counter-based generator; a vector is rounded to integers of up to 16 bits,
// relative to its largest magnitude; bit j of the code for table t is [x . w > 0] for row t * bits + j of the projections, an
// exact integer sum.
#ifndef MAGICPIG_KERNELS_SIMHASH_H_
#define MAGICPIG_KERNELS_SIMHASH_H_

#include <array>
#include <cmath>

#include "../device/bf16.h"

namespace magicpig {

constexpr int kMaxHashDim = 256;
constexpr int kMaxHashBits = 16;

// Bytes of one row of projections: dim rounded up to a whole step of the 8-bit matrix product, or to what the kernel is
// compiled for (64, 128, 256); the rest is zeros.
__host__ __device__ constexpr int projection_stride(int dim) { return dim <= 64 ? 64 : dim <= 128 ? 128 : 256; }

// Largest integer that a vector's components are rounded to: 32,767, or less where a sum could pass 31 bits.
__host__ __device__ constexpr int rounding_limit(int dim) {
  return 2147483647 / (127 * dim) < 32767 ? 2147483647 / (127 * dim) : 32767;
}

// |weight| = 2 m + 1 where m of these are not above the low 31 bits of the random word: round(2^31 erf(m / (16 sqrt 2))),
// m = 1..63, where a standard normal's magnitude passes m / 16.
struct WeightQuantiles {
  uint32_t at[63];
};
WeightQuantiles weight_quantiles();

// Weight drawn from one random word.
__host__ __device__ inline int projection_weight(const WeightQuantiles& quantiles, uint32_t word) {
  int m = 0;
#pragma unroll
  for (int step = 32; step > 0; step /= 2) {  // binary search for the first quantile above
    if (m + step <= 63 && quantiles.at[m + step - 1] <= (word & 0x7fffffffu)) m += step;
  }
  return word >> 31 != 0 ? -(2 * m + 1) : 2 * m + 1;
}

struct PhiloxWords {
  uint32_t word[4];
};

// Philox4x32-10 (Salmon et al., SC 2011).
__host__ __device__ inline PhiloxWords philox(PhiloxWords counter, uint32_t key0, uint32_t key1) {
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * counter.word[0];
    const uint64_t b = uint64_t{0xCD9E8D57u} * counter.word[2];
    counter = {{static_cast<uint32_t>(b >> 32) ^ counter.word[1] ^ key0, static_cast<uint32_t>(b),
                static_cast<uint32_t>(a >> 32) ^ counter.word[3] ^ key1, static_cast<uint32_t>(a)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// A rounded component as the two 8-bit operands of the matrix products: x = 256 high + low, high signed, low unsigned.
__host__ __device__ constexpr int high_byte(int x) { return x >> 8; }
__host__ __device__ constexpr int low_byte(int x) { return x & 255; }

// Code of table t from a stream of sign bits that begins with table 0's: bits [t * bits, t * bits + bits). words holds one more
// word than the stream needs.
__host__ __device__ inline uint32_t code_from_signs(const uint32_t* words, int table, int bits) {
  const int bit = table * bits;
  const uint64_t window = words[bit / 32] | static_cast<uint64_t>(words[bit / 32 + 1]) << 32;
  return static_cast<uint32_t>(window >> (bit % 32)) & ((1u << bits) - 1u);
}

struct HashShape {
  int rows;              // vectors
  int dim;               // at most 256, a multiple of 4
  int bits, tables;      // K 1..16, L
  int64_t x_stride;      // elements between vectors, a multiple of 4
  int64_t row_stride;    // elements of `codes` between two vectors' codes of one table ...
  int64_t table_stride;  // ... and between two tables' codes of one vector
};

// projections [bits * tables][projection_stride(dim)] i8: weight i of row t * bits + j from word i % 4 of
// Philox(counter {i / 4, j, t, 0}, key seed).
cudaError_t simhash_projections(cudaStream_t stream, int8_t* projections, int dim, int bits, int tables, uint64_t seed);

// codes u16 of x - centre, x [rows] with stride x_stride f32 (or bf16: the second form), centre [dim] f32 or null for zero.
// inverse_norms [rows] f32 gets 1 / |x - centre|, 0 for vectors without a component of 2^-100; may be null. Vectors that hold NaN
// or an infinity get code 0 and NaN, and are counted in non_finite [1] i32 (added; may be null).
cudaError_t simhash(cudaStream_t stream, uint16_t* codes, float* inverse_norms, int32_t* non_finite, const float* x,
                    const float* centre, const int8_t* projections, const HashShape& shape);
cudaError_t simhash_bf16(cudaStream_t stream, uint16_t* codes, float* inverse_norms, int32_t* non_finite, const bf16* x,
                         const float* centre, const int8_t* projections, const HashShape& shape);

// mean [dim] f32 of x [rows] with stride x_stride f32, for `heads` blocks of dim columns side by side: mean [heads][dim], column c
// of head h at x[row * x_stride + h * head_stride + c]. Summed in float64 from the first row to the last, as @magicpig/lsh does,
// so that the centre is the same to the bit.
cudaError_t column_mean(cudaStream_t stream, float* mean, const float* x, int rows, int heads, int dim, int64_t x_stride,
                        int64_t head_stride);
cudaError_t column_mean_bf16(cudaStream_t stream, float* mean, const bf16* x, int rows, int heads, int dim, int64_t x_stride,
                             int64_t head_stride);

namespace reference {

// Rounds one vector; false when it is not finite. out [dim].
inline bool round_vector(int32_t* out, float* inverse_norm, const float* x, const float* centre, int dim) {
  float peak = 0;
  double squares = 0;
  for (int i = 0; i < dim; ++i) {
    const float value = centre != nullptr ? x[i] - centre[i] : x[i];
    if (!std::isfinite(value)) return false;
    peak = std::fmax(peak, std::fabs(value));
    squares += static_cast<double>(value) * value;
  }
  const bool zero = peak < 0x1p-100f;
  *inverse_norm = zero ? 0.0f : static_cast<float>(1 / std::sqrt(squares));
  const float scale = static_cast<float>(rounding_limit(dim)) / peak;
  for (int i = 0; i < dim; ++i) {
    // volatile: the product is rounded to float32 before the sum.
    volatile float product = (centre != nullptr ? x[i] - centre[i] : x[i]) * scale;
    volatile float shifted = product + 0x1.8p23f;
    out[i] = zero ? 0 : static_cast<int32_t>(shifted - 0x1.8p23f);
  }
  return true;
}

inline uint16_t code(const int32_t* x, const int8_t* projections, int dim, int bits, int table) {
  uint32_t code = 0;
  for (int j = 0; j < bits; ++j) {
    const int8_t* w = projections + static_cast<int64_t>(table * bits + j) * projection_stride(dim);
    int64_t sum = 0;
    for (int i = 0; i < dim; ++i) sum += static_cast<int64_t>(x[i]) * w[i];
    code |= static_cast<uint32_t>(sum > 0) << j;
  }
  return static_cast<uint16_t>(code);
}

}  // namespace reference
}  // namespace magicpig

#endif  // MAGICPIG_KERNELS_SIMHASH_H_
