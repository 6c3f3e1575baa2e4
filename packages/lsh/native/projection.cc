#include "projection.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "philox.h"

namespace magicpig::lsh {
namespace {

static_assert(Projection::kRows % kLanes == 0);
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
// Butterflies that have not been scaled yet grow a norm by 2 sqrt(2); 16 bits must hold that.
constexpr int32_t kHadamardNorm = 11500;
constexpr size_t kLeastSize = 64;
constexpr size_t kRotations = 3;

constexpr size_t kTile = 8;

// to[i * to_stride + r] = from[r * from_stride + i] for i, r < kTile, by three perfect shuffles.
template <typename T>
void TransposeTile(const T* from, size_t from_stride, T* to, size_t to_stride) {
  static_assert(sizeof(T) == sizeof(int16_t));
  using Row = int16_t __attribute__((vector_size(kTile * sizeof(int16_t))));
  Row a[kTile], b[kTile];
  for (size_t r = 0; r < kTile; ++r) std::memcpy(&a[r], from + r * from_stride, sizeof a[r]);
  for (int round = 0; round < 3; ++round) {
    for (size_t r = 0; r < kTile / 2; ++r) {
      b[2 * r] = __builtin_shufflevector(a[r], a[r + kTile / 2], 0, 8, 1, 9, 2, 10, 3, 11);
      b[2 * r + 1] = __builtin_shufflevector(a[r], a[r + kTile / 2], 4, 12, 5, 13, 6, 14, 7, 15);
    }
    std::memcpy(a, b, sizeof a);
  }
  for (size_t i = 0; i < kTile; ++i) std::memcpy(to + i * to_stride, &a[i], sizeof a[i]);
}

}  // namespace

int8_t ProjectionWeight(uint32_t word) {
  const uint32_t magnitude = word & 0x7fffffffu;
  const auto m = std::upper_bound(std::begin(kQuantiles), std::end(kQuantiles), magnitude) - std::begin(kQuantiles);
  const int weight = 2 * static_cast<int>(m) + 1;
  return static_cast<int8_t>(word >> 31 != 0 ? -weight : weight);
}

void Projection::Scratch::Prepare(const Projection& projection) {
  if (projection.kind_ == ProjectionKind::kGaussian) {
    rounded.Reserve(kRows * projection.pairs_ * 2, 0);
    signs.Reserve(kRows * projection.signs_stride_, 0);
  } else {
    rounded.Reserve(kLanes * projection.size_, 0);
    std::memset(rounded.data(), 0, rounded.bytes());
    lanes.Reserve(2 * projection.size_ * kLanes, 0);
    codes.Reserve(projection.tables_ * kLanes, 0);
  }
}

Projection::Projection(ProjectionKind kind, uint32_t dim, uint32_t bits, uint32_t tables, uint64_t seed)
    : kind_(kind), seed_(seed), dim_(dim), bits_(bits), tables_(tables), pairs_((size_t{dim} + 1) / 2) {
  const size_t projections = size_t{bits} * tables;
  if (kind == ProjectionKind::kGaussian) {
    size_ = dim;
    blocks_ = (projections + kColumns - 1) / kColumns;
    limit_ = std::min<int32_t>(kLargestRounded, INT32_MAX / (kLargestWeight * static_cast<int32_t>(dim)));
    DrawWeights(seed);
  } else {
    size_ = std::max(kLeastSize, std::bit_ceil(size_t{dim}));
    blocks_ = (projections + size_ - 1) / size_;
    limit_ = kHadamardNorm;
    DrawFlips(seed);
  }
  signs_stride_ = blocks_ + 2;
}

void Projection::DrawWeights(uint64_t seed) {
  weights_ = Buffer<int16_t>(blocks_ * pairs_ * kColumns * 2);
  std::memset(weights_.data(), 0, weights_.bytes());
  const auto key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (uint32_t t = 0; t < tables_; ++t) {
    for (uint32_t j = 0; j < bits_; ++j) {
      const size_t column = size_t{t} * bits_ + j;
      int16_t* w = weights_.data() + (column / kColumns * pairs_ * kColumns + column % kColumns) * 2;
      for (uint32_t first = 0; first < dim_; first += 4) {
        const PhiloxBlock words = Philox({first / 4, j, t, 0}, key0, key1);
        for (uint32_t i = first; i < std::min(first + 4, dim_); ++i) {
          w[i / 2 * kColumns * 2 + i % 2] = ProjectionWeight(words[i % 4]);
        }
      }
    }
  }
}

void Projection::DrawFlips(uint64_t seed) {
  weights_ = Buffer<int16_t>(blocks_ * kRotations * size_);
  const auto key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  int16_t* flip = weights_.data();
  for (uint32_t b = 0; b < blocks_; ++b) {
    for (uint32_t r = 0; r < kRotations; ++r) {
      PhiloxBlock words{};
      for (uint32_t i = 0; i < size_; ++i) {
        if (i % 128 == 0) words = Philox({i / 128, r, b, 1}, key0, key1);
        *flip++ = words[i % 128 / 32] >> i % 32 & 1 ? -1 : 1;
      }
    }
  }
}

bool Projection::Hash(const Kernels& kernels, const float* x, size_t rows, const float* centre, Scratch& scratch,
                      float* inverse_norms, uint16_t* codes, size_t row_stride, size_t table_stride) const {
  float unused;
  const auto norm = [&](size_t row) { return inverse_norms != nullptr ? inverse_norms + row : &unused; };
  if (kind_ == ProjectionKind::kGaussian) {
    for (size_t row = 0; row < rows; ++row) {
      int16_t* rounded = scratch.rounded.data() + row * pairs_ * 2;
      if (!kernels.quantise(x + row * dim_, centre, dim_, limit_, false, rounded, norm(row))) return false;
    }
    kernels.signs(scratch.rounded.data(), rows, pairs_, weights_.data(), blocks_, scratch.signs.data(), signs_stride_);
    Unpack(scratch, rows, codes, row_stride, table_stride);
    return true;
  }

  int16_t* lanes = scratch.lanes.data();
  for (size_t first = 0; first < rows; first += kLanes) {
    const size_t count = std::min(kLanes, rows - first);
    // Rows are as long as a rotation, and what lies behind a vector stays zero.
    for (size_t lane = 0; lane < count; ++lane) {
      int16_t* rounded = scratch.rounded.data() + lane * size_;
      if (!kernels.quantise(x + (first + lane) * dim_, centre, dim_, limit_, true, rounded, norm(first + lane))) return false;
    }
    if (count < kLanes) std::memset(lanes, 0, size_ * kLanes * sizeof *lanes);
    for (size_t i = 0; i < size_; i += kTile) {
      for (size_t lane = 0; lane < count; lane += kTile) {
        TransposeTile(scratch.rounded.data() + lane * size_ + i, size_, lanes + i * kLanes + lane, kLanes);
      }
    }
    kernels.hadamard(lanes, size_, weights_.data(), bits_, tables_, lanes + size_ * kLanes, scratch.codes.data());
    // Whole tiles of rows of codes, where rows are what lies together.
    const size_t tiled = table_stride == 1 && count == kLanes ? tables_ / kTile * kTile : 0;
    for (size_t t = 0; t < tiled; t += kTile) {
      for (size_t lane = 0; lane < kLanes; lane += kTile) {
        TransposeTile(scratch.codes.data() + t * kLanes + lane, kLanes, codes + (first + lane) * row_stride + t, row_stride);
      }
    }
    for (size_t t = tiled; t < tables_; ++t) {
      const uint16_t* from = scratch.codes.data() + t * kLanes;
      uint16_t* to = codes + first * row_stride + t * table_stride;
      if (row_stride == 1 && count == kLanes) {
        std::memcpy(to, from, kLanes * sizeof *to);
        continue;
      }
      for (size_t lane = 0; lane < count; ++lane) to[lane * row_stride] = from[lane];
    }
  }
  return true;
}

void Projection::Unpack(const Scratch& scratch, size_t rows, uint16_t* codes, size_t row_stride, size_t table_stride) const {
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
