// Key sketches: a few bits a dimension that estimate every key's score, so that keys can be drawn with probabilities that follow the
// softmax. The estimator is that of RaBitQ and extended RaBitQ (Gao and Long 2024; Gao et al. 2025); draws are Poisson sampling.
//
// Encoding. k - mu is rounded to integers of norm 11,500 and rotated (hadamard.h: one block of three rotations) to y. Coordinate i
// becomes v_i = 2 u_i - (2^b - 1), u_i = clamp(floor(y_i / step) + 2^(b-1), 0, 2^b - 1): a symmetric mid-rise grid. Of four steps the
// one with the largest cosine between v and y is taken, compared in exact integers. With it goes factor = |k - mu|^2 / <k - mu, v>
// in the rotated frame, so that factor <v, R q> estimates <k - mu, q> without bias.
//
// Scores. A query is rotated likewise and rounded to 8 bits; s = (factor <v, q8> sigma) + offset estimates q.k / sqrt(d): sigma undoes
// the rounding and holds 1 / sqrt(d), offset is q.mu / sqrt(d).
//
// Draw. pi = min(1, tau (e^(s - max s) + floor mean)), mean being that of e^(s - max s) over all keys; tau makes the expected number
// of draws the budget, from a histogram of s. Key i is drawn by query head h when word 0 of Philox(counter {i, h, layer, step}, key
// seed) is below 2^32 pi: whatever the order of threads. pi is the probability drawn with, whatever the quality of s.
//
// All of it is integers, or float operations in a fixed order without fused ones, so that a CPU can give the same draws.
#ifndef MAGICPIG_KERNELS_SKETCH_H_
#define MAGICPIG_KERNELS_SKETCH_H_

#include <cmath>
#include <vector>

#include "hadamard.h"

