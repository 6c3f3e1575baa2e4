// Rounding vectors to integers, and dot products. Included by the file of each instruction set, so that each compiles it for itself.
#ifndef MAGICPIG_LSH_QUANTISE_H_
#define MAGICPIG_LSH_QUANTISE_H_

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace magicpig::lsh {
namespace {

template <bool kCentred>
bool QuantiseWith(const float* x, const float* centre, size_t dim, int32_t limit, bool by_norm, int16_t* out,
                  float* inverse_norm) {
  const auto value = [&](size_t i) { return kCentred ? x[i] - centre[i] : x[i]; };

  // The bits of magnitudes order as the magnitudes do, infinities and NaN above all others. Squares are summed in eight
  // interleaved double sums, so that every instruction set adds in the same order.
  uint32_t peaks[8] = {};
  double sums[8] = {};
  const auto take = [&](size_t lane, float v) {
    const uint32_t magnitude = std::bit_cast<uint32_t>(v) & 0x7fffffffu;
    peaks[lane] = magnitude > peaks[lane] ? magnitude : peaks[lane];
    sums[lane] += static_cast<double>(v) * static_cast<double>(v);
  };
  size_t i = 0;
  for (; i + 8 <= dim; i += 8) {
    for (size_t lane = 0; lane < 8; ++lane) take(lane, value(i + lane));
  }
  for (size_t lane = 0; i + lane < dim; ++lane) take(lane, value(i + lane));
  uint32_t largest = 0;
  for (const uint32_t peak : peaks) largest = peak > largest ? peak : largest;
  if (largest >= 0x7f800000u) return false;

  out[dim - 1 + dim % 2] = 0;  // the second of an odd dimension's last pair
  const float peak = std::bit_cast<float>(largest);
  if (peak < 0x1p-100f) {
    for (size_t k = 0; k < dim; ++k) out[k] = 0;
    *inverse_norm = 0;
    return true;
  }
  double square = 0;
  for (const double sum : sums) square += sum;
  const double norm = std::sqrt(square);
  *inverse_norm = static_cast<float>(1 / norm);

  // Adding 1.5 * 2^23 leaves the nearest integer, ties to even, in the low bits.
  constexpr float kRound = 0x1.8p23f;
  const float scale = by_norm ? static_cast<float>(limit / norm) : static_cast<float>(limit) / peak;
  for (size_t k = 0; k < dim; ++k) {
    const float shifted = value(k) * scale + kRound;
    out[k] = static_cast<int16_t>(std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRound));
  }
  return true;
}

bool Quantise(const float* x, const float* centre, size_t dim, int32_t limit, bool by_norm, int16_t* out,
                  float* inverse_norm) {
  return centre != nullptr ? QuantiseWith<true>(x, centre, dim, limit, by_norm, out, inverse_norm)
                           : QuantiseWith<false>(x, centre, dim, limit, by_norm, out, inverse_norm);
}

double Dot(const float* a, const float* b, size_t dim) {
  double sums[8] = {};
  size_t i = 0;
  for (; i + 8 <= dim; i += 8) {
    for (size_t lane = 0; lane < 8; ++lane) sums[lane] += static_cast<double>(a[i + lane]) * static_cast<double>(b[i + lane]);
  }
  for (size_t lane = 0; i + lane < dim; ++lane) sums[lane] += static_cast<double>(a[i + lane]) * static_cast<double>(b[i + lane]);
  double sum = 0;
  for (const double each : sums) sum += each;
  return sum;
}

}  // namespace
}  // namespace magicpig::lsh

#endif  // MAGICPIG_LSH_QUANTISE_H_
