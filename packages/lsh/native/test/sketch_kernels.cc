// Kernels of key sketches against their definition, on every instruction set.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

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

}  // namespace

void SketchKernelsAreRight() {
  for (const SketchKernels* kernels : AllKernels()) {
    EncodesByDefinition(*kernels);
    ScansByDefinition(*kernels);
    MeasuresDepthsByDefinition(*kernels);
    DrawsByDefinition(*kernels);
  }
}