namespace magicpig {

constexpr int kMaxSketchBits = 4;
constexpr int kSketchSteps = 4;
// The optimal uniform step for a standard normal at 1..4 bits (Max 1960), and what is tried around it.
constexpr double kOptimalStep[kMaxSketchBits] = {1.5958, 0.9957, 0.5860, 0.3352};
constexpr double kStepScales[kSketchSteps] = {0.8, 0.93, 1.06, 1.2};
constexpr int kSketchDomain = 2;  // last word of the counter that the rotation's flips are drawn with

// Norm of a rotated vector: the butterflies of 128 coordinates leave a factor of sqrt(2).
__host__ __device__ constexpr double sketch_norm(int size) { return size == 128 ? kHadamardNorm * 1.4142135623730951 : kHadamardNorm; }

struct SketchGrid {
  int steps[kSketchSteps];
};
SketchGrid sketch_grid(int size, int bits);

__host__ __device__ constexpr int sketch_level(int y, int step, int bits) {
  const int half = 1 << (bits - 1);
  const int floored = y >= 0 ? y / step : -((-y + step - 1) / step);
  return floored < -half ? 0 : floored >= half ? 2 * half - 1 : floored + half;
}

// Codes are bit planes [keys][bits][size / 32] of u32: bit p of u_i in plane p. Where coordinate i goes within a plane: so that the lane
// which multiplies coordinates 16 t + 4 member .. + 3 finds them in one word, four bytes apart.
__host__ __device__ constexpr int plane_word(int size, int i) {
  const int t = i / 16, member = i / 4 % 4;
  return size == 64 ? member / 2 : member + t / 8 * 4;
}
__host__ __device__ constexpr int plane_bit(int size, int i) {
  const int t = i / 16, member = i / 4 % 4;
  return 8 * (i % 4) + (size == 64 ? member % 2 * 4 + t : t % 8);
}

// Floats as integers of the same order, above 0; and back.
__host__ __device__ __forceinline__ uint32_t ordered_bits(float x) {
  const uint32_t bits = float_to_bits(x);
  return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}
__host__ __device__ __forceinline__ float from_ordered_bits(uint32_t bits) {
  return bits_to_float(bits >> 31 != 0 ? bits & 0x7fffffffu : ~bits);
}

// Product and sum, each rounded.
__host__ __device__ __forceinline__ float multiply(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  volatile float product = a * b;
  return product;
#endif
}
__host__ __device__ __forceinline__ float sum_of(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(a, b);
#else
  volatile float sum = a + b;
  return sum;
#endif
}

// a b + c in float64, each rounded: a fused operation would give another threshold than a CPU's.
__host__ __device__ __forceinline__ double multiply_add(double a, double b, double c) {
#if defined(__CUDA_ARCH__)
  return __dadd_rn(__dmul_rn(a, b), c);
#else
  volatile double product = a * b;
  return product + c;
#endif
}

// e^x for x <= 0, within 2e-7 of it, the same on every machine.
__host__ __device__ __forceinline__ float sketch_exp(float x) {
  const float t = multiply(x, 1.44269504f);
  if (!(t > -126.0f)) return 0.0f;
  const float shifted = sum_of(t, 0x1.8p23f);  // the nearest integer, in the low bits
  const int n = static_cast<int>(float_to_bits(shifted) - float_to_bits(0x1.8p23f));
  const float f = t - sum_of(shifted, -0x1.8p23f);  // exact, in [-0.5, 0.5]
  // 2^f: the series of e^(f ln 2).
  float p = 1.5403530e-4f;
  p = sum_of(multiply(p, f), 1.3333558e-3f);
  p = sum_of(multiply(p, f), 9.6181291e-3f);
  p = sum_of(multiply(p, f), 5.5504109e-2f);
  p = sum_of(multiply(p, f), 2.4022651e-1f);
  p = sum_of(multiply(p, f), 6.9314718e-1f);
  p = sum_of(multiply(p, f), 1.0f);
  return multiply(p, bits_to_float(static_cast<uint32_t>(n + 127) << 23));
}

constexpr int kSketchBins = 256;
// Bin of a score: eighths below the largest.
__host__ __device__ __forceinline__ int sketch_bin(float largest, float score) {
  const float depth = multiply(sum_of(largest, -score), 8.0f);
  return depth < kSketchBins - 1 ? static_cast<int>(depth) : kSketchBins - 1;
}

struct SketchDraw {
  float largest;  // max s
  float tau, floor;  // pi = min(1, tau (e^(s - largest) + floor))
};
struct SketchBins {
  double weight[kSketchBins];  // e^-((i + 0.5) / 8)
};
SketchBins sketch_bins();

// tau and floor from the histogram: with the bins' weights for those of their keys, sum of min(1, tau (w + floor)) = budget.
__host__ __device__ inline SketchDraw sketch_threshold(const uint32_t* counts, const SketchBins& bins, float largest, int keys,
                                                       double budget, double floor_share) {
  double total = 0;
  for (int i = 0; i < kSketchBins; ++i) total = multiply_add(counts[i], bins.weight[i], total);
  const double floor = floor_share * total / keys;
  double above = 0, rest = 0;  // keys with pi = 1, and the weights of the others
  for (int i = 0; i < kSketchBins; ++i) rest = multiply_add(counts[i], bins.weight[i] + floor, rest);
  double tau = 1e30;  // budget >= keys: all
  for (int i = 0; i < kSketchBins && budget < keys; ++i) {
    tau = (budget - above) / rest;
    if (tau * (bins.weight[i] + floor) <= 1) break;
    above += counts[i];  // below the budget still: the bin's keys number at most rest / (weight + floor)
    rest = multiply_add(-static_cast<double>(counts[i]), bins.weight[i] + floor, rest);
  }
  return {largest, static_cast<float>(tau), static_cast<float>(floor)};
}

__host__ __device__ __forceinline__ float sketch_probability(const SketchDraw& draw, float score) {
  const float pi = multiply(draw.tau, sum_of(sketch_exp(sum_of(score, -draw.largest)), draw.floor));
  return pi < 1.0f ? pi : 1.0f;
}
__host__ __device__ __forceinline__ bool sketch_drawn(float pi, uint32_t key, uint32_t head, uint32_t layer, uint32_t step, uint64_t seed) {
  if (pi >= 1.0f) return true;
  const PhiloxWords words = philox({{key, head, layer, step}}, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  return words.word[0] < static_cast<uint64_t>(static_cast<double>(pi) * 4294967296.0);
}

struct SketchShape {
  int dim;           // at most 256
  int bits;          // 1..4 a dimension
  int kv_heads, group;  // query heads kv_head * group .. + group - 1 share a KV head
  int64_t capacity;  // keys that codes, factors and scores have room for, a KV head or query head
};

// flips [3][size / 32] u32 of the rotation.
cudaError_t sketch_flips(cudaStream_t stream, uint32_t* flips, int dim, uint64_t seed);

// Encodes rows keys of one head as keys first_key .. of KV head kv_head: x [rows] with stride x_stride f32 (or bf16), centre [dim] f32
// or null. codes [kv_heads][capacity][bits][size / 32] u32, factors [kv_heads][capacity] bf16 bits; a key that is equal to
// the centre, or not finite, gets factor 0: it scores as the centre does.
cudaError_t sketch_encode(cudaStream_t stream, uint32_t* codes, uint16_t* factors, const void* x, bool x_bf16, const float* centre,
                          const uint32_t* flips, const SketchShape& shape, int kv_head, int64_t first_key, int rows, int64_t x_stride);

// Scores of all keys and draws, for all query heads of one step: q [kv_heads * group][dim] f32, centres [kv_heads][dim] f32 or null.
//   ids       [query heads][room] u32, ascending, and minus_log [query heads][room] f32 = -log pi
//   counts    [query heads] i32, the number drawn: where that exceeds room, the last are not stored
// workspace: sketch_draw_workspace bytes. budget: the expected number of draws a query head; floor_share, about 0.02.
struct SketchStep {
  int keys;        // the first `keys` of each KV head take part
  int room;
  double budget, floor_share;
  float scale;     // 1 / sqrt(dim)
  uint32_t layer, step;
  uint64_t seed;
};
size_t sketch_draw_workspace(const SketchShape& shape);
cudaError_t sketch_draw(cudaStream_t stream, uint32_t* ids, float* minus_log, int32_t* counts, void* workspace, const uint32_t* codes,
                        const uint16_t* factors, const float* q, const float* centres, const uint32_t* flips, const SketchShape& shape,
                        const SketchStep& step);

namespace reference {

inline std::vector<int> sketch_rotate(const float* x, const float* centre, int dim, uint64_t seed, double* norm) {
  double sums[8] = {};
  const auto value = [&](int i) { return centre != nullptr ? x[i] - centre[i] : x[i]; };
  for (int i = 0; i < dim; ++i) sums[i % 8] += static_cast<double>(value(i)) * value(i);
  double square = 0;
  for (const double sum : sums) square += sum;
  *norm = std::sqrt(square);
  const int size = hadamard_size(dim);
  std::vector<int> v(size);
  if (*norm == 0) return v;
  const float scale = static_cast<float>(kHadamardNorm / *norm);
  for (int i = 0; i < dim; ++i) {
    volatile float product = value(i) * scale;
    volatile float shifted = product + 0x1.8p23f;
    v[i] = static_cast<int>(shifted - 0x1.8p23f);
  }
  for (int rotation = 0; rotation < kHadamardRotations; ++rotation) {
    for (int i = 0; i < size; ++i) {
      const PhiloxWords words = philox({{static_cast<uint32_t>(i / 128), static_cast<uint32_t>(rotation), 0u, kSketchDomain}},
                                       static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
      if (words.word[i % 128 / 32] >> i % 32 & 1) v[i] = -v[i];
    }
    hadamard_transform(v, rotation == 1);
  }
  return v;
}

// Grid values v [size] and factor of one key.
inline std::vector<int> sketch_encode(float* factor, const float* x, const float* centre, int dim, int bits, uint64_t seed) {
  double norm;
  const std::vector<int> y = sketch_rotate(x, centre, dim, seed, &norm);
  const int size = static_cast<int>(y.size());
  const SketchGrid grid = sketch_grid(size, bits);
  std::vector<int> best;
  int64_t best_dot = 0, best_square = 1;
  for (const int step : grid.steps) {
    std::vector<int> v(size);
    int64_t dot = 0, square = 0;
    for (int i = 0; i < size; ++i) {
      const double cell = std::floor(static_cast<double>(y[i]) / step) + (1 << (bits - 1));
      v[i] = 2 * static_cast<int>(std::fmin(std::fmax(cell, 0.0), (1 << bits) - 1.0)) - ((1 << bits) - 1);
      dot += static_cast<int64_t>(v[i]) * y[i];
      square += static_cast<int64_t>(v[i]) * v[i];
    }
    if (best.empty() || dot * dot * best_square > best_dot * best_dot * square) {
      best = v;
      best_dot = dot;
      best_square = square;
    }
  }
  *factor = best_dot > 0 ? to_float(to_bf16(static_cast<float>(norm * sketch_norm(size) / static_cast<double>(best_dot)))) : 0.0f;
  return best;
}

}  // namespace reference
}  // namespace magicpig

#endif  // MAGICPIG_KERNELS_SKETCH_H_
