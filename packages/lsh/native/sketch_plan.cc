#include "sketch_plan.h"

#include <algorithm>
#include <cmath>

namespace magicpig::lsh {
namespace {

// e^(-1/16) and e^(-1/8): the weight in the middle of the first bin, and from one bin to the next.
constexpr double kFirstWeight = 0.9394130628134758;
constexpr double kNextWeight = 0.8824969025845955;
// More than any weight's inverse: every key is drawn.
constexpr double kAllTau = 1e30;

}  // namespace

SketchPlan PlanDraw(const uint32_t* counts, size_t counted, size_t keys, const SketchBudget& budget, double floor_share,
                    double inflation) {
  double weight[kSketchBins];
  weight[0] = kFirstWeight;
  for (int i = 1; i < kSketchBins; ++i) weight[i] = weight[i - 1] * kNextWeight;

  double total = 0;
  for (int i = kSketchBins - 1; i >= 0; --i) total += counts[i] * weight[i];
  const double floor = floor_share * total / static_cast<double>(counted);

  // Of the bins from i on: keys, sum of w + floor, of w^2 / (w + floor) and of w^2. When these are the keys with pi < 1, the variance of the
  // estimated total is their ratios / tau - squares.
  double sums[kSketchBins + 1] = {}, ratios[kSketchBins + 1] = {}, squares[kSketchBins + 1] = {};
  for (int i = kSketchBins - 1; i >= 0; --i) {
    const double raised = weight[i] + floor, square = weight[i] * weight[i];
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
      if (*tau * (weight[i] + floor) <= 1) return i;
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
  return {static_cast<float>(tau * kUniformOne), static_cast<float>(floor), std::sqrt(variance) / total * inflation};
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
