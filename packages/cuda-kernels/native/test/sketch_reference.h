// Key sketches, one key and one query after the other: what the kernels must give to the bit.
#ifndef MAGICPIG_TEST_SKETCH_REFERENCE_H_
#define MAGICPIG_TEST_SKETCH_REFERENCE_H_

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "../kernels/sketch_math.h"

namespace magicpig::reference {

struct Rotated {
  std::vector<int> y;    // [size]
  bool usable;           // finite, and not too long
  double inverse_norm;   // a float32; 0 for a zero vector
};

inline Rotated rotate(const float* x, const float* centre, int dim, uint64_t seed) {
  Rotated result{std::vector<int>(static_cast<size_t>(hadamard_size(dim))), true, 0};
  std::vector<float> values(x, x + dim);
  float peak = 0;
  double sums[8] = {}, square = 0;
  for (int i = 0; i < dim; ++i) {
    if (centre != nullptr) values[i] -= centre[i];
    result.usable = result.usable && std::isfinite(values[i]);
    peak = std::fmax(peak, std::fabs(values[i]));
    sums[i % 8] += static_cast<double>(values[i]) * values[i];
  }
  if (!result.usable || peak < 0x1p-100f) return result;
  for (const double sum : sums) square += sum;
  const double norm = std::sqrt(square);
  const auto inverse_norm = static_cast<float>(1 / norm);
  result.inverse_norm = inverse_norm;
  result.usable = inverse_norm >= 0x1p-60f;
  const auto scale = static_cast<float>(kHadamardNorm / norm);
  std::vector<int>& v = result.y;
  for (int i = 0; i < dim; ++i) v[i] = static_cast<int>(std::nearbyint(values[i] * scale));
  for (int rotation = 0; rotation < kHadamardRotations; ++rotation) {
    for (size_t i = 0; i < v.size(); ++i) {
      const PhiloxWords words = philox({{static_cast<uint32_t>(i / 128), static_cast<uint32_t>(rotation), 0u, 2u}},
                                       static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
      if (words.word[i % 128 / 32] >> i % 32 & 1) v[i] = -v[i];
    }
    hadamard_transform(v, rotation == 1);
  }
  return result;
}

struct Sketch {
  std::vector<int> levels;  // [size]
  float factor;             // a bfloat16
};

inline Sketch encode(const Rotated& rotated, int bits) {
  const std::vector<int>& y = rotated.y;
  const int size = static_cast<int>(y.size()), top = (1 << bits) - 1;
  Sketch best{};
  int64_t best_dot = 0, best_square = 1;
  for (const int step : sketch_grid(size, bits).steps) {
    std::vector<int> levels(y.size());
    int64_t dot = 0, square = 0;
    for (int i = 0; i < size; ++i) {
      const double cell = std::floor(static_cast<double>(y[i]) / step) + (1 << (bits - 1));
      levels[i] = static_cast<int>(std::fmin(std::fmax(cell, 0.0), top));
      const int v = 2 * levels[i] - top;
      dot += static_cast<int64_t>(v) * y[i];
      square += static_cast<int64_t>(v) * v;
    }
    if (best.levels.empty() || dot * dot * best_square > best_dot * best_dot * square) {
      best.levels = levels;
      best_dot = dot;
      best_square = square;
    }
  }
  const bool usable = rotated.usable && rotated.inverse_norm > 0 && best_dot > 0;
  const double factor = usable ? sketch_norm(size) / (rotated.inverse_norm * static_cast<double>(best_dot)) : 0.0;
  best.factor = to_float(to_bf16(static_cast<float>(factor)));
  return best;
}

// q [size] of at most 255 in each span, and the gain.
inline float round_query(std::vector<int>& q, const std::vector<int>& y, int bits) {
  const std::vector<size_t> spans = bits >= 3 ? std::vector<size_t>{24, 24, 16} : std::vector<size_t>{64};
  const auto largest_span = [&](const std::vector<int>& v) {
    int largest = 0;
    for (size_t i = 0, span = 0; i < v.size(); ++span) {
      int sum = 0;
      for (const size_t end = i + spans[span % spans.size()]; i < end; ++i) sum += std::abs(v[i]);
      largest = std::max(largest, sum);
    }
    return largest;
  };
  q.assign(y.size(), 0);
  int largest = 0;
  for (const int value : y) largest = std::max(largest, std::abs(value));
  if (largest == 0) return 0;
  for (int target = 248;; target -= 8) {
    const float gain = std::min(static_cast<float>(target) / static_cast<float>(largest_span(y)), 127.0f / static_cast<float>(largest));
    for (size_t i = 0; i < y.size(); ++i) q[i] = static_cast<int>(std::nearbyint(static_cast<float>(y[i]) * gain));
    if (largest_span(q) <= 255) return gain;
  }
}

struct Sample {
  int count = 0;  // -1: the query is not usable
  float error = 0;
  std::vector<uint32_t> ids;
  std::vector<float> logs;
};

// The draw of one query head among the first `keys` sketches, `head` keying the random numbers.
inline Sample draw(const Sketch* sketches, int keys, const Rotated& query, int bits, const SketchDraw& options, uint32_t head, uint32_t step) {
  Sample sample;
  if (!query.usable) sample.count = -1;
  if (!query.usable || keys == 0) return sample;
  const int size = static_cast<int>(query.y.size()), top_level = (1 << bits) - 1;
  std::vector<int> q;
  const float gain = round_query(q, query.y, bits);
  int magnitudes = 0, negative = 0, exponent = 0;
  for (const int value : q) magnitudes += std::abs(value), negative += std::max(-value, 0);
  const auto factor_bits = [&](int key) { return float_to_bits(sketches[key].factor) >> 16; };
  for (int key = 0; key < keys; ++key) exponent = std::max(exponent, factor_exponent(factor_bits(key)));
  const int shift = top_level * magnitudes, lift = sketch_lift((shift + 1) / 2);
  const float sigma = gain > 0 ? static_cast<float>(options.scale / (query.inverse_norm * sketch_norm(size) * gain)) : 0.0f;
  const float tempered = sigma * sketch_temper(bits);
  const int integer_gain = sketch_gain(tempered, exponent, lift);
  std::vector<int> scores(keys);
  for (int key = 0; key < keys; ++key) {
    int sum = top_level * negative;
    for (int i = 0; i < size; ++i) sum += sketches[key].levels[i] * q[i];
    scores[key] = mulhrs(mulhrs((sum - shift / 2) << lift, factor_significand(factor_bits(key), exponent)), integer_gain);
  }
  const int largest = *std::max_element(scores.begin(), scores.end());

  // Plan.
  std::vector<double> counts(kSketchBins), sums(kSketchBins + 1), ratios(kSketchBins + 1), squares(kSketchBins + 1);
  const SketchWeights weights = sketch_weights();
  std::vector<int> some(kSketchBins), all(kSketchBins);
  const int lanes = keys < 4096 ? 64 : keys < 8192 ? 32 : keys < 16384 ? 16 : keys < 32768 ? 8 : keys < 65536 ? 4 : 2;
  int sampled = 0, exact = 0, counted = 0;
  for (int key = 0; key < keys; ++key) {
    const int bin = std::min(127, largest - scores[key]);
    ++all[bin];
    if (key % 64 < lanes) ++some[bin], ++sampled;
  }
  for (int sum = 256 * some[0]; exact < 16 && sum <= sampled; sum += 256 * some[++exact]) {
  }
  for (int bin = 0; bin < kSketchBins; ++bin) {
    counts[bin] = bin < exact ? all[bin] : some[bin] * (64 / lanes);
    counted += static_cast<int>(counts[bin]);
  }
  double total = 0;
  for (int i = kSketchBins - 1; i >= 0; --i) total += counts[i] * weights.at[i];
  const double floor = options.floor_share * total / counted;
  for (int i = kSketchBins - 1; i >= 0; --i) {
    const double raised = weights.at[i] + floor, square = weights.at[i] * weights.at[i];
    sums[i] = sums[i + 1] + counts[i] * raised;
    ratios[i] = ratios[i + 1] + counts[i] * (square / raised);
    squares[i] = squares[i + 1] + counts[i] * square;
  }
  double factor_sums[4] = {};
  int factor_count = 0;
  const int runs = (keys + 63) / 64, every = (runs + 15) / 16;
  for (int run = 0; run < runs; run += every) {
    for (int key = 64 * run; key < std::min(keys, 64 * run + 64); ++key, ++factor_count) {
      const double factor = sketches[key].factor;
      factor_sums[key % 4] += factor * factor;
    }
  }
  const double square_factor = (factor_sums[0] + factor_sums[1] + factor_sums[2] + factor_sums[3]) / factor_count;
  const double length = gain > 0 ? options.scale * (1 / query.inverse_norm) : 0;
  const double inflation = noise_inflation(static_cast<double>(sketch_temper(bits)) * sketch_noise(bits) * length * length * square_factor);
  const double part = static_cast<double>(counted) / keys;
  double tau;
  int first;
  const auto solve = [&](auto&& tau_of) {
    double above = 0;
    for (first = 0; first < kSketchBins; ++first) {
      tau = tau_of(above);
      if (tau * (weights.at[first] + floor) <= 1) return;
      above += counts[first];
    }
    tau = kAllTau;
  };
  const auto by_count = [&](double expected) {
    solve([&](double above) { return expected >= counted ? kAllTau : (expected - above) / sums[first]; });
  };
  if (options.budget.kind == SketchBudget::kError) {
    const double error = options.budget.value / inflation;
    solve([&](double) { return ratios[first] / (error * error * total * total / part + squares[first]); });
    double expected = tau * sums[first];
    for (int i = 0; i < first; ++i) expected += counts[i];
    const double bounded = std::clamp(expected, options.budget.least * counted, options.budget.most * counted);
    if (bounded != expected || expected >= counted) by_count(bounded);
  } else {
    by_count(options.budget.kind == SketchBudget::kShare ? options.budget.value * counted : options.budget.value * part);
  }
  sample.error = static_cast<float>(std::sqrt(std::max(ratios[first] / tau - squares[first], 0.0) * part) / total * inflation);

  // The nearest threshold of five leading bits, found by trying all.
  const auto threshold_of = [](double p) {
    if (p >= 1) return 65536;
    int best = 1;
    for (int unit = 1, next = 1; next < 65536; unit *= 2) {
      for (const int end = 32 * unit - 16; next < end; next += unit) {
        if (std::fabs(next - p * 65536) <= std::fabs(best - p * 65536) && next < 65536) best = next;
      }
    }
    return best;
  };
  const int base = std::max(0, first - 1);
  for (int key = 0; key < keys; ++key) {
    const int level = std::clamp(largest - base - scores[key], 0, 63);
    const int threshold = threshold_of(tau * (weights.at[std::min(127, base + level)] + floor));
    const PhiloxWords words = philox({{static_cast<uint32_t>(key / 8), head, step, 3u}}, static_cast<uint32_t>(options.seed),
                                     static_cast<uint32_t>(options.seed >> 32));
    const auto random = static_cast<int>(words.word[key % 8 / 2] >> key % 2 * 16 & 0xffffu);
    if (random >= threshold) continue;
    sample.ids.push_back(static_cast<uint32_t>(key));
    sample.logs.push_back(sketch_log(static_cast<uint32_t>(threshold)));
    ++sample.count;
  }
  return sample;
}

}  // namespace magicpig::reference

#endif  // MAGICPIG_TEST_SKETCH_REFERENCE_H_
