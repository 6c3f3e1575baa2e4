// The inner loops, once for each instruction set. All give identical results: projections are exact integer sums, and
// float operations are never contracted or reordered.
#ifndef MAGICPIG_LSH_KERNELS_H_
#define MAGICPIG_LSH_KERNELS_H_

#include <cstddef>
#include <cstdint>

namespace magicpig::lsh {

// Projections are handled in blocks of this many; a block's weights are [pairs][kColumns][2] int16.
inline constexpr size_t kColumns = 16;
// Vectors that `hadamard` hashes together.
inline constexpr size_t kLanes = 32;
// Collect may write this many ids beyond the last one.
inline constexpr size_t kCollectSlack = 64;
// Gather may write this many ids beyond the last one.
inline constexpr size_t kGatherSlack = 128;

// Ids of one bucket.
struct Bucket {
  const uint16_t* ids;
  uint32_t count;
};

struct Kernels {
  const char* isa;

  // Rounds x - centre (centre may be null: zero) to integers, its largest magnitude (its norm, if by_norm) becoming `limit`:
  // out [2 * ceil(dim / 2)].
  // Vectors with no magnitude of at least 2^-100 become zero. inverse_norm = 1 / |x - centre|, 0 for those.
  // False when x - centre has NaN or an infinity.
  bool (*quantise)(const float* x, const float* centre, size_t dim, int32_t limit, bool by_norm, int16_t* out,
                   float* inverse_norm);

  // Bit c of signs[r * signs_stride + b] = x[r] . w[block b, column c] > 0.
  // x: [rows][pairs][2], weights: [blocks][pairs][kColumns][2]; sums must fit in 32 bits.
  void (*signs)(const int16_t* x, size_t rows, size_t pairs, const int16_t* weights, size_t blocks, uint16_t* signs,
                size_t signs_stride);

  // Codes of kLanes vectors x [size][kLanes] of norm at most 11,500: codes [tables][kLanes]. Projection j * tables + t is bit j
  // of table t, and coefficient (j * tables + t) % size of block (j * tables + t) / size; a block is three rotations, with
  // flips [blocks][3][size] of +1 and -1. size is a power of two, at least 64; space [size][kLanes]. All 64-byte aligned.
  void (*hadamard)(const int16_t* x, size_t size, const int16_t* flips, uint32_t bits, uint32_t tables, int16_t* space,
                   uint16_t* codes);

  // a . b in double, summed in eight interleaved sums.
  double (*dot)(const float* a, const float* b, size_t dim);

  // Copies the ids of the buckets to `out`, one behind the other; returns how many.
  size_t (*gather)(const Bucket* buckets, size_t n, uint16_t* out);

  // Ids base + i of the counters, i < n, that are at least `least`, ascending; clears all n counters. n is a multiple of 64,
  // but ids from base + limit on are left out.
  size_t (*collect8)(uint8_t* counters, size_t n, size_t limit, uint32_t least, uint32_t base, uint32_t* ids);
  size_t (*collect16)(uint16_t* counters, size_t n, size_t limit, uint32_t least, uint32_t base, uint32_t* ids);

  // Number of t < tables with a[t] == b[t].
  size_t (*equal)(const uint16_t* a, const uint16_t* b, size_t tables);
};

// The best of this machine, or what the environment variable MAGICPIG_ISA (portable, avx2, avx512) lowers it to; chosen once.
const Kernels& BestKernels();

extern const Kernels kPortableKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif
#if defined(__aarch64__)
extern const Kernels kNeonKernels;
#endif

}  // namespace magicpig::lsh

#endif  // MAGICPIG_LSH_KERNELS_H_
