#include "projection.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "philox.h"

namespace magicpig::lsh {
namespace {

static_assert(std::endian::native == std::endian::little, "sign masks are read as one stream of bits");

// round(2^31 erf(m / (16 sqrt 2))), m = 1..63: where |g| passes m / 16.
constexpr uint32_t kQuantiles[63] = {
    107020574,  213624049,  319398199,  423940441,  526862429,  627794368,  726388972,  822325010,  915310351,
    1005084500, 1091420552, 1174126581, 1253046430, 1328059925, 1399082539, 1466064521, 1528989550, 1587872958,
    1642759586, 1693721325, 1740854428, 1784276636, 1824124209, 1860548903, 1893714977, 1923796256, 1950973325,
    1975430879, 1997355270, 2016932268, 2034345075, 2049772575, 2063387850, 2075356946, 2085837890, 2094979938,
    2102923050, 2109797564, 2115724052, 2120813339, 2125166657, 2128875924, 2132024106, 2134685662, 2136927043,
    2138807224, 2140378265, 2141685880, 2142769997, 2143665313, 2144401827, 2145005344, 2145497953, 2145898468,
    2146222837, 2146484514, 2146694792, 2146863108, 2146997311, 2147103899, 2147188222, 2147254673, 2147306835,
};

constexpr int32_t kLargestWeight = 127;
constexpr int32_t kLargestRounded = 32767;

}  // namespace

int8_t ProjectionWeight(uint32_t word) {
  const uint32_t magnitude = word & 0x7fffffffu;
  const auto m = std::upper_bound(std::begin(kQuantiles), std::end(kQuantiles), magnitude) - std::begin(kQuantiles);
  const int weight = 2 * static_cast<int>(m) + 1;
  return static_cast<int8_t>(word >> 31 != 0 ? -weight : weight);
}

Projection::Projection(uint32_t dim, uint32_t bits, uint32_t tables, uint64_t seed)
    : dim_(dim),
      bits_(bits),
      tables_(tables),
      pairs_((size_t{dim} + 1) / 2),
      blocks_((size_t{bits} * tables + kColumns - 1) / kColumns),
      signs_stride_(blocks_ + 2),
      limit_(std::min<int32_t>(kLargestRounded, INT32_MAX / (kLargestWeight * static_cast<int32_t>(dim)))),
      weights_(blocks_ * pairs_ * kColumns * 2) {
  std::memset(weights_.data(), 0, weights_.bytes());
  const auto key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (uint32_t t = 0; t < tables; ++t) {
    for (uint32_t j = 0; j < bits; ++j) {
      const size_t column = size_t{t} * bits + j;
      int16_t* w = weights_.data() + (column / kColumns * pairs_ * kColumns + column % kColumns) * 2;
      for (uint32_t first = 0; first < dim; first += 4) {
        const PhiloxBlock words = Philox({first / 4, j, t, 0}, key0, key1);
        for (uint32_t i = first; i < std::min(first + 4, dim); ++i) {
          w[i / 2 * kColumns * 2 + i % 2] = ProjectionWeight(words[i % 4]);
        }
      }
    }
  }
}

bool Projection::Hash(const Kernels& kernels, const float* x, size_t rows, const float* centre, Scratch& scratch,
                      float* inverse_norms) const {
  for (size_t row = 0; row < rows; ++row) {
    float inverse_norm;
    if (!kernels.quantise(x + row * dim_, centre, dim_, limit_, scratch.rounded.data() + row * pairs_ * 2, &inverse_norm)) {
      return false;
    }
    if (inverse_norms != nullptr) inverse_norms[row] = inverse_norm;
  }
  kernels.signs(scratch.rounded.data(), rows, pairs_, weights_.data(), blocks_, scratch.signs.data(), signs_stride_);
  return true;
}

void Projection::Codes(const Scratch& scratch, size_t rows, uint16_t* codes, size_t row_stride, size_t table_stride) const {
  const uint32_t mask = (1u << bits_) - 1;
  for (size_t row = 0; row < rows; ++row) {
    const auto* stream = reinterpret_cast<const uint8_t*>(scratch.signs.data() + row * signs_stride_);
    size_t bit = 0;
    for (size_t t = 0; t < tables_; ++t, bit += bits_) {
      uint32_t window;
      std::memcpy(&window, stream + bit / 8, sizeof window);
      codes[row * row_stride + t * table_stride] = static_cast<uint16_t>(window >> bit % 8 & mask);
    }
  }
}

}  // namespace magicpig::lsh
