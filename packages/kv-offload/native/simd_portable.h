// The vector interface of the attention kernels in plain C++: the definition of what each operation does, and the path
// of machines with no other. The other simd_*.h files offer the same members.
#ifndef MAGICPIG_KV_SIMD_PORTABLE_H_
#define MAGICPIG_KV_SIMD_PORTABLE_H_

#include <cstdint>
#include <cstring>

namespace magicpig::kv {
namespace {  // each source file has its own

struct Portable {
  static constexpr int kLanes = 8;
  static constexpr int kRegisters = 8;     // vectors of sums that fit beside the operands
  static constexpr int kTileRows = 4;      // rows and vectors of a matrix-product micro-tile
  static constexpr int kTileVectors = 2;
  struct F {
    float lane[kLanes];
  };

  static F Set1(float x) {
    F r;
    for (float& lane : r.lane) lane = x;
    return r;
  }
  static F Zero() { return Set1(0.0f); }
  static F Load(const float* p) {
    F r;
    std::memcpy(r.lane, p, sizeof r.lane);
    return r;
  }
  static void Store(float* p, F a) { std::memcpy(p, a.lane, sizeof a.lane); }
  // kLanes bfloat16 as float32.
  static F LoadBf16(const void* p) {
    uint16_t half[kLanes];
    std::memcpy(half, p, sizeof half);
    uint32_t bits[kLanes];
    for (int i = 0; i < kLanes; ++i) bits[i] = static_cast<uint32_t>(half[i]) << 16;
    F r;
    std::memcpy(r.lane, bits, sizeof bits);
    return r;
  }
  // kLanes IEEE half precision as float32. Shifted into float32's fields the exponent is too small by 112, which a
  // product puts right for normal numbers and subnormal ones alike; infinities and NaN keep an all-ones exponent.
  static F LoadF16(const void* p) {
    uint16_t half[kLanes];
    std::memcpy(half, p, sizeof half);
    F r;
    for (int i = 0; i < kLanes; ++i) {
      const uint32_t magnitude = (half[i] & 0x7fffu) << 13;
      float x;
      std::memcpy(&x, &magnitude, sizeof x);
      x *= 0x1p112f;
      uint32_t bits;
      std::memcpy(&bits, &x, sizeof bits);
      bits |= (half[i] & 0x8000u) << 16 | (magnitude >= 0x7c00u << 13 ? 0x7f800000u : 0);
      std::memcpy(&r.lane[i], &bits, sizeof bits);
    }
    return r;
  }
  // kLanes signed bytes as float32.
  static F LoadInt8(const void* p) {
    int8_t bytes[kLanes];
    std::memcpy(bytes, p, sizeof bytes);
    F r;
    for (int i = 0; i < kLanes; ++i) r.lane[i] = bytes[i];
    return r;
  }
  static F Add(F a, F b) {
    for (int i = 0; i < kLanes; ++i) a.lane[i] += b.lane[i];
    return a;
  }
  static F Sub(F a, F b) {
    for (int i = 0; i < kLanes; ++i) a.lane[i] -= b.lane[i];
    return a;
  }
  static F Mul(F a, F b) {
    for (int i = 0; i < kLanes; ++i) a.lane[i] *= b.lane[i];
    return a;
  }
  // a * b + c
  static F Fma(F a, F b, F c) {
    for (int i = 0; i < kLanes; ++i) c.lane[i] += a.lane[i] * b.lane[i];
    return c;
  }
  static F Max(F a, F b) {
    for (int i = 0; i < kLanes; ++i) a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
    return a;
  }
  static F Min(F a, F b) {
    for (int i = 0; i < kLanes; ++i) a.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i];
    return a;
  }
  // a where x >= limit, otherwise 0
  static F ZeroBelow(F a, F x, float limit) {
    for (int i = 0; i < kLanes; ++i) a.lane[i] = x.lane[i] >= limit ? a.lane[i] : 0.0f;
    return a;
  }
  // To the nearest integer, |a| < 2^22: adding and taking away 1.5 * 2^23 leaves no fraction bits.
  static F Round(F a) {
    for (float& lane : a.lane) {
      volatile float shifted = lane + 12582912.0f;
      lane = shifted - 12582912.0f;
    }
    return a;
  }
  // 2^a for integers a in [-126, 127]
  static F Exp2(F a) {
    for (float& lane : a.lane) {
      const uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(lane) + 127) << 23;
      std::memcpy(&lane, &bits, sizeof bits);
    }
    return a;
  }
  static float Sum(F a) {
    float r = 0.0f;
    for (const float lane : a.lane) r += lane;
    return r;
  }
  static float Largest(F a) {
    float r = a.lane[0];
    for (const float lane : a.lane) r = lane > r ? lane : r;
    return r;
  }
  // Lane i of the result is the sum of the lanes of a[i], i < kLanes.
  static F SumEach(const F* a) {
    F r;
    for (int i = 0; i < kLanes; ++i) r.lane[i] = Sum(a[i]);
    return r;
  }
  // base[index[i]]
  static F Gather(const float* base, const uint32_t* index) {
    F r;
    for (int i = 0; i < kLanes; ++i) r.lane[i] = base[index[i]];
    return r;
  }
  // Linear interpolation of table at x in [0, size - 1].
  static F Interpolate(const float* table, uint32_t size, F x) {
    for (float& lane : x.lane) {
      const auto i = static_cast<uint32_t>(lane);
      const uint32_t low = i < size - 2 ? i : size - 2;
      lane = table[low] + (table[low + 1] - table[low]) * (lane - static_cast<float>(low));
    }
    return x;
  }
};

}  // namespace
}  // namespace magicpig::kv

#endif  // MAGICPIG_KV_SIMD_PORTABLE_H_
