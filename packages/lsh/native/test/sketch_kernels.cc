// Kernels of key sketches against their definition, on every instruction set.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <tuple>
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
  if (__builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2"))
    all.push_back(&kAvx512SketchKernels);
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
            levels.push_back(
                static_cast<int>(std::clamp(std::floor(value / step) + half, 0.0, static_cast<double>(top))));
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
          for (uint32_t p = 0; p < bits; ++p)
            level = 2 * level + (planes[(p * size / 8 + i / 8) * kLanes + lane] >> i % 8 & 1);
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

// Depths below bounds, and the largest scores, from their definition in wide integers.
void MeasuresDepthsByDefinition(const SketchKernels& kernels) {
  constexpr size_t kStride = kSketchChunk + 64;
  constexpr int kExponent = 120;
  const auto times = [](int64_t a, int64_t b) { return static_cast<int>((a * b + (1 << 14)) >> 15); };
  std::mt19937 random(2);
  for (const auto& [n, size, bits] : {std::tuple<size_t, size_t, uint32_t>{1, 64, 4},
                                      {63, 128, 1},
                                      {64, 64, 3},
                                      {200, 256, 2},
                                      {1000, 64, 2},
                                      {kSketchChunk, 128, 2}}) {
    const size_t blocks = (n + kSketchKeys - 1) / kSketchKeys, whole = blocks * kSketchKeys;
    const size_t table_bytes = size / kSketchUnit * kSketchTableBytes;
    std::vector<uint8_t> code_bytes(blocks * bits * size / 8 * kSketchKeys);
    for (auto& byte : code_bytes) byte = static_cast<uint8_t>(random() % 3 == 0 ? 0xff : random());
    const Buffer<uint8_t> codes = Copy(code_bytes);
    for (const int spread : {0, 3, 40}) {
      std::vector<uint16_t> factors(whole);
      for (auto& factor : factors) {
        factor =
            static_cast<uint16_t>((random() % 2 << 15) + (kExponent - random() % (spread + 1)) * 128 + random() % 128);
      }
      factors[0] = 0x0012;  // too small to count
      // Leftovers behind the last key.
      for (size_t i = n; i < whole; ++i) factors[i] = static_cast<uint16_t>(random());

      Buffer<uint8_t> tables(kSketchQueries * table_bytes);
      SketchScale scales[kSketchQueries];
      constexpr int16_t kGains[kSketchQueries] = {0, 1, 250, 1 << 14};
      for (size_t h = 0; h < kSketchQueries; ++h) {
        std::vector<int16_t> rounded(size);
        uint32_t magnitudes = 0;
        for (auto& value : rounded) {
          value = static_cast<int16_t>(static_cast<int>(random() % 7) - 3);
          magnitudes += static_cast<uint32_t>(std::abs(value));
        }
        kernels.tables(rounded.data(), size, tables.data() + h * table_bytes);
        const uint32_t shift = ((1u << bits) - 1) * magnitudes, half = shift >> 1;
        scales[h] = {static_cast<uint16_t>(half), 0, kGains[h]};
        while ((shift - half) << (scales[h].lift + 1) <= 32767 && scales[h].lift < 14) ++scales[h].lift;
      }
      for (size_t count = 1; count <= kSketchQueries; ++count) {
        std::vector<uint16_t> sums(count * whole);
        kernels.scan(codes.data(), blocks, bits, size, tables.data(), count, sums.data(), whole);
        const SketchKeys keys{codes.data(), factors.data()};
        const int32_t bounds[kSketchQueries] = {64, -3, 200, 10'000};
        int32_t tops[kSketchQueries];
        std::vector<uint8_t> depths(count * kStride);
        kernels.depths(keys, n, keys, bits, size, {tables.data(), scales, count, kExponent}, bounds, tops,
                       depths.data(), kStride);
        for (size_t h = 0; h < count; ++h) {
          int top = INT16_MIN;
          for (size_t i = 0; i < n; ++i) {
            const int e = factors[i] >> 7 & 255, m = 128 + (factors[i] & 127);
            const int factor = e == 0 ? 0 : m * 128 >> std::min(kExponent - e, 15);
            const int score = times(times((sums[h * whole + i] - int{scales[h].half}) * (1 << scales[h].lift), factor),
                                    scales[h].gain);
            top = std::max(top, score);
            CHECK(depths[h * kStride + i] == std::clamp(bounds[h] - score, 0, 255));
          }
          CHECK(tops[h] == top);
        }
      }
    }
  }
}

void CountsByDefinition(const SketchKernels& kernels) {
  std::mt19937 random(4);
  for (const size_t n : {size_t{1}, size_t{63}, size_t{200}, kSketchChunk}) {
    std::vector<uint8_t> depths((n + kSketchKeys - 1) / kSketchKeys * kSketchKeys);
    for (auto& depth : depths) depth = static_cast<uint8_t>(64 + random() % 192);
    for (const int offset : {-64, -10, 0, 100, 32000}) {
      for (const size_t lanes : {2, 4, 8, 64}) {
        uint32_t sets[kSketchCounters][kSketchBins] = {}, counts[kSketchBins] = {};
        kernels.histogram(depths.data(), n, lanes, offset, sets);
        for (size_t i = 0; i < n; ++i) {
          if (i % kSketchKeys < lanes) ++counts[std::min(depths[i] + offset, kSketchBins - 1)];
        }
        for (int bin = 0; bin < kSketchBins; ++bin)
          CHECK(sets[0][bin] + sets[1][bin] + sets[2][bin] + sets[3][bin] == counts[bin]);
      }
      for (const int below : {0, 1, 16, 127}) {
        std::vector<uint32_t> counts(kSketchBins), expected(kSketchBins);
        kernels.count_top(depths.data(), n, offset, below, counts.data());
        for (size_t i = 0; i < n; ++i) {
          if (depths[i] + offset < below) ++expected[depths[i] + offset];
        }
        CHECK(counts == expected);
      }
    }
  }
}

// Ranks order random words as they are, and thresholds among them.
void RanksByDefinition(const SketchKernels& kernels) {
  constexpr size_t kKeys = kSketchChunk;
  const SketchStream stream{0x123456789abcdull, 17, 4'000'000'000u};
  for (const uint32_t first : {0u, 0x7fffffc0u}) {
    std::vector<uint8_t> ranks(kKeys);
    kernels.ranks(stream, first, kKeys, ranks.data());
    for (uint32_t i = 0; i < kKeys; ++i) {
      const uint32_t key = first + i;
      const PhiloxBlock block = Philox({key / 8, stream.head, stream.step, 3}, static_cast<uint32_t>(stream.seed),
                                       static_cast<uint32_t>(stream.seed >> 32));
      const uint32_t word = block[key % 8 / 2] >> key % 2 * 16 & 0xffff;
      CHECK(ranks[i] < kSketchRanks && (ranks[i] == 0 || word >= RankThreshold(ranks[i])) &&
            word < RankThreshold(ranks[i] + 1));
    }
  }
}

void DrawsByDefinition(const SketchKernels& kernels) {
  constexpr size_t kKeys = kSketchChunk;
  constexpr uint32_t kFirst = 0x7fffffc0u;
  std::mt19937 random(3);
  std::vector<uint8_t> depths(kKeys), ranks(kKeys);
  for (auto& depth : depths) depth = static_cast<uint8_t>(random() % 8 ? random() % 90 : random());
  for (auto& rank : ranks) rank = static_cast<uint8_t>(random() % kSketchRanks);
  for (const double tau : {0.1, 30.0, 1e4, 1e30}) {
    SketchDraw draw;
    PlanLevels({tau, 0.01, 3, 0}, draw);
    for (const int offset : {-191, -127, -20, 0, 30, 5000}) {
      for (const size_t n : {size_t{1}, size_t{37}, size_t{64}, size_t{100}, kKeys}) {
        std::vector<uint32_t> ids(n + kDrawSlack);
        std::vector<float> logs(n + kDrawSlack);
        const size_t count =
            kernels.draw(depths.data(), offset, ranks.data(), n, draw, kFirst, ids.data(), logs.data());
        size_t at = 0;
        for (size_t i = 0; i < n; ++i) {
          const int level = std::clamp(depths[i] + offset, 0, kSketchLevels - 1);
          if (ranks[i] >= draw.ranks[level]) continue;
          CHECK(at < count && ids[at] == kFirst + i && logs[at] == draw.logs[level]);
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
    CountsByDefinition(*kernels);
    RanksByDefinition(*kernels);
    DrawsByDefinition(*kernels);
  }
}
