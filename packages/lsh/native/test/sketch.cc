// Key sketches: kernels against their definition on every instruction set, and sketches however they are made, forked, saved and asked.
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
#include "../sketch.h"
#include "check.h"

using namespace magicpig::lsh;

namespace {

std::vector<const SketchKernels*> AllKernels() {
  std::vector<const SketchKernels*> all{&kPortableSketchKernels};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) all.push_back(&kAvx2SketchKernels);
  if (__builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2")) all.push_back(&kAvx512SketchKernels);
#elif defined(__aarch64__)
  all.push_back(&kNeonSketchKernels);
#endif
  return all;
}

std::vector<float> Normals(size_t n, uint64_t seed, float scale = 1) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& value : values) value = normal(random) * scale;
  return values;
}

template <typename T>
Buffer<T> Copy(const std::vector<T>& values) {
  Buffer<T> buffer(values.size());
  std::memcpy(buffer.data(), values.data(), buffer.bytes());
  return buffer;
}

// Levels, the choice of a step and dots, from their definition in doubles.
void EncodesByDefinition(const SketchKernels& kernels) {
  constexpr int32_t kSteps[kSketchSteps] = {700, 810, 925, 1050};
  for (const size_t size : {64, 128, 256}) {
    std::vector<int16_t> y(size * kLanes);
    std::mt19937 random(size);
    std::normal_distribution<double> normal(0, 1000);
    for (auto& value : y) value = static_cast<int16_t>(std::clamp(normal(random), -6000.0, 6000.0));
    for (int i = 0; i < 8; ++i) y[i * kLanes] = static_cast<int16_t>(700 * (i - 4));  // on the grid's edges
    const Buffer<int16_t> from = Copy(y);
    for (uint32_t bits = 1; bits <= kMaxSketchBits; ++bits) {
      std::vector<uint8_t> planes(bits * size / 8 * kLanes);
      int32_t dots[kLanes];
      kernels.encode(from.data(), size, bits, kSteps, planes.data(), dots);
      const int half = 1 << (bits - 1), top = 2 * half - 1;
      for (size_t lane = 0; lane < kLanes; ++lane) {
        double best = -2, best_dot = 0;
        std::vector<int> best_levels;
        for (const int32_t step : kSteps) {
          std::vector<int> levels;
          double dot = 0, square = 0;
          for (size_t i = 0; i < size; ++i) {
            const double value = y[i * kLanes + lane];
            levels.push_back(static_cast<int>(std::clamp(std::floor(value / step) + half, 0.0, static_cast<double>(top))));
            const double v = 2 * levels.back() - top;
            dot += v * value;
            square += v * v;
          }
          const double cosine = dot / std::sqrt(square);
          if (cosine > best * (1 + 1e-12)) best = cosine, best_dot = dot, best_levels = levels;
        }
        CHECK(dots[lane] == best_dot);
        for (size_t i = 0; i < size; ++i) {
          int level = 0;
          for (uint32_t p = 0; p < bits; ++p) level = 2 * level + (planes[(p * size / 8 + i / 8) * kLanes + lane] >> i % 8 & 1);
          CHECK(level == best_levels[i]);
        }
      }
    }
  }
}

