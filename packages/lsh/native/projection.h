// The random hyperplanes of SimHash, and hashing of float vectors by them.
#ifndef MAGICPIG_LSH_PROJECTION_H_
#define MAGICPIG_LSH_PROJECTION_H_

#include <cstddef>
#include <cstdint>

#include "buffer.h"
#include "kernels.h"

namespace magicpig::lsh {

// Weight of dimension i in bit j of table t: 2 floor(16 g) + 1 for a standard normal g, clamped to [-127, 127]. g comes from
// word i % 4 of Philox(counter {i / 4, j, t, 0}, key = seed), so more tables or bits leave the others as they are.
int8_t ProjectionWeight(uint32_t word);

class Projection {
 public:
  // Throws std::bad_alloc.
  Projection(uint32_t dim, uint32_t bits, uint32_t tables, uint64_t seed);

  uint32_t dim() const { return dim_; }
  uint32_t bits() const { return bits_; }
  uint32_t tables() const { return tables_; }
  size_t bytes() const { return weights_.bytes(); }

  // Rows hashed together; tiles of weights are read once for all of them.
  static constexpr size_t kRows = 64;

  // Space for the intermediate results of kRows rows; Prepare makes it large enough and throws std::bad_alloc.
  struct Scratch {
    void Prepare(const Projection& projection) {
      rounded.Reserve(kRows * projection.pairs_ * 2, 0);
      signs.Reserve(kRows * projection.signs_stride_, 0);
    }
    Buffer<int16_t> rounded;  // [kRows][pairs][2]
    Buffer<uint16_t> signs;   // [kRows][signs_stride]: bit t * bits + j of a row is bit j of its code for table t
  };

  // Hashes x - centre for `rows` <= kRows rows of x [rows][dim]; centre may be null. Fills scratch.signs, and
  // inverse_norms [rows] with 1 / |x - centre| unless that is null. False when a row has NaN or an infinity.
  bool Hash(const Kernels& kernels, const float* x, size_t rows, const float* centre, Scratch& scratch,
            float* inverse_norms) const;

  // codes[r * row_stride + t * table_stride] = code of row r in table t.
  void Codes(const Scratch& scratch, size_t rows, uint16_t* codes, size_t row_stride, size_t table_stride) const;

 private:
  uint32_t dim_, bits_, tables_;
  size_t pairs_;         // ceil(dim / 2)
  size_t blocks_;        // ceil(bits * tables / kColumns)
  size_t signs_stride_;  // blocks_ and room to read 32 bits from the last
  int32_t limit_;        // vectors are rounded to [-limit, limit]
  Buffer<int16_t> weights_;  // [blocks][pairs][kColumns][2]
};

}  // namespace magicpig::lsh

#endif  // MAGICPIG_LSH_PROJECTION_H_
