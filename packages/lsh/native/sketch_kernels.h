// Key sketches: the numbers that every backend must reproduce, and the inner loops, once for each instruction set.
//
// Encoding. x - centre is rounded to integers of norm 11,500 and rotated by three sign flips and Hadamard transforms (hadamard.h)
// to y [size], size being a power of two and at least 64. Coordinate i becomes v_i = 2 u_i - (2^b - 1), where the level u_i =
// floor(y_i / step) + 2^(b-1), clamped to 0 .. 2^b - 1. Of four steps the one with the largest cosine between v and y is taken. With
// it goes factor = |x - centre|^2 / <x - centre, v>, both in the rotated frame, as a bfloat16: factor <v, R q> estimates
// <x - centre, q> (the estimator of RaBitQ, Gao and Long 2024, and of extended RaBitQ, Gao et al. 2025).
//
// Scores. A query is rotated likewise and multiplied by a gain, then rounded to integers q such that the magnitudes in each span (see
// `spans`) add up to at most 255: partial sums over a span fit in 8 bits. r = factor <v, q> is exact but for one rounding, and
// sigma r + offset estimates scale x.q, where sigma undoes the gain and offset = scale centre.q.
//
// Draws. Estimates scatter around the scores, so the expected score given an estimate lies nearer the mean: with sigma' = temper sigma,
// temper being a constant for each number of bits, key i gets the weight w = 2^((r - max r) sigma' log2(e)), within 1e-4 of the power, and
// is drawn with probability pi = min(1, tau (w + floor)): when the upper 24 bits of word i % 4 of Philox({i / 4, head, step, 3}, seed) lie
// below 2^24 pi, rounded up. That rounded value is the pi that weights are corrected by. Query heads of one KV head share the random
// words: each draw alone is what it would be otherwise, and together they read fewer different keys.
//
// All floats are rounded after each operation.
#ifndef MAGICPIG_LSH_SKETCH_KERNELS_H_
#define MAGICPIG_LSH_SKETCH_KERNELS_H_

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace magicpig::lsh {

inline constexpr uint32_t kMaxSketchBits = 4;
inline constexpr size_t kMaxSketchSize = 256;
// Keys are stored in blocks [bits, the highest plane first][size / 8][64] of bytes: bit j of byte g is that plane's bit of u_(8g + j).
inline constexpr size_t kSketchKeys = 64;
// Coordinates whose lookup tables stand together.
inline constexpr size_t kSketchUnit = 64;
// Bytes of the tables of one unit, at most.
inline constexpr size_t kSketchTableBytes = 11 * 64;
// Query heads that share one reading of the codes.
inline constexpr size_t kSketchQueries = 4;
inline constexpr int kSketchSteps = 4;
inline constexpr int kSketchBins = 256;
// Draw may write this many beyond the last one.
inline constexpr size_t kDrawSlack = 16;
inline constexpr int32_t kSpanLimit = 255;
inline constexpr float kUniformOne = 0x1p24f;

// Sizes of the bytes' runs, within a unit's eight, whose magnitudes add up to at most 255: all eight while the error of the codes is
// large beside that of so coarse a rounding, and 3 + 3 + 2 from 3 bits on.
constexpr bool FineSpans(uint32_t bits) { return bits >= 3; }

struct SketchQuery {
  const uint8_t* tables;  // [size / kSketchUnit][kSketchTableBytes], as `tables` made them
  float shift;            // (2^bits - 1) |q|_1: <v, q> = 2 <u + half the negative part, q> - shift, see Scan
};

struct SketchDraw {
  float largest;  // max r
  float gain;     // sigma' log2(e)
  float tau;      // times 2^24
  float floor;
};

struct SketchKernels {
  const char* isa;

  // Rotates kLanes vectors x [size][kLanes] of norm at most 11,500 to y [size][kLanes]; flips [3][size] of +1 and -1. All 64-byte aligned.
  void (*rotate)(const int16_t* x, size_t size, const int16_t* flips, int16_t* y);

  // Sketches of kLanes rotated vectors y [size][kLanes]: planes [bits][size / 8][kLanes] of bytes as blocks hold them, and dots [kLanes] =
  // <v, y>. steps [kSketchSteps].
  void (*encode)(const int16_t* y, size_t size, uint32_t bits, const int32_t* steps, uint8_t* planes, int32_t* dots);

  // Lookup tables of a rounded query q [size], in this instruction set's own order.
  void (*tables)(const int16_t* q, size_t size, uint8_t* tables);

  // scores [queries][stride]: r of blocks * kSketchKeys keys for each of at most kSketchQueries queries; largest [queries] is raised to the
  // largest of them. codes and factors are 64-byte aligned.
  void (*scan)(const uint8_t* codes, const uint16_t* factors, size_t blocks, uint32_t bits, size_t size, const SketchQuery* queries,
               size_t count, float* scores, size_t stride, float* largest);

  // out [n]: upper 24 bits of the random words of keys first .. first + n - 1, as floats. first and n are multiples of kSketchKeys.
  void (*uniforms)(uint64_t seed, uint32_t head, uint32_t step, uint32_t first, size_t n, float* out);

  // counts [kSketchBins] += how many of scores [n], of the first `lanes` of every kSketchKeys, lie in each bin: eighths below the largest
  // of sigma' r, eighths being 8 sigma'.
  void (*histogram)(const float* scores, size_t n, size_t lanes, float largest, float eighths, uint32_t* counts);

  // Keys of those with scores [n] that are drawn, as first + their place, ascending, and 2^24 pi before rounding up, which may exceed 2^24.
  // Returns how many. n is a multiple of 16.
  size_t (*draw)(const float* scores, const float* uniforms, size_t n, const SketchDraw& draw, uint32_t first, uint32_t* ids,
                 float* thresholds);

  // Replaces the thresholds [n] of drawn keys by log pi, pi being the threshold rounded up, over 2^24, and at most 1. Within 1e-6.
  void (*logs)(float* values, size_t n);
};

// That of the same name as BestKernels().
const SketchKernels& BestSketchKernels();

extern const SketchKernels kPortableSketchKernels;
#if defined(__x86_64__)
extern const SketchKernels kAvx2SketchKernels;
extern const SketchKernels kAvx512SketchKernels;
#endif
#if defined(__aarch64__)
extern const SketchKernels kNeonSketchKernels;
#endif

}  // namespace magicpig::lsh

#endif  // MAGICPIG_LSH_SKETCH_KERNELS_H_
