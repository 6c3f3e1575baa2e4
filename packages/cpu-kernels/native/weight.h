// Packed weight matrices.
#ifndef MAGICPIG_CPU_WEIGHT_H_
#define MAGICPIG_CPU_WEIGHT_H_

#include <magicpig/pool.h>

#include <optional>
#include <vector>

#include "kernels.h"
#include "memory.h"

namespace magicpig::cpu {

// Rows of a matrix: values of a checkpoint, or a recipe for random ones.
struct Source {
  bool random = false;
  size_t rows = 0;

  SourceType type = SourceType::kF32;
  const uint8_t* data = nullptr;        // row-major (rows, cols) in `type`'s encoding
  const uint32_t* row_order = nullptr;  // (rows): row r is row row_order[r] of data; null for the rows as they are

  uint64_t seed = 0;  // random
  float std = 0;
  float mean = 0;
};

// y = W x, packed as formats.h says.
struct Weight {
  // Each panel has its own format: in a quantised matrix the parts may differ (q, k and v of a Q4_K_M file).
  struct Panel {
    PanelFormat format;
    const std::byte* data;
  };

  size_t rows = 0;  // gated: of gate and up together
  size_t cols = 0;  // a multiple of 8, and of kQuantBlock when quantised
  WeightFormat format = WeightFormat::kF32;
  bool gated = false;
  std::vector<Panel> panels;
  Arena::Piece memory;
  size_t bytes = 0;

  // Outputs of a product: half the rows when gated.
  size_t outputs() const { return gated ? rows / 2 : rows; }
  size_t outputs_per_panel() const { return gated ? kPanel / 2 : kPanel; }
};

// Stacks the rows of the sources and packs them on the pool's threads. Gated: two sources of equal rows, gate and up.
// Empty when the system has no memory.
std::optional<Weight> MakeWeight(const magicpig_pool& pool, const Kernels& kernels, Arena& arena,
                                 const std::vector<Source>& sources, size_t cols, WeightFormat format, bool gated);

// out (cols) = the single row of a source.
void DecodeVector(const Kernels& kernels, const Source& source, size_t cols, float* out);

// out (count, cols): rows of a weight that is not gated, as float32.
void GatherRows(const magicpig_pool& pool, const Weight& weight, const int32_t* rows, size_t count, float* out);

}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_WEIGHT_H_
