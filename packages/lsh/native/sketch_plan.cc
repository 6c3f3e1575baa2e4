#include "sketch_plan.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

namespace magicpig::lsh {
namespace {

// e^(-1/4): from the weight of one bin to the next.
constexpr double kNextWeight = 0.7788007830714049;
// More than any weight's inverse: every key is drawn.
constexpr double kAllTau = 1e30;

// Of each bin.
constexpr auto kWeights = [] {
  std::array<double, kSketchBins> weight{1};
  for (int i = 1; i < kSketchBins; ++i) weight[i] = weight[i - 1] * kNextWeight;
  return weight;
}();

// log(x / 2^16): the logarithm of the mantissa by the polynomial of Cephes' logf (Moshier), that of the exponent by a product.
float LogOf(float x) {
  constexpr int32_t kRootHalf = 0x3f3504f3;  // bits of sqrt(1/2)
  const auto bits = std::bit_cast<int32_t>(x);
  const int32_t exponent = (bits - kRootHalf) >> 23;
  const float z = std::bit_cast<float>(bits - static_cast<int32_t>(static_cast<uint32_t>(exponent) << 23)) - 1.0f;
  float p = 7.0376836292e-2f * z - 1.1514610310e-1f;
  p = p * z + 1.1676998740e-1f;
  p = p * z - 1.2420140846e-1f;
  p = p * z + 1.4249322787e-1f;
  p = p * z - 1.6668057665e-1f;
  p = p * z + 2.0000714765e-1f;
  p = p * z - 2.4999993993e-1f;
  p = p * z + 3.3333331174e-1f;
  const float square = z * z;
  const float log = z + (p * z * square - 0.5f * square);
  return log + static_cast<float>(exponent - 16) * 0.69314718f;
}

}  // namespace

SketchPlan PlanDraw(const uint32_t* counts, size_t counted, size_t keys, const SketchBudget& budget, double floor_share,
                    double inflation) {
  double total = 0;
  for (int i = kSketchBins - 1; i >= 0; --i) total += counts[i] * kWeights[i];
  const double floor = floor_share * total / static_cast<double>(counted);

  // Of the bins from i on: keys, sum of w + floor, of w^2 / (w + floor) and of w^2. When these are the keys with pi < 1, the variance of the
  // estimated total is their ratios / tau - squares.
  double sums[kSketchBins + 1] = {}, ratios[kSketchBins + 1] = {}, squares[kSketchBins + 1] = {};
  for (int i = kSketchBins - 1; i >= 0; --i) {
    const double raised = kWeights[i] + floor, square = kWeights[i] * kWeights[i];
    sums[i] = sums[i + 1] + counts[i] * raised;
    ratios[i] = ratios[i + 1] + counts[i] * (square / raised);
    squares[i] = squares[i + 1] + counts[i] * square;
  }
  // Totals stand for all keys: a variance relative to the squared total shrinks as the keys grow.
  const double part = static_cast<double>(counted) / static_cast<double>(keys);

  // The first bin with pi < 1, for a tau that depends on it and grows with it.
  const auto solve = [&](auto&& tau_from, double* tau) {
    double above = 0;
    for (int i = 0; i < kSketchBins; ++i) {
      *tau = tau_from(i, above);
      if (*tau * (kWeights[i] + floor) <= 1) return i;
      above += counts[i];
    }
    *tau = kAllTau;
    return kSketchBins;
  };
  const auto by_count = [&](double expected, double* tau) {
    if (expected >= static_cast<double>(counted)) {
      *tau = kAllTau;
      return kSketchBins;
    }
    return solve([&](int i, double above) { return (expected - above) / sums[i]; }, tau);
  };

  double tau;
  int first;
  if (budget.kind == SketchBudget::Kind::kError) {
    const double error = budget.value / inflation;
    const double variance = error * error * total * total / part;
    first = solve([&](int i, double) { return ratios[i] / (variance + squares[i]); }, &tau);
    double expected = tau * sums[first];
    for (int i = 0; i < first; ++i) expected += counts[i];
    const double bounded = std::clamp(expected, budget.least * static_cast<double>(counted), budget.most * static_cast<double>(counted));
    if (bounded != expected || expected >= static_cast<double>(counted)) first = by_count(bounded, &tau);
  } else {
    const double expected = budget.kind == SketchBudget::Kind::kShare ? budget.value * static_cast<double>(counted) : budget.value * part;
    first = by_count(expected, &tau);
  }
  const double variance = std::max(ratios[first] / tau - squares[first], 0.0) * part;
  return {tau, floor, std::max(first - 1, 0), std::sqrt(variance) / total * inflation};
}

uint8_t RankOf(double pi) {
  if (pi >= 1) return kSketchRanks;
  const double raised = pi * 0x1p16 + 16;
  const int places = static_cast<int>(std::bit_cast<uint64_t>(raised) >> 52) - (1023 + 4);
  const int rank = places * 16 + static_cast<int>(raised / (1 << places) + 0.5) - 16;
  return static_cast<uint8_t>(std::clamp(rank, 1, kSketchRanks - 1));
}

void PlanLevels(const SketchPlan& plan, SketchDraw& draw) {
  // Of each rank.
  static const auto logs = [] {
    std::array<float, kSketchRanks + 1> logs{};
    for (uint32_t rank = 1; rank <= kSketchRanks; ++rank) logs[rank] = LogOf(static_cast<float>(RankThreshold(rank)));
    return logs;
  }();
  for (int level = 0; level < kSketchLevels; ++level) {
    const double weight = kWeights[std::min(plan.base + level, kSketchBins - 1)];
    draw.ranks[level] = RankOf(plan.tau * (weight + plan.floor));
    draw.logs[level] = logs[draw.ranks[level]];
  }
}

double NoiseInflation(double variance) {
  // (1 + x / 2^10)^(2^10): the same on every machine, which a library's exp is not.
  constexpr int kSquarings = 10;
  constexpr double kMost = 50;
  double power = 1 + std::min(variance, kMost) / 2 / (1 << kSquarings);
  for (int i = 0; i < kSquarings; ++i) power *= power;
  return power;
}

}  // namespace magicpig::lsh
