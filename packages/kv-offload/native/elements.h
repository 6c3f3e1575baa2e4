// Element types of stored rows: how a row is read into vectors, written and converted.
#ifndef MAGICPIG_KV_ELEMENTS_H_
#define MAGICPIG_KV_ELEMENTS_H_

#include <cstdint>
#include <cstring>

#include "kernels.h"

namespace magicpig::kv {

template <class V>
struct F32Elements {
  static constexpr uint32_t kBytes = 4;
  static constexpr bool kScaled = false;  // whether a row is its elements times Scale()
  static MAGICPIG_INLINE typename V::F Load(const uint8_t* row, uint32_t i) {
    return V::Load(reinterpret_cast<const float*>(row) + i);
  }
  static MAGICPIG_INLINE typename V::F LoadHalf(const uint8_t* row, uint32_t i) {
    return V::LoadHalf(reinterpret_cast<const float*>(row) + i);
  }
  static void StoreRow(const float* row, uint32_t dim, uint8_t* stored) { std::memcpy(stored, row, dim * 4); }
  static void LoadRow(const uint8_t* stored, uint32_t dim, float* row) { std::memcpy(row, stored, dim * 4); }
};

template <class V>
MAGICPIG_INLINE uint16_t ToBf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const uint32_t quiet_nan = (bits >> 16) | 0x40;  // rounding could carry a NaN into an infinity
  return static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? quiet_nan : rounded);
}

template <class V>
struct Bf16Elements {
  static constexpr uint32_t kBytes = 2;
  static constexpr bool kScaled = false;
  static MAGICPIG_INLINE typename V::F Load(const uint8_t* row, uint32_t i) { return V::LoadBf16(row + 2 * i); }
  static MAGICPIG_INLINE typename V::F LoadHalf(const uint8_t* row, uint32_t i) { return V::LoadBf16Half(row + 2 * i); }
  static void StoreRow(const float* row, uint32_t dim, uint8_t* stored) {
    auto* out = reinterpret_cast<uint16_t*>(stored);
    for (uint32_t i = 0; i < dim; ++i) out[i] = ToBf16<V>(row[i]);
  }
  static void LoadRow(const uint8_t* stored, uint32_t dim, float* row) {
    for (uint32_t i = 0; i < dim; ++i) {
      uint16_t half;
      std::memcpy(&half, stored + 2 * i, sizeof half);
      const uint32_t bits = static_cast<uint32_t>(half) << 16;
      std::memcpy(row + i, &bits, sizeof bits);
    }
  }
};

// float32 to IEEE half precision, to nearest even.
template <class V>
MAGICPIG_INLINE uint16_t ToF16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);   // NaN
  if (magnitude >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // rounds to infinity
  if (magnitude < 0x38800000) {  // subnormal: adding 1/2 leaves the multiples of 2^-24 in the lowest bits
    float shifted;
    std::memcpy(&shifted, &magnitude, sizeof shifted);
    shifted += 0.5f;
    std::memcpy(&bits, &shifted, sizeof bits);
    return static_cast<uint16_t>(sign | (bits - 0x3f000000));
  }
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13));
}

template <class V>
struct F16Elements {
  static constexpr uint32_t kBytes = 2;
  static constexpr bool kScaled = false;
  static MAGICPIG_INLINE typename V::F Load(const uint8_t* row, uint32_t i) { return V::LoadF16(row + 2 * i); }
  static MAGICPIG_INLINE typename V::F LoadHalf(const uint8_t* row, uint32_t i) { return V::LoadF16Half(row + 2 * i); }
  static void StoreRow(const float* row, uint32_t dim, uint8_t* stored) {
    auto* out = reinterpret_cast<uint16_t*>(stored);
    for (uint32_t i = 0; i < dim; ++i) out[i] = ToF16<V>(row[i]);
  }
  static void LoadRow(const uint8_t* stored, uint32_t dim, float* row) {
    uint32_t i = 0;
    for (; i + V::kLanes <= dim; i += V::kLanes) V::Store(row + i, Load(stored, i));
    if constexpr (V::kLanes == 16) {
      if (i < dim) {
        float rest[16];
        V::Store(rest, LoadHalf(stored, i));
        std::memcpy(row + i, rest, (dim - i) * sizeof(float));
      }
    }
  }
};

template <class V>
struct Int8Elements {
  static constexpr uint32_t kBytes = 1;
  static constexpr bool kScaled = true;
  static MAGICPIG_INLINE typename V::F Load(const uint8_t* row, uint32_t i) { return V::LoadInt8(row + i); }
  static MAGICPIG_INLINE typename V::F LoadHalf(const uint8_t* row, uint32_t i) { return V::LoadInt8Half(row + i); }
  static MAGICPIG_INLINE float Scale(const uint8_t* row, uint32_t dim) {
    float scale;
    std::memcpy(&scale, row + dim, sizeof scale);
    return scale;
  }
  // The largest element becomes 127 or -127.
  static void StoreRow(const float* row, uint32_t dim, uint8_t* stored) {
    float largest = 0.0f;
    for (uint32_t i = 0; i < dim; ++i) largest = __builtin_fabsf(row[i]) > largest ? __builtin_fabsf(row[i]) : largest;
    const float scale = largest / 127.0f, inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    for (uint32_t i = 0; i < dim; ++i) {
      float x = row[i] * inverse;
      x = x > 127.0f ? 127.0f : x > -127.0f ? x : -127.0f;  // rounding of 1 / scale, and NaN
      stored[i] = static_cast<uint8_t>(static_cast<int8_t>(x + (x < 0.0f ? -0.5f : 0.5f)));
    }
    std::memcpy(stored + dim, &scale, sizeof scale);
  }
  static void LoadRow(const uint8_t* stored, uint32_t dim, float* row) {
    const float scale = Scale(stored, dim);
    for (uint32_t i = 0; i < dim; ++i) row[i] = static_cast<int8_t>(stored[i]) * scale;
  }
};

}  // namespace magicpig::kv

#endif  // MAGICPIG_KV_ELEMENTS_H_
