// Key sketches however they are made, forked, saved and asked.
#include "../sketch.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "../new_selector.h"
#include "../philox.h"
#include "check.h"
#include "normals.h"

using namespace magicpig::lsh;

namespace {

// The expected number drawn is the budget, and the error is what it says, by sums over the keys of a histogram.
void PlansMeetBudgets() {
  std::mt19937 random(1);
  for (int kind = 0; kind < 4; ++kind) {
    uint32_t counts[kSketchBins] = {};
    size_t counted = 0;
    for (int i = 0; i < kSketchBins; ++i) {
      counts[i] = kind == 0 ? 1 : kind == 1 ? (i == 0 || i == 100) * 50 : kind == 2 ? random() % (i + 1) : i == 0;
      counted += counts[i];
    }
    const size_t keys = 4 * counted;
    for (const double floor_share : {1e-6, 0.02, 1.0}) {
      double total = 0;
      for (int i = 0; i < kSketchBins; ++i) total += counts[i] * std::exp(-i / 4.0);
      const auto sums = [&](const SketchPlan& plan, double* variance) {
        double expected = 0;
        *variance = 0;
        for (int i = 0; i < kSketchBins; ++i) {
          const double w = std::exp(-i / 4.0), pi = std::min(1.0, plan.tau * (w + plan.floor));
          expected += counts[i] * pi;
          *variance += counts[i] * w * w * (1 / pi - 1);
        }
        CHECK(std::fabs(plan.floor / (floor_share * total / counted) - 1) < 1e-12);
        CHECK(std::fabs(plan.error * plan.error - *variance / 4 / (total * total)) <
              1e-12 + 1e-9 * plan.error * plan.error);
        // Level 0 is the last bin that is drawn for certain, if there is one.
        const auto pi = [&](int bin) { return plan.tau * (std::exp(-bin / 4.0) + plan.floor); };
        CHECK(plan.base >= 0 && plan.base < kSketchBins && (plan.base == 0 || pi(plan.base) > 1 - 1e-12));
        CHECK(plan.base == kSketchBins - 1 || pi(plan.base + 1) < 1 + 1e-12);
        return expected;
      };
      double variance;
      for (const double share : {0.001, 0.1, 0.5, 0.999, 1.0}) {
        const double expected =
            sums(PlanDraw(counts, counted, keys, {SketchBudget::Kind::kShare, share, 0, 1}, floor_share, 1), &variance);
        CHECK(std::fabs(expected / (share * counted) - 1) < 1e-5);
        const double count = share * keys;
        CHECK(std::fabs(sums(PlanDraw(counts, counted, keys, {SketchBudget::Kind::kCount, count, 0, 1}, floor_share, 1),
                             &variance) /
                            expected -
                        1) < 1e-5);
      }
      CHECK(sums(PlanDraw(counts, counted, keys, {SketchBudget::Kind::kCount, 1e12, 0, 1}, floor_share, 1),
                 &variance) == counted);
      for (const double error : {1e-6, 0.01, 0.1, 10.0}) {
        const SketchPlan plan =
            PlanDraw(counts, counted, keys, {SketchBudget::Kind::kError, error, 0.05, 0.6}, floor_share, 1);
        const double share = sums(plan, &variance) / counted;
        CHECK(share > 0.05 - 1e-5 && share < 0.6 + 1e-5);
        CHECK(share > 0.6 - 1e-5 || plan.error < error * (1 + 1e-4));
        CHECK(share < 0.05 + 1e-5 || plan.error > error * (1 - 1e-4));
      }
      // Estimates that scatter need more keys for the same error.
      CHECK(std::fabs(NoiseInflation(0.5) / std::exp(0.25) - 1) < 1e-3 && NoiseInflation(0) == 1 &&
            NoiseInflation(1e300) < 1e11);
      const SketchPlan noisy = PlanDraw(counts, counted, keys, {SketchBudget::Kind::kShare, 0.1, 0, 1}, floor_share, 2);
      const SketchPlan clean =
          PlanDraw(counts, counted, keys, {SketchBudget::Kind::kError, noisy.error / 2, 1e-9, 1}, floor_share, 1);
      CHECK(noisy.error == 0 || std::fabs(clean.tau / noisy.tau - 1) < 1e-3);
      const SketchPlan all =
          PlanDraw(counts, counted, keys, {SketchBudget::Kind::kError, 1e-7, 0.05, 1}, floor_share, 1);
      CHECK(all.error <= 1.1e-7 || std::fabs(sums(all, &variance) / counted - 1) < 1e-4);
    }
  }
}

// Probabilities are the nearest of those that ranks stand for, and logarithms theirs.
void LevelsFollowPlans() {
  for (uint32_t rank = 1; rank < kSketchRanks; ++rank)
    CHECK(RankThreshold(rank) < RankThreshold(rank + 1) && RankOf(RankThreshold(rank) / 65536.0) == rank);
  CHECK(RankThreshold(kSketchRanks) == 65536 && RankOf(1) == kSketchRanks && RankOf(1e30) == kSketchRanks &&
        RankOf(0) == 1);
  CHECK(RankOf(1 - 1e-12) == kSketchRanks - 1);
  for (const double tau : {1e-9, 1e-4, 0.1, 30.0, 1e4, 1e30}) {
    SketchDraw draw;
    PlanLevels({tau, 0.01, 3, 0}, draw);
    for (int level = 0; level < kSketchLevels; ++level) {
      const double wanted = tau * (std::exp(-(3 + level) / 4.0) + 0.01) * 65536;
      const double threshold = RankThreshold(draw.ranks[level]);
      CHECK(wanted < 1       ? threshold == 1
            : wanted > 65536 ? threshold == 65536
                             : std::fabs(threshold - wanted) <= (wanted + 16) / 32 + 1e-6 * wanted);
      CHECK(std::fabs(draw.logs[level] - std::log(threshold / 65536)) < 1.1e-6 && draw.logs[level] <= 0);
    }
  }
}

KeySketch::Options Options(uint32_t dim, uint32_t bits, bool centred, uint32_t threads) {
  return {3,
          dim,
          bits,
          77,
          1 / std::sqrt(static_cast<double>(dim)),
          centred,
          {SketchBudget::Kind::kShare, 0.1, 0, 1},
          0.02,
          ProcessPool(threads)};
}

std::vector<uint8_t> FileOf(const KeySketch& sketch) {
  const auto header = sketch.Header();
  ContainerWriter file(KeySketch::kFileKind);
  sketch.Write(header, file);
  std::vector<uint8_t> bytes(file.bytes());
  file.Write(*ProcessPool(2), bytes.data());
  return bytes;
}

std::shared_ptr<KeySketch> Open(const std::vector<uint8_t>& bytes, KeySketch::Options options) {
  const auto file = Container::Copy(bytes.data(), bytes.size(), KeySketch::kFileKind);
  KeySketch::ReadHeader(*file, options);
  return KeySketch::FromFile(file, options);
}

// However keys come to be there, the sketch is the same.
void SketchesDoNotDependOnHistory() {
  using Status = KeySketch::Status;
  constexpr uint32_t kDim = 72;
  constexpr size_t kKeys = 2500;
  const std::vector<float> keys = Normals(kKeys * kDim, 5), others = Normals(kKeys * kDim, 6);
  for (const uint32_t bits : {1u, 2u, 4u}) {
    KeySketch whole(Options(kDim, bits, false, 1));
    CHECK(whole.Add(1, keys.data(), kKeys) == Status::kOk);
    const std::vector<uint8_t> file = FileOf(whole);

    KeySketch pieces(Options(kDim, bits, false, 3));
    size_t at = 0;
    for (const size_t n : {1, 30, 1, 64, 900, 27, 1, 1000}) {
      CHECK(pieces.Add(1, keys.data() + at * kDim, n) == Status::kOk);
      at += n;
    }
    CHECK(pieces.Add(1, keys.data() + at * kDim, kKeys - at) == Status::kOk);
    CHECK(FileOf(pieces) == file);

    // Neither of two forks changes the other, nor what was cut comes back.
    auto fork = pieces.Fork();
    pieces.Truncate(1, 1100);
    CHECK(pieces.Add(1, others.data(), 500) == Status::kOk);
    CHECK(pieces.Add(2, others.data(), 10) == Status::kOk);
    CHECK(FileOf(*fork) == file);
    fork->Truncate(1, 1100);
    CHECK(fork->Add(1, keys.data() + 1100 * kDim, kKeys - 1100) == Status::kOk);
    CHECK(fork->size(1) == kKeys && pieces.size(1) == 1600 && pieces.size(2) == 10);

    // So do files; one that is mapped or copied is not written to.
    auto opened = Open(file, Options(kDim, bits, false, 2));
    CHECK(FileOf(*opened) == file);
    CHECK(opened->options().seed == 77 && opened->options().heads == 3);
    opened->Truncate(1, 2100);
    CHECK(opened->Add(1, keys.data() + 2100 * kDim, kKeys - 2100) == Status::kOk);
    const auto scores = [&](const KeySketch& sketch) {
      std::vector<float> out(sketch.size(1));
      CHECK(sketch.Scores(1, others.data(), out.data()) == Status::kOk);
      return out;
    };
    CHECK(scores(*opened) == scores(whole) && scores(*fork) == scores(whole));
  }

  KeySketch sketch(Options(kDim, 2, true, 2));
  std::vector<float> bad = keys;
  bad[777] = std::numeric_limits<float>::quiet_NaN();
  CHECK(sketch.Add(0, bad.data(), kKeys) == Status::kNonFinite && sketch.size(0) == 0 && sketch.centre(0) == nullptr);
  CHECK(sketch.Add(0, keys.data(), 100) == Status::kOk);
  const std::vector<uint8_t> before = FileOf(sketch);
  bad[777] = 0x1p80f;
  CHECK(sketch.Add(0, bad.data(), kKeys) == Status::kTooLarge && FileOf(sketch) == before);
  float scores[100];
  CHECK(sketch.Scores(0, bad.data() + 10 * kDim, scores) == Status::kTooLarge);
  CHECK(Open(before, Options(kDim, 2, true, 1))->centre(0)[5] == sketch.centre(0)[5]);
  CHECK(sketch.bytes() >= KeySketch::BytesFor(kDim, 2, 100));
}

// Mean over many steps of the estimated sum of weights and of weighted values, against the sums, by sketches good and
// bad.
void DrawsAreUnbiased() {
  constexpr uint32_t kDim = 64;
  constexpr size_t kKeys = 700, kSteps = 4000;
  const std::vector<float> keys = Normals(kKeys * kDim, 8), query = Normals(kDim, 9, 1.5f), values = Normals(kKeys, 10);
  KeySketch sketch(Options(kDim, 1, true, 1));
  CHECK(sketch.Add(0, keys.data(), kKeys) == KeySketch::Status::kOk);
  std::vector<double> weights(kKeys);
  double total = 0, weighted = 0;
  for (size_t i = 0; i < kKeys; ++i) {
    double dot = 0;
    for (size_t k = 0; k < kDim; ++k) dot += static_cast<double>(query[k]) * keys[i * kDim + k];
    weights[i] = std::exp(dot / 8);
    total += weights[i];
    weighted += weights[i] * values[i];
  }
  for (const bool random_factors : {false, true}) {
    std::vector<uint8_t> file = FileOf(sketch);
    if (random_factors) {
      // Sketches that say nothing: factors drawn anew, both signs.
      std::mt19937 random(11);
      const auto opened = Container::Copy(file.data(), file.size(), KeySketch::kFileKind);
      const auto* section = reinterpret_cast<const uint8_t*>(opened->Get<uint16_t>(1, FourCc("FACT"), 704));
      const auto* start = reinterpret_cast<const uint8_t*>(opened->Get<uint64_t>(0, FourCc("HEAD"), 5)) - 64 - 5 * 32;
      for (size_t i = 0; i < 2 * kKeys; i += 2) {
        file[section - start + i] = static_cast<uint8_t>(random());
        file[section - start + i + 1] = static_cast<uint8_t>(random() % 2 ? 0x3e : 0xbe);
      }
    }
    const auto bad = Open(file, Options(kDim, 1, true, 1));
    double sums[2] = {}, squares[2] = {}, read = 0, read_square = 0;
    for (uint32_t step = 0; step < kSteps; ++step) {
      KeySketch::Sample sample;
      CHECK(bad->Draw(0, query.data(), 1, kKeys, step, bad->options().budget, &sample) == KeySketch::Status::kOk);
      double estimates[2] = {};
      for (size_t i = 0; i < sample.count; ++i) {
        const double weight = weights[sample.ids[i]] / std::exp(static_cast<double>(sample.log_probability[i]));
        estimates[0] += weight;
        estimates[1] += weight * values[sample.ids[i]];
      }
      for (int i = 0; i < 2; ++i) sums[i] += estimates[i], squares[i] += estimates[i] * estimates[i];
      read += static_cast<double>(sample.count);
      read_square += static_cast<double>(sample.count * sample.count);
    }
    const double expected[2] = {total, weighted};
    for (int i = 0; i < 2; ++i) {
      const double mean = sums[i] / kSteps, deviation = std::sqrt((squares[i] / kSteps - mean * mean) / kSteps);
      CHECK(std::fabs(mean - expected[i]) < 4 * deviation);
    }
    // All keys are counted.
    const double mean = read / kSteps, deviation = std::sqrt((read_square / kSteps - mean * mean) / kSteps);
    CHECK(std::fabs(mean - 70) < 4 * deviation + 1);
  }
}

// A view of a damaged file gives wrong results, and touches nothing else.
void DamagedFactorsDoNoHarm() {
  constexpr uint32_t kDim = 64;
  const std::vector<float> keys = Normals(1000 * kDim, 12), query = Normals(kDim, 13);
  KeySketch sketch(Options(kDim, 2, false, 1));
  CHECK(sketch.Add(0, keys.data(), 1000) == KeySketch::Status::kOk);
  std::vector<uint8_t> file = FileOf(sketch);
  std::mt19937 random(14);
  for (size_t i = file.size() - 2 * 1024; i < file.size(); ++i)
    file[i] = static_cast<uint8_t>(random() % 3 == 0 ? 0xff : random());
  const auto damaged = Open(file, Options(kDim, 2, false, 1));
  for (uint32_t step = 0; step < 20; ++step) {
    KeySketch::Sample sample;
    CHECK(damaged->Draw(0, query.data(), 1, 1000 - step, step, damaged->options().budget, &sample) ==
          KeySketch::Status::kOk);
    CHECK(sample.count <= 1000);
    for (size_t i = 0; i < sample.count; ++i) CHECK(sample.ids[i] < 1000 - step);
  }
}

// The selector through its C ABI: the same from any thread, in groups or alone, and with other keys behind.
void SketchSelectorSelects() {
  constexpr uint32_t kDim = 64, kQueries = 6;
  auto sketch = std::make_shared<KeySketch>(Options(kDim, 2, true, 2));
  const std::vector<float> keys = Normals(size_t{5000} * kDim, 1), queries = Normals(size_t{kQueries} * kDim, 2, 2);
  CHECK(sketch->Add(2, keys.data(), 5000) == KeySketch::Status::kOk);
  magicpig_selector* selector = NewSelector<KeySketch>(sketch, kDim, 3);
  CHECK(selector->abi == MAGICPIG_SELECTOR_ABI && selector->heads == 3 && selector->head_dim == kDim);

  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (const uint32_t indexed : {5000u, 1234u, 1u, 0u}) {
        magicpig_selection out[kQueries];
        const magicpig_selector_args args{2, 0, kQueries, kDim, indexed, 9, queries.data()};
        CHECK(selector->select(selector->context, &args, out) == 0);
        std::vector<std::vector<uint32_t>> ids;
        std::vector<std::vector<float>> logs;
        for (const magicpig_selection& selection : out) {
          CHECK(selection.correction == MAGICPIG_CORRECTION_LOG_PROBABILITY);
          ids.emplace_back(selection.ids, selection.ids + selection.count);
          logs.emplace_back(selection.log_probability, selection.log_probability + selection.count);
          CHECK(std::is_sorted(ids.back().begin(), ids.back().end()) &&
                (ids.back().empty() || ids.back().back() < indexed));
          CHECK(std::all_of(logs.back().begin(), logs.back().end(), [](float log) { return log <= 0 && log > -20; }));
          CHECK(indexed < 1000 || (selection.count > indexed / 20 && selection.count < indexed / 5));
        }
        for (uint32_t q = 0; q < kQueries; ++q) {
          magicpig_selection one;
          const magicpig_selector_args alone{2, q, 1, kDim, indexed, 9, queries.data() + q * kDim};
          CHECK(selector->select(selector->context, &alone, &one) == 0);
          CHECK(std::equal(ids[q].begin(), ids[q].end(), one.ids, one.ids + one.count));
          CHECK(std::equal(logs[q].begin(), logs[q].end(), one.log_probability, one.log_probability + one.count));
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  const KeySketch::Stats stats = sketch->stats();
  CHECK(stats.draws == 4 * 3 * 2 * kQueries && stats.keys == uint64_t{4} * 2 * kQueries * 6235);
  CHECK(stats.read > stats.keys / 12 && stats.read < stats.keys / 8 &&
        stats.largest_error >= stats.error / static_cast<double>(stats.draws));
  sketch->ResetStats();
  CHECK(sketch->stats().draws == 0 && sketch->stats().largest_error == 0);

  magicpig_selection out[kQueries];
  magicpig_selector_args args{0, 0, 1, kDim, 10, 0, queries.data()};
  CHECK(selector->select(selector->context, &args, out) == 0 && out[0].count == 0);  // a head without keys
  args.head = 3;
  CHECK(selector->select(selector->context, &args, out) != 0);  // no such head
  args.head = 2;
  args.head_dim = kDim / 2;
  CHECK(selector->select(selector->context, &args, out) != 0);  // another dimension
  args.head_dim = kDim;
  std::vector<float> bad(kDim, std::numeric_limits<float>::infinity());
  args.query = bad.data();
  CHECK(selector->select(selector->context, &args, out) != 0);
  args.query = queries.data();
  selector->retain(selector->context);
  selector->release(selector->context);
  sketch->Dispose();
  CHECK(selector->select(selector->context, &args, out) != 0);
  selector->release(selector->context);
}

}  // namespace

void KeySketchesAreRight() {
  PlansMeetBudgets();
  LevelsFollowPlans();
  SketchesDoNotDependOnHistory();
  DrawsAreUnbiased();
  DamagedFactorsDoNoHarm();
  SketchSelectorSelects();
}
