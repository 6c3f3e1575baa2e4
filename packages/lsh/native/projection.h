// The random hyperplanes of SimHash, and hashing of float vectors by them.
#ifndef MAGICPIG_LSH_PROJECTION_H_
#define MAGICPIG_LSH_PROJECTION_H_

#include <cstddef>
#include <cstdint>

#include "buffer.h"
#include "kernels.h"

namespace magicpig::lsh {

// A weight of `gaussian`: 2 floor(16 g) + 1, clamped to [-127, 127], for the standard normal g at the quantile that the word's
// low 31 bits say; the top bit is the sign.
int8_t ProjectionWeight(uint32_t word);

enum class ProjectionKind {
  // Independent normal weights. Dimension i of bit j of table t is word i % 4 of Philox({i / 4, j, t, 0}, seed), so more tables
  // or bits leave the others as they are.
  kGaussian,
  // Rotations by Hadamard transforms, see hadamard.h. The sign of coordinate i in rotation r of block b is bit i % 128 of
  // Philox({i / 128, r, b, 1}, seed), set for minus.
  kHadamard,
};

class Projection {
 public:
  // Throws std::bad_alloc.
  Projection(ProjectionKind kind, uint32_t dim, uint32_t bits, uint32_t tables, uint64_t seed);

  ProjectionKind kind() const { return kind_; }
  uint64_t seed() const { return seed_; }
  uint32_t dim() const { return dim_; }
  uint32_t bits() const { return bits_; }
  uint32_t tables() const { return tables_; }
  size_t bytes() const { return weights_.bytes(); }

  // Rows hashed together at most: weights are read once for all of them.
  static constexpr size_t kRows = 64;

  // Space for the intermediate results of kRows rows; Prepare makes it large enough and throws std::bad_alloc.
  struct Scratch {
    void Prepare(const Projection& projection);
    Buffer<int16_t> rounded;  // gaussian: [kRows][pairs][2]; hadamard: [kLanes][size]
    Buffer<uint16_t> signs;   // gaussian: [kRows][signs_stride], bit t * bits + j of a row is bit j of its code for table t
    Buffer<int16_t> lanes;    // hadamard: [2][size][kLanes]
    Buffer<uint16_t> codes;   // hadamard: [tables][kLanes]
  };

  // codes[r * row_stride + t * table_stride] = code of x[r] - centre in table t, for `rows` <= kRows rows of x [rows][dim];
  // centre may be null. Fills inverse_norms [rows] with 1 / |x - centre| unless that is null. False when a row has NaN or an
  // infinity.
  bool Hash(const Kernels& kernels, const float* x, size_t rows, const float* centre, Scratch& scratch, float* inverse_norms,
            uint16_t* codes, size_t row_stride, size_t table_stride) const;

 private:
  void DrawWeights(uint64_t seed);
  void DrawFlips(uint64_t seed);
  void Unpack(const Scratch& scratch, size_t rows, uint16_t* codes, size_t row_stride, size_t table_stride) const;

  ProjectionKind kind_;
  uint64_t seed_;
  uint32_t dim_, bits_, tables_;
  size_t pairs_;   // ceil(dim / 2)
  size_t size_;    // hadamard: power of two, at least dim
  size_t blocks_;  // gaussian: of kColumns projections; hadamard: of size_
  size_t signs_stride_;  // blocks_ and room to read 32 bits from the last
  int32_t limit_;        // vectors are rounded to integers up to this
  Buffer<int16_t> weights_;  // gaussian: [blocks][pairs][kColumns][2]; hadamard: flips [blocks][3][size]
};

}  // namespace magicpig::lsh

#endif  // MAGICPIG_LSH_PROJECTION_H_
