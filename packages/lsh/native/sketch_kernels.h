// Key sketches: the numbers that every backend must reproduce, and the inner loops, once for each instruction set.
//
// Encoding. x - centre is rounded to integers of norm 11,500 and rotated by three sign flips and Hadamard transforms (hadamard.h)
// to y [size], size being a power of two and at least 64. Coordinate i becomes v_i = 2 u_i - (2^b - 1), where the level u_i =
// floor(y_i / step) + 2^(b-1), clamped to 0 .. 2^b - 1. Of four steps the one with the largest cosine between v and y is taken. With
// it goes factor = |x - centre|^2 / <x - centre, v>, both in the rotated frame, as a bfloat16: factor <v, R q> estimates
// <x - centre, q> (the estimator of RaBitQ, Gao and Long 2024, and of extended RaBitQ, Gao et al. 2025).
//
// Scores. A query is rotated likewise and multiplied by a gain, then rounded to integers q such that the magnitudes in each span (see
// FineSpans) add up to at most 255: partial sums over a span fit in 8 bits. With sum = <u, q> + (2^b - 1) |negative part of q|_1, at most
// shift = (2^b - 1) |q|_1, r = factor (2 sum - shift) = factor <v, q> is exact but for one rounding, and sigma r + offset estimates
// scale x.q, where sigma undoes the gain and offset = scale centre.q.
//
// Quarters. Estimates scatter around the scores, so the expected score given an estimate lies nearer the mean: draws go by sigma' =
// temper sigma, temper being a constant for each number of bits. What they need is integers only. With a ** b = (a b + 2^14) >> 15,
//   F = (m 2^7) >> min(E - e, 15), 0 for e = 0: a factor's sign aside, m is its 8 bits and e its biased exponent, E the largest of all keys
//   R = ((sum - (shift >> 1)) << lift) ** F, lift being the largest of 0 .. 14 with ((shift + 1) >> 1) << lift at most 2^15 - 1
//   S = R ** G, G = min(2^14, floor(sigma' 2^(E - 108 - lift) + 1/2))
// so that S is the score in quarters of a nat, up to a constant.
//
// Counts. Keys lie in bins M - S, M being the largest S, or the last. Of n keys the first 64, 32, 16, 8, 4 or 2 of every 64 are counted
// (while n is below 4,096, 8,192, 16,384, 32,768 and 65,536, and beyond), each for as many as it stands for; but those of the first e bins
// all are, e <= 16 being the most bins that hold at most a 256th of the counted keys: few keys of large weights make much of the sum.
//
// Draws. The counts and the budget give tau and floor (sketch_plan.h), and the first bin with tau (w + floor) <= 1, w = e^(-(M - S) / 4);
// base is the bin before it, or 0. Key i has the level clamp(M - base - S, 0, 63), and with it the probability min(1, tau (w + floor)), w
// being that of the bin base + level, rounded to one of kSketchRanks:
//   pi = threshold(r) / 2^16, r = 1 .. 193, threshold(r) = min(2^16, ((16 + r % 16) << r / 16) - 16)
// which is the pi that weights are corrected by, and is 1 (r = 193) for those that are at least 1 and no others. A key is drawn when its
// random word u of 16 bits is less than the threshold. Thresholds and words are compared by ranks, the five leading bits of u + 16 and
// their place, as numbers in a byte: rank(u) < r if and only if u < threshold(r). u is half i % 8 of Philox({i / 8, head, step, 3}, seed),
// the lower half of a word coming first. Query heads of one KV head share the random words: each draw alone is what it would be
// otherwise, and together they read fewer different keys.
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
// Quarters below the largest score that are told apart, and those of a draw.
inline constexpr int kSketchBins = 128, kSketchLevels = 64;
inline constexpr size_t kSketchCounters = 4;
// What ranks of random words are below: each of them draws.
inline constexpr uint8_t kSketchRanks = 193;
// Keys whose depths are below one score.
inline constexpr size_t kSketchChunk = 1024;
// `draw` may write this many beyond the last one.
inline constexpr size_t kDrawSlack = 16;
inline constexpr int32_t kSpanLimit = 255;