// Sums, for queries at the limit of what spans may hold.
void ScansByDefinition(const SketchKernels& kernels) {
  constexpr size_t kBlocks = 3, kStride = kBlocks * kSketchKeys + 8;
  for (const size_t size : {64, 128, 256}) {
    for (uint32_t bits = 1; bits <= kMaxSketchBits; ++bits) {
      std::mt19937 random(bits * 1000 + size);
      const size_t groups = size / 8, table_bytes = size / kSketchUnit * kSketchTableBytes;
      std::vector<uint8_t> code_bytes(kBlocks * bits * groups * kSketchKeys);
      for (auto& byte : code_bytes) byte = random() % 4 == 0 ? 0xff : static_cast<uint8_t>(random());
      const Buffer<uint8_t> codes = Copy(code_bytes);

      std::vector<std::vector<int16_t>> rounded(kSketchQueries, std::vector<int16_t>(size));
      Buffer<uint8_t> tables(kSketchQueries * table_bytes);
      for (size_t h = 0; h < kSketchQueries; ++h) {
        // Fill every span to exactly 255, the last query with few large values.
        for (size_t unit = 0; unit < size; unit += kSketchUnit) {
          const std::vector<size_t> spans = FineSpans(bits) ? std::vector<size_t>{24, 24, 16} : std::vector<size_t>{64};
          for (size_t at = unit, s = 0; s < spans.size(); at += spans[s++]) {
            for (int left = kSpanLimit; left > 0;) {
              int16_t& value = rounded[h][at + random() % spans[s]];
              const int most = 127 - std::abs(value), more = std::min({left, most, h + 1 == kSketchQueries ? 100 : 3});
              value = static_cast<int16_t>(value < 0 || (value == 0 && random() % 2) ? value - more : value + more);
              left -= more;
            }
          }
        }
        kernels.tables(rounded[h].data(), size, tables.data() + h * table_bytes);
      }
      for (size_t count = 1; count <= kSketchQueries; ++count) {
        std::vector<uint16_t> sums(count * kStride);
        kernels.scan(codes.data(), kBlocks, bits, size, tables.data(), count, sums.data(), kStride);
        for (size_t h = 0; h < count; ++h) {
          for (size_t key = 0; key < kBlocks * kSketchKeys; ++key) {
            int sum = 0;
            for (size_t i = 0; i < size; ++i) {
              int level = 0;
              for (uint32_t p = 0; p < bits; ++p) {
                const size_t byte = ((key / kSketchKeys * bits + p) * groups + i / 8) * kSketchKeys + key % kSketchKeys;
                level = 2 * level + (code_bytes[byte] >> i % 8 & 1);
              }
              sum += level * rounded[h][i] + (rounded[h][i] < 0 ? -rounded[h][i] * ((1 << bits) - 1) : 0);
            }
            CHECK(sums[h * kStride + key] == sum);
          }
        }
      }
    }
  }
}

// Factors and depths from their definition in wide integers.
void MeasuresDepthsByDefinition(const SketchKernels& kernels) {
  std::mt19937 random(2);
  for (const size_t n : {size_t{1}, size_t{63}, size_t{64}, size_t{200}, kSketchChunk}) {
    const size_t whole = (n + kSketchKeys - 1) / kSketchKeys * kSketchKeys;
    for (const auto& [spread, most] : {std::pair{40, 3000u}, std::pair{3, 45900u}, std::pair{0, 200u}}) {
      std::vector<uint16_t> factor_bits(whole), sum_values(whole);
      for (auto& factor : factor_bits) factor = static_cast<uint16_t>((random() % 2 << 15) + (120 - random() % (spread + 1)) * 128 + random() % 128);
      factor_bits[0] = 0x0012;  // too small to count
      // Leftovers behind the last key.
      for (size_t i = n; i < whole; ++i) factor_bits[i] = static_cast<uint16_t>(random());
      for (auto& sum : sum_values) sum = static_cast<uint16_t>(random() % (most + 1));
      std::vector<int16_t> factors(whole);
      const int exponent = 120;
      kernels.factors(factor_bits.data(), whole, exponent, factors.data());
      for (size_t i = 0; i < n; ++i) {
        const int e = factor_bits[i] >> 7 & 255, m = 128 + (factor_bits[i] & 127);
        CHECK(factors[i] == (e == 0 ? 0 : m * 128 >> std::min(exponent - e, 15)));
      }
      for (const int gain : {0, 1, 250, 1 << 14}) {
        SketchScale scale{static_cast<uint16_t>(most / 2), 0, static_cast<int16_t>(gain)};
        while ((most - most / 2) << (scale.lift + 1) <= 32767 && scale.lift < 14) ++scale.lift;
        std::vector<int> expected;
        const auto times = [](int64_t a, int64_t b) { return static_cast<int>((a * b + (1 << 14)) >> 15); };
        for (size_t i = 0; i < n; ++i) expected.push_back(times(times((sum_values[i] - int{scale.half}) * (1 << scale.lift), factors[i]), gain));
        const int largest = *std::max_element(expected.begin(), expected.end());
        std::vector<uint16_t> sums = sum_values;
        std::vector<uint8_t> depths(whole);
        CHECK(kernels.depths(sums.data(), factors.data(), n, scale, depths.data()) == largest);
        for (size_t i = 0; i < n; ++i) CHECK(depths[i] == std::min(largest - expected[i], 255));

        for (const uint8_t below : {1, 16, 255}) {
          std::vector<uint32_t> counts(below), exact(below);
          kernels.count_top(depths.data(), n, below, counts.data());
          for (size_t i = 0; i < n; ++i) {
            if (depths[i] < below) ++exact[depths[i]];
          }
          CHECK(counts == exact);
        }
        for (const size_t lanes : {8, 16, 64}) {
          for (const int offset : {0, 100, 32000}) {
            uint32_t sets[kSketchCounters][kSketchBins] = {}, counts[kSketchBins] = {};
            kernels.histogram(depths.data(), n, lanes, offset, sets);
            for (size_t i = 0; i < n; ++i) {
              if (i % kSketchKeys < lanes) ++counts[std::min(depths[i] + offset, kSketchBins - 1)];
            }
            for (int bin = 0; bin < kSketchBins; ++bin) CHECK(sets[0][bin] + sets[1][bin] + sets[2][bin] + sets[3][bin] == counts[bin]);
          }
        }
      }
    }
  }
}

