// From a histogram of scores and a budget to the threshold that keys are drawn by.
#ifndef MAGICPIG_LSH_SKETCH_PLAN_H_
#define MAGICPIG_LSH_SKETCH_PLAN_H_

#include <cstddef>
#include <cstdint>

#include "sketch_kernels.h"

namespace magicpig::lsh {

// How many keys to read: a count, a share of the keys, or as many as bring the relative standard error of the sum of all weights down to
// `value`, at least the share `least` and at most the share `most`.
struct SketchBudget {
  enum class Kind : uint32_t { kCount, kShare, kError };
  Kind kind;
  double value;
  double least, most;  // for kError
};

struct SketchPlan {
  double tau, floor;  // pi = min(1, tau (e^(-bin / 4) + floor))
  int32_t base;       // bin of level 0, see sketch_kernels.h
  double error;       // relative standard error of the sum of e^score over all keys, as estimated
};

// counts [kSketchBins] as `histogram` makes them, of `counted` out of `keys` keys; both at least 1. floor_share is the floor in units of the
// mean weight. `inflation` is how much larger the standard error is because the weights are estimates, see NoiseInflation. Doubles are
// rounded after each operation, sums run from the last bin to the first.
SketchPlan PlanDraw(const uint32_t* counts, size_t counted, size_t keys, const SketchBudget& budget, double floor_share, double inflation);

// The rank whose threshold is nearest to pi 2^16, by the five leading bits of that and 16; kSketchRanks for pi of at least 1.
uint8_t RankOf(double pi);

// What each level is drawn by. Logarithms are within 1e-6.
void PlanLevels(const SketchPlan& plan, SketchDraw& draw);

// e^(v / 2), for the variance v that a score has given its estimate. Let t be the tempered score: the expectations of e^s and e^2s given t
// are e^(t + v/2) and e^(2t + 2v), up to constants, so the squared relative error of a sum of weights grows by e^v.
double NoiseInflation(double variance);

}  // namespace magicpig::lsh

#endif  // MAGICPIG_LSH_SKETCH_PLAN_H_
