// Normal random numbers by index: value i depends on the seed and i alone, so any part can be made anywhere, in any order.
//
// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) with the seed as key and i / 4 as
// counter gives four words; each pair of words gives two normals by the Box-Muller transform. Logarithm, sine and cosine are
// polynomials in plain float32 multiplications and additions (no fused ones, no library calls), so every processor and
// compiler that keeps IEEE arithmetic makes the same bits. Files that include this are compiled with -ffp-contract=off.
#ifndef MAGICPIG_CPU_RANDOM_NORMAL_H_
#define MAGICPIG_CPU_RANDOM_NORMAL_H_

#include <math.h>

#include "float16.h"

namespace magicpig::cpu {
namespace {

// Counters handled together, so that the compiler can put them into vectors.
constexpr size_t kRandomBatch = 16;

// Ten rounds for kRandomBatch counters under one key; words[w][i] is word w of counter i, before and after.
inline void Philox4x32(uint64_t key, uint32_t (&words)[4][kRandomBatch]) {
  for (size_t i = 0; i < kRandomBatch; ++i) {
    uint32_t c0 = words[0][i], c1 = words[1][i], c2 = words[2][i], c3 = words[3][i];
    uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < 10; ++round) {
      const uint64_t p0 = uint64_t{0xD2511F53u} * c0;
      const uint64_t p1 = uint64_t{0xCD9E8D57u} * c2;
      c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
      c1 = static_cast<uint32_t>(p1);
      c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
      c3 = static_cast<uint32_t>(p0);
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    words[0][i] = c0;
    words[1][i] = c1;
    words[2][i] = c2;
    words[3][i] = c3;
  }
}

// Natural logarithm of x in [2^-24, 1]; absolute error under 1e-6. Coefficients of the minimax polynomial for log(1 + f)
// on [sqrt(1/2) - 1, sqrt(2) - 1] from Cephes (logf).
inline float UnitLog(float x) {
  const uint32_t bits = BitsOf(x);
  // Split so that the mantissa lies in [sqrt(1/2), sqrt(2)).
  const uint32_t shifted = bits - 0x3f3504f3u;
  const int32_t exponent = static_cast<int32_t>(shifted) >> 23;
  const float f = FromBits(bits - (static_cast<uint32_t>(exponent) << 23)) - 1.0f;
  const float e = static_cast<float>(exponent);
  const float z = f * f;
  float p = 7.0376836292e-2f;
  p = p * f + -1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f + -1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f + -1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f + -2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  return f + (p * f * z - 0.5f * z) + e * 0.693147182f;
}

// Sine and cosine of pi/4 * t for t in [-1, 1]: Cephes' sinf and cosf polynomials.
inline void EighthTurn(float t, float* sine, float* cosine) {
  const float x = t * 0.785398163f;
  const float z = x * x;
  float s = -1.9515295891e-4f;
  s = s * z + 8.3321608736e-3f;
  s = s * z + -1.6666654611e-1f;
  *sine = s * z * x + x;
  float c = 2.443315711809948e-5f;
  c = c * z + -1.388731625493765e-3f;
  c = c * z + 4.166664568298827e-2f;
  *cosine = c * z * z - 0.5f * z + 1.0f;
}

// Two words to two independent standard normals.
inline void BoxMuller(uint32_t a, uint32_t b, float* first, float* second) {
  const float u = static_cast<float>(static_cast<int32_t>(a >> 8) + 1) * 0x1p-24f;  // (0, 1]
  const float radius = sqrtf(-2.0f * UnitLog(u));
  // The angle: two bits choose the quarter turn, 23 bits a point in the eighth turn to either side of its middle.
  const float t = static_cast<float>(static_cast<int32_t>(b >> 2 & 0x7fffffu) - 0x400000) * 0x1p-22f;
  float sine, cosine;
  EighthTurn(t, &sine, &cosine);
  const bool swap = (b & 1u) != 0;
  const float negate = (b & 2u) != 0 ? -radius : radius;
  *first = negate * (swap ? sine : cosine);
  *second = negate * (swap ? -cosine : sine);
}

// Values first .. first + count of the stream, times std, plus mean. first and count are multiples of 4.
inline void RandomNormal(uint64_t seed, uint64_t first, size_t count, float std, float mean, float* out) {
  for (size_t done = 0; done < count; done += 4 * kRandomBatch) {
    uint32_t words[4][kRandomBatch];
    for (size_t i = 0; i < kRandomBatch; ++i) {
      const uint64_t counter = (first + done) / 4 + i;
      words[0][i] = static_cast<uint32_t>(counter);
      words[1][i] = static_cast<uint32_t>(counter >> 32);
      words[2][i] = words[3][i] = 0;
    }
    Philox4x32(seed, words);
    float normal[4][kRandomBatch];
    for (size_t i = 0; i < kRandomBatch; ++i) BoxMuller(words[0][i], words[1][i], &normal[0][i], &normal[1][i]);
    for (size_t i = 0; i < kRandomBatch; ++i) BoxMuller(words[2][i], words[3][i], &normal[2][i], &normal[3][i]);
    float values[kRandomBatch][4];
    for (size_t i = 0; i < kRandomBatch; ++i) {
      for (size_t j = 0; j < 4; ++j) values[i][j] = normal[j][i] * std + mean;
    }
    const size_t left = count - done < 4 * kRandomBatch ? count - done : 4 * kRandomBatch;
    memcpy(out + done, values, left * sizeof(float));
  }
}

}  // namespace
}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_RANDOM_NORMAL_H_
