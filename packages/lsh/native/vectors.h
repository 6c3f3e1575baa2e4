// Rows of float32 or bfloat16, from a caller or kept.
#ifndef MAGICPIG_LSH_VECTORS_H_
#define MAGICPIG_LSH_VECTORS_H_

#include <bit>
#include <cstddef>
#include <cstdint>

namespace magicpig::lsh {

enum class Element : uint32_t { kNone = 0, kF32 = 1, kBf16 = 2 };

inline size_t ElementBytes(Element element) {
  return element == Element::kF32 ? sizeof(float) : element == Element::kBf16 ? sizeof(uint16_t) : 0;
}

// Rows [n][dim] in somebody's memory.
struct Vectors {
  const void* data;
  Element element;  // kF32 or kBf16

  // Rows [first, first + rows) as float32: where they are, or converted to `space`.
  const float* Rows(size_t first, size_t rows, size_t dim, float* space) const {
    if (element == Element::kF32) return static_cast<const float*>(data) + first * dim;
    const auto* from = static_cast<const uint16_t*>(data) + first * dim;
    for (size_t i = 0; i < rows * dim; ++i) space[i] = std::bit_cast<float>(uint32_t{from[i]} << 16);
    return space;
  }
};

// The nearest bfloat16 of a finite value, ties to even; too large ones become infinite.
inline uint16_t ToBf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

}  // namespace magicpig::lsh

#endif  // MAGICPIG_LSH_VECTORS_H_