// Sizes of the bytes' runs, within a unit's eight, whose magnitudes add up to at most 255: all eight while the error of the codes is
// large beside that of so coarse a rounding, and 3 + 3 + 2 from 3 bits on.
constexpr bool FineSpans(uint32_t bits) { return bits >= 3; }

// From sums to quarters, see above.
struct SketchScale {
  uint16_t half;  // shift >> 1
  uint16_t lift;
  int16_t gain;   // G
};

// Keys of one chunk: whole blocks of codes, 64-byte aligned, and their factors as bfloat16.
struct SketchKeys {
  const uint8_t* codes;
  const uint16_t* factors;
};

// At most kSketchQueries queries: their tables [count][size / kSketchUnit][kSketchTableBytes], and what makes quarters of their sums.
struct SketchQueries {
  const uint8_t* tables;
  const SketchScale* scales;  // [count]
  size_t count;
  int32_t exponent;           // E
};

// By level: the rank of pi, and log pi.
struct SketchDraw {
  alignas(64) uint8_t ranks[kSketchLevels];
  float logs[kSketchLevels];
};

// threshold(r), r at most kSketchRanks.
constexpr uint32_t RankThreshold(uint32_t rank) {
  const uint32_t threshold = ((16 + rank % 16) << rank / 16) - 16;
  return threshold < 1u << 16 ? threshold : 1u << 16;
}

// Whose random words.
struct SketchStream {
  uint64_t seed;
  uint32_t head, step;
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

  // sums [count][stride]: of blocks * kSketchKeys keys for each of at most kSketchQueries queries, whose tables [count][size / kSketchUnit]
  // [kSketchTableBytes] are as `tables` made them. codes are 64-byte aligned.
  void (*scan)(const uint8_t* codes, size_t blocks, uint32_t bits, size_t size, const uint8_t* tables, size_t count, uint16_t* sums,
               size_t stride);

  // S of keys [n] for each query: depths [count][stride] = clamp(bounds - S, 0, 255), and tops [count] = the largest S. n is at most
  // kSketchChunk and at least 1; depths have room for n rounded up to kSketchKeys. What is read of `next` soon is fetched ahead.
  void (*depths)(const SketchKeys& keys, size_t n, const SketchKeys& next, uint32_t bits, size_t size, const SketchQueries& queries,
                 const int32_t* bounds, int32_t* tops, uint8_t* depths, size_t stride);

  // counts [kSketchCounters][kSketchBins] += how many of depths [n], of the first `lanes` of every kSketchKeys, lie in each bin: depth +
  // offset, at least 0, or the last. The sets of counters add up: neighbours often share a bin, and an increment need not wait for the one
  // before.
  void (*histogram)(const uint8_t* depths, size_t n, size_t lanes, int32_t offset, uint32_t (*counts)[kSketchBins]);

  // counts [below] += how many of depths [n] are in each of the bins 0 .. below - 1, depth + offset being at least 0.
  void (*count_top)(const uint8_t* depths, size_t n, int32_t offset, int32_t below, uint32_t* counts);

  // ranks [n] of the random words of keys first .. first + n - 1. first and n are multiples of kSketchKeys.
  void (*ranks)(const SketchStream& stream, uint32_t first, size_t n, uint8_t* ranks);

  // Keys first .. first + n - 1 that are drawn, ascending, and their log pi; returns how many. Levels are depth + offset, clamped. n is at
  // most kSketchChunk; depths and ranks [n rounded up to kSketchKeys].
  size_t (*draw)(const uint8_t* depths, int32_t offset, const uint8_t* ranks, size_t n, const SketchDraw& draw, uint32_t first,
                 uint32_t* ids, float* logs);
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
