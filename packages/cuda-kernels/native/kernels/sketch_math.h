// The numbers of key sketches (sketch.h), as functions that the kernels share and the CPU can check.
#ifndef MAGICPIG_KERNELS_SKETCH_MATH_H_
#define MAGICPIG_KERNELS_SKETCH_MATH_H_

#include <bit>
#include <cmath>

#include "sketch.h"

namespace magicpig {

// ---- Encoding ---------------------------------------------------------------------------------------------------------

constexpr int kSketchSteps = 4;
constexpr int kSketchDomain = 2;  // last word of the counter that the rotation's flips are drawn with
constexpr float kLeastInverseNorm = 0x1p-60f;

// Norm of a rotated vector: the butterflies of 128 coordinates leave a factor of sqrt(2).
__host__ __device__ constexpr double sketch_norm(int size) { return size == 128 ? kHadamardNorm * 1.4142135623730951 : kHadamardNorm; }

struct SketchGrid {
  int steps[kSketchSteps];
};
inline SketchGrid sketch_grid(int size, int bits) {
  // The optimal uniform step for a standard normal at 1..4 bits (Max 1960), and what is tried around it.
  constexpr double kOptimalStep[kMaxSketchBits] = {1.5958, 0.9957, 0.5860, 0.3352};
  constexpr double kStepScales[kSketchSteps] = {0.8, 0.93, 1.06, 1.2};
  SketchGrid grid;
  const double deviation = sketch_norm(size) / std::sqrt(static_cast<double>(size));
  for (int i = 0; i < kSketchSteps; ++i) grid.steps[i] = static_cast<int>(std::lround(deviation * kOptimalStep[bits - 1] * kStepScales[i]));
  return grid;
}

__host__ __device__ constexpr int sketch_level(int y, int step, int bits) {
  const int half = 1 << (bits - 1);
  const int floored = y >= 0 ? y / step : -((-y + step - 1) / step);
  return floored < -half ? 0 : floored >= half ? 2 * half - 1 : floored + half;
}

// Levels are stored in fields of 1, 2 or 4 bits; those of 3 bits as fields of 2, and behind them fields of 1 for the upper bit. A lane
// of the scan multiplies coordinates 16 t + 4 member .. + 3 for all t: their fields lie next to each other, and those of one t a byte
// apart, so that a shift and a mask make an operand. Place of coordinate i among fields of `width` bits:
__host__ __device__ constexpr int field_word(int size, int width, int i) {
  const int t = i / 16, member = i / 4 % 4;
  return size * width < 128 ? member / 2 : member * (size * width / 128) + t / (8 / width);
}
__host__ __device__ constexpr int field_bit(int size, int width, int i) {
  const int t = i / 16, member = i / 4 % 4;
  return 8 * (i % 4) + width * (size * width < 128 ? member % 2 * 4 + t : t % (8 / width));
}
// And the coordinate at a place.
__host__ __device__ constexpr int field_coordinate(int size, int width, int word, int bit) {
  const int field = bit % 8 / width, fields = 8 / width;
  const int words = size * width / 128;
  const int member = words == 0 ? word * 2 + field / 4 : word / words;
  const int t = words == 0 ? field % 4 : word % words * fields + field;
  return 16 * t + 4 * member + bit / 8;
}
// Fields of levels of `bits` bits: the first ones' width.
__host__ __device__ constexpr int field_width(int bits) { return bits == 3 ? 2 : bits; }

// ---- Scores -----------------------------------------------------------------------------------------------------------

constexpr int kSpanLimit = 255, kFirstSpan = 248, kSpanStep = 8, kLargestRounded = 127;

__host__ __device__ constexpr int mulhrs(int a, int b) { return (a * b + 0x4000) >> 15; }

// Exponent of a factor, and its significand relative to the largest exponent.
__host__ __device__ constexpr int factor_exponent(uint32_t bits) { return static_cast<int>(bits >> 7 & 0xffu); }
__host__ __device__ constexpr int factor_significand(uint32_t bits, int largest_exponent) {
  const int exponent = factor_exponent(bits);
  if (exponent == 0) return 0;
  const int below = largest_exponent - exponent;
  return static_cast<int>(0x80u | (bits & 0x7fu)) << 7 >> (below < 15 ? below : 15);
}

// Most bits by which sums that reach up to `half` can be shifted within 16.
__host__ __device__ constexpr int sketch_lift(int half) {
  int lift = 14;
  while (half << lift > 32767) --lift;
  return lift;
}

// G of sketch.h: quarters of a nat are mulhrs(mulhrs(D << lift, F), G).
__host__ __device__ inline int sketch_gain(float tempered_sigma, int exponent, int lift) {
  const double scaled = static_cast<double>(tempered_sigma) * std::ldexp(1.0, exponent - 108 - lift) + 0.5;
  return scaled < 16384.0 ? static_cast<int>(scaled) : 16384;
}

// ---- Draws ------------------------------------------------------------------------------------------------------------

constexpr int kSketchBins = 128;    // quarters of a nat below the largest score
constexpr int kSketchLevels = 64;
constexpr int kDrawDomain = 3;      // last word of the counter of the random bits
// Keys that are counted: all of up to twice as many, then a half of each 64, a quarter, and so on, each for as many as it stands for; but
// in the first bins, while they hold few, all.
constexpr int kHistogramKeys = 2048, kHistogramRun = 64, kLeastHistogramLanes = 2;
constexpr int kExactBins = 16, kExactShare = 256;  // those that hold at most a 256th of the counted keys
constexpr int kNoiseBlocks = 16;    // runs of 64 keys whose factors stand for all
constexpr int kHistogramWords = kSketchBins + kExactBins;  // counts of some keys in all bins, and of all keys in the first ones
constexpr double kAllTau = 1e30;    // more than any weight's inverse: every key is drawn

// Exponent that draws raise e^score to, about the squared cosine between v and y; and the variance of an estimated score in units of
// scale^2 |q|^2 and the mean of factor^2. Both measured, see @magicpig/lsh.
__host__ __device__ constexpr float sketch_temper(int bits) { return bits == 1 ? 0.55f : bits == 2 ? 0.85f : bits == 3 ? 0.95f : 1.0f; }
__host__ __device__ constexpr double sketch_noise(int bits) { return bits == 1 ? 0.364 : bits == 2 ? 0.42 : bits == 3 ? 0.4 : 0.39; }

__host__ __device__ constexpr int histogram_lanes(int keys) {
  int lanes = kHistogramRun;
  for (int left = keys / 2; left >= kHistogramKeys && lanes > kLeastHistogramLanes; left /= 2) lanes /= 2;
  return lanes;
}
// e^(v / 2) as a power that is the same on every machine: how much larger the standard error is because weights are estimates.
__host__ __device__ inline double noise_inflation(double variance) {
  constexpr int kSquarings = 10;
  constexpr double kMost = 50;
  double power = 1 + (variance < kMost ? variance : kMost) / 2 / (1 << kSquarings);
  for (int i = 0; i < kSquarings; ++i) power *= power;
  return power;
}

struct SketchWeights {
  double at[kSketchBins];  // e^(-i / 4)
};
inline SketchWeights sketch_weights() {
  constexpr double kNext = 0.7788007830714049;  // e^(-1/4)
  SketchWeights weights;
  weights.at[0] = 1;
  for (int i = 1; i < kSketchBins; ++i) weights.at[i] = weights.at[i - 1] * kNext;
  return weights;
}

// How many of the 2^16 values of the random bits draw a key of probability p: five leading bits of 2^16 p + 16, less 16, and at least 1; all
// of them only for a p of at least 1.
__host__ __device__ inline uint32_t sketch_threshold(double p) {
  if (p >= 1) return 1u << 16;
  double raised = p * 65536.0 + 16;
  int places = 0;
  for (; raised >= 32; ++places) raised /= 2;
  const int threshold = (static_cast<int>(raised + 0.5) << places) - 16;
  return threshold < 1 ? 1u : threshold < 65520 ? static_cast<uint32_t>(threshold) : 65520u;
}

// The logarithm of threshold / 2^16: that of the mantissa by the polynomial of Cephes' logf (Moshier), that of the exponent by a product.
__host__ __device__ inline float sketch_log(uint32_t threshold) {
  constexpr int32_t kRootHalf = 0x3f3504f3;  // bits of sqrt(1/2)
  const auto bits = static_cast<int32_t>(float_to_bits(static_cast<float>(threshold)));
  const int32_t exponent = (bits - kRootHalf) >> 23;
  const float z = bits_to_float(static_cast<uint32_t>(bits) - (static_cast<uint32_t>(exponent) << 23)) - 1.0f;
  float p = 7.0376836292e-2f * z - 1.1514610310e-1f;
  p = p * z + 1.1676998740e-1f;
  p = p * z - 1.2420140846e-1f;
  p = p * z + 1.4249322787e-1f;
  p = p * z - 1.6668057665e-1f;
  p = p * z + 2.0000714765e-1f;
  p = p * z - 2.4999993993e-1f;
  p = p * z + 3.3333331174e-1f;
  const float square = z * z;
  return z + (p * z * square - 0.5f * square) + static_cast<float>(exponent - 16) * 0.69314718f;
}

// Half i of the eight that a call of the generator gives.
__host__ __device__ inline uint32_t random_half(const PhiloxWords& words, int i) {
  const uint32_t word = i < 2 ? words.word[0] : i < 4 ? words.word[1] : i < 6 ? words.word[2] : words.word[3];
  return i % 2 == 0 ? word & 0xffffu : word >> 16;
}

}  // namespace magicpig

#endif  // MAGICPIG_KERNELS_SKETCH_MATH_H_
