// Matrix products with packed weights: threads, cache blocking, and what is fused around the register tiles.
#ifndef MAGICPIG_CPU_LINEAR_H_
#define MAGICPIG_CPU_LINEAR_H_

#include <magicpig/pool.h>

#include "memory.h"
#include "weight.h"

namespace magicpig::cpu {

struct LinearArgs {
  const float* x = nullptr;     // (rows, weight.cols)
  size_t rows = 0;              // at least 1
  const float* norm = nullptr;  // (weight.cols): RMS-normalise each row of x first; null for the rows as they are
  float epsilon = 0;
  const float* bias = nullptr;  // (weight.rows); null for none. Not with a gated weight
  bool accumulate = false;      // add to out. Not with a gated weight
  float* out = nullptr;         // (rows, weight.outputs())
};

// Scratch memory of products, kept between calls.
class LinearScratch {
 public:
  // Room for a product. False when the system has no memory.
  bool Reserve(size_t packed_bytes, size_t thread_bytes, uint32_t threads);

  std::byte* packed() const { return packed_.data(); }
  std::byte* thread(uint32_t index) const { return threads_.data() + index * thread_bytes_; }

 private:
  Block packed_;
  Block threads_;
  size_t thread_bytes_ = 0;
};

// out (+)= norm(x) W^T + bias, or SwiGLU of it for a gated weight. A row's result depends on that row and the weight alone,
// bit for bit. False, with nothing written, when there is no memory for scratch.
bool Linear(const magicpig_pool& pool, const Kernels& kernels, LinearScratch& scratch, const Weight& weight,
            const LinearArgs& args);

}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_LINEAR_H_
