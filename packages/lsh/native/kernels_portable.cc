// The specification of all kernels.
#include <cstring>

#include "hadamard.h"
#include "kernels.h"
#include "quantise.h"

namespace magicpig::lsh {
namespace {

void Signs(const int16_t* x, size_t rows, size_t pairs, const int16_t* weights, size_t blocks, uint16_t* signs,
           size_t signs_stride) {
  for (size_t row = 0; row < rows; ++row) {
    for (size_t block = 0; block < blocks; ++block) {
      const int16_t* v = x + row * pairs * 2;
      const int16_t* w = weights + block * pairs * kColumns * 2;
      int32_t sums[kColumns] = {};
      for (size_t pair = 0; pair < pairs; ++pair, v += 2, w += kColumns * 2) {
        for (size_t c = 0; c < kColumns; ++c) sums[c] += v[0] * w[2 * c] + v[1] * w[2 * c + 1];
      }
      uint32_t bits = 0;
      for (size_t c = 0; c < kColumns; ++c) bits |= static_cast<uint32_t>(sums[c] > 0) << c;
      signs[row * signs_stride + block] = static_cast<uint16_t>(bits);
    }
  }
}

size_t Gather(const Bucket* buckets, size_t n, uint16_t* out) {
  size_t count = 0;
  for (size_t i = 0; i < n; ++i) {
    std::memcpy(out + count, buckets[i].ids, buckets[i].count * sizeof *out);
    count += buckets[i].count;
  }
  return count;
}

template <typename Counter>
size_t Collect(Counter* counters, size_t n, size_t limit, uint32_t least, uint32_t base, uint32_t* ids) {
  size_t count = 0;
  for (size_t i = 0; i < limit; ++i) {
    ids[count] = base + static_cast<uint32_t>(i);
    count += counters[i] >= least;
  }
  for (size_t i = 0; i < n; ++i) counters[i] = 0;
  return count;
}

size_t Equal(const uint16_t* a, const uint16_t* b, size_t tables) {
  size_t count = 0;
  for (size_t t = 0; t < tables; ++t) count += a[t] == b[t];
  return count;
}

}  // namespace

const Kernels kPortableKernels = {"portable", Quantise, Signs, Hadamard, Dot, Gather, Collect<uint8_t>, Collect<uint16_t>, Equal};

}  // namespace magicpig::lsh