void DrawsByDefinition(const SketchKernels& kernels) {
  constexpr size_t kKeys = kSketchChunk;
  const SketchStream stream{0x123456789abcdull, 17, 4'000'000'000u};
  const uint32_t first = 0x7ffffc00u;
  const auto half = [&](size_t i, uint32_t domain) {
    const auto key = static_cast<uint32_t>(first + i);
    const PhiloxBlock block = Philox({key / 8, stream.head, stream.step, domain}, static_cast<uint32_t>(stream.seed),
                                     static_cast<uint32_t>(stream.seed >> 32));
    return static_cast<uint16_t>(key % 2 ? block[key % 8 / 2] >> 16 : block[key % 8 / 2]);
  };
  std::vector<uint16_t> words(kKeys);
  kernels.words(stream, first, kKeys, words.data());
  for (size_t i = 0; i < kKeys; ++i) CHECK(words[i] == half(i, 3));

  std::mt19937 random(3);
  std::vector<uint8_t> depths(kKeys);
  for (auto& depth : depths) depth = static_cast<uint8_t>(random() % 8 ? random() % 90 : random());
  for (const double tau : {0.1, 30.0, 1e4, 1e30}) {
    const SketchPlan plan{tau, 0.01, 3, 0};
    SketchDraw draw;
    PlanLevels(plan, draw);
    std::vector<uint64_t> thresholds;
    for (int level = 0; level < kSketchLevels; ++level) {
      const double pi = std::min(1.0, tau * (std::exp(-(3 + level) / 4.0) + 0.01));
      thresholds.push_back((uint64_t{draw.upper[level]} << 16) + draw.rest[level]);
      CHECK(static_cast<double>(thresholds[level]) > pi * 0x1p32 * (1 - 1e-12) && static_cast<double>(thresholds[level]) < pi * 0x1p32 * (1 + 1e-12) + 1);
      CHECK(std::fabs(draw.logs[level] - std::log(static_cast<double>(thresholds[level]) / 0x1p32)) < 1.1e-6 && draw.logs[level] <= 0);
      CHECK(pi < 1 || draw.logs[level] == 0);
    }
    for (const int offset : {-127, -20, 0, 30, 5000}) {
      for (const size_t n : {size_t{1}, size_t{37}, size_t{64}, size_t{100}, kKeys}) {
        // Lower halves decide about keys whose upper ones are equal: about every 16th here.
        std::vector<uint16_t> given = words;
        for (size_t i = 0; i < kKeys; i += 16) given[i] = draw.upper[std::clamp(depths[i] + offset, 0, kSketchLevels - 1)];
        std::vector<uint32_t> ids(n + kDrawSlack);
        std::vector<float> logs(n + kDrawSlack);
        const size_t count = kernels.draw(depths.data(), offset, given.data(), n, draw, stream, first, ids.data(), logs.data());
        size_t at = 0;
        for (size_t i = 0; i < n; ++i) {
          const int level = std::clamp(depths[i] + offset, 0, kSketchLevels - 1);
          if ((uint64_t{given[i]} << 16) + half(i, 4) >= thresholds[level]) continue;
          CHECK(at < count && ids[at] == first + i && logs[at] == draw.logs[level]);
          ++at;
        }
        CHECK(at == count);
      }
    }
  }
}

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
        CHECK(std::fabs(plan.error * plan.error - *variance / 4 / (total * total)) < 1e-12 + 1e-9 * plan.error * plan.error);
        // Level 0 is the last bin that is drawn for certain, if there is one.
        const auto pi = [&](int bin) { return plan.tau * (std::exp(-bin / 4.0) + plan.floor); };
        CHECK(plan.base >= 0 && plan.base < kSketchBins && (plan.base == 0 || pi(plan.base) > 1 - 1e-12));
        CHECK(plan.base == kSketchBins - 1 || pi(plan.base + 1) < 1 + 1e-12);
        return expected;
      };
      double variance;
      for (const double share : {0.001, 0.1, 0.5, 0.999, 1.0}) {
        const double expected = sums(PlanDraw(counts, counted, keys, {SketchBudget::Kind::kShare, share, 0, 1}, floor_share, 1), &variance);
        CHECK(std::fabs(expected / (share * counted) - 1) < 1e-5);
        const double count = share * keys;
        CHECK(std::fabs(sums(PlanDraw(counts, counted, keys, {SketchBudget::Kind::kCount, count, 0, 1}, floor_share, 1), &variance) / expected - 1) <
              1e-5);
      }
      CHECK(sums(PlanDraw(counts, counted, keys, {SketchBudget::Kind::kCount, 1e12, 0, 1}, floor_share, 1), &variance) == counted);
      for (const double error : {1e-6, 0.01, 0.1, 10.0}) {
        const SketchPlan plan = PlanDraw(counts, counted, keys, {SketchBudget::Kind::kError, error, 0.05, 0.6}, floor_share, 1);
        const double share = sums(plan, &variance) / counted;
        CHECK(share > 0.05 - 1e-5 && share < 0.6 + 1e-5);
        CHECK(share > 0.6 - 1e-5 || plan.error < error * (1 + 1e-4));
        CHECK(share < 0.05 + 1e-5 || plan.error > error * (1 - 1e-4));
      }
      // Estimates that scatter need more keys for the same error.
      CHECK(std::fabs(NoiseInflation(0.5) / std::exp(0.25) - 1) < 1e-3 && NoiseInflation(0) == 1 && NoiseInflation(1e300) < 1e11);
      const SketchPlan noisy = PlanDraw(counts, counted, keys, {SketchBudget::Kind::kShare, 0.1, 0, 1}, floor_share, 2);
      const SketchPlan clean = PlanDraw(counts, counted, keys, {SketchBudget::Kind::kError, noisy.error / 2, 1e-9, 1}, floor_share, 1);
      CHECK(noisy.error == 0 || std::fabs(clean.tau / noisy.tau - 1) < 1e-3);
      const SketchPlan all = PlanDraw(counts, counted, keys, {SketchBudget::Kind::kError, 1e-7, 0.05, 1}, floor_share, 1);
      CHECK(all.error <= 1.1e-7 || std::fabs(sums(all, &variance) / counted - 1) < 1e-4);
    }
  }
}

KeySketch::Options Options(uint32_t dim, uint32_t bits, bool centred, uint32_t threads) {
  return {3, dim, bits, 77, 1 / std::sqrt(static_cast<double>(dim)), centred, {SketchBudget::Kind::kShare, 0.1, 0, 1}, 0.02,
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

// Mean over many steps of the estimated sum of weights and of weighted values, against the sums, by sketches good and bad.
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
  for (size_t i = file.size() - 2 * 1024; i < file.size(); ++i) file[i] = static_cast<uint8_t>(random() % 3 == 0 ? 0xff : random());
  const auto damaged = Open(file, Options(kDim, 2, false, 1));
  for (uint32_t step = 0; step < 20; ++step) {
    KeySketch::Sample sample;
    CHECK(damaged->Draw(0, query.data(), 1, 1000 - step, step, damaged->options().budget, &sample) == KeySketch::Status::kOk);
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
          CHECK(std::is_sorted(ids.back().begin(), ids.back().end()) && (ids.back().empty() || ids.back().back() < indexed));
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
  CHECK(stats.read > stats.keys / 12 && stats.read < stats.keys / 8 && stats.largest_error >= stats.error / static_cast<double>(stats.draws));
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
  for (const SketchKernels* kernels : AllKernels()) {
    EncodesByDefinition(*kernels);
    ScansByDefinition(*kernels);
    MeasuresDepthsByDefinition(*kernels);
    DrawsByDefinition(*kernels);
  }
  PlansMeetBudgets();
  SketchesDoNotDependOnHistory();
  DrawsAreUnbiased();
  DamagedFactorsDoNoHarm();
  SketchSelectorSelects();
}
