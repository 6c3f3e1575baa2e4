// Checks without Node, made to run under sanitizers: every code path, odd shapes, several threads, every source type.
// Values are checked against plain loops in double precision; prints one line per check that fails.
#include <magicpig/thread_pool.h>
#include <math.h>
#include <stdio.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "copy_rows.h"
#include "cpu_features.h"
#include "float16.h"
#include "linear.h"
#include "mapped_file.h"
#include "random_normal.h"
#include "rotary.h"
#include "weight.h"

namespace magicpig::cpu {
namespace {

int failures = 0;
int checks = 0;

void Check(bool good, const std::string& what) {
  ++checks;
  if (good) return;
  ++failures;
  printf("FAILED: %s\n", what.c_str());
}

// Heap memory of exactly this many elements, so that AddressSanitizer sees a read or write past the end.
template <typename T>
std::vector<T> Exactly(size_t n, T value = T()) {
  std::vector<T> v(n, value);
  v.shrink_to_fit();
  return v;
}

std::vector<float> Random(size_t n, uint32_t seed) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<float> uniform(-1, 1);
  auto v = Exactly<float>(n);
  for (float& x : v) x = uniform(engine);
  return v;
}

// An owned pool.
struct Pool {
  explicit Pool(uint32_t threads) : pool(ThreadPool::Create(threads)) {}
  ~Pool() { pool.release(pool.context); }
  magicpig_pool pool;
};

Source F32Source(const std::vector<float>& values, size_t rows) {
  Source source;
  source.rows = rows;
  source.data = reinterpret_cast<const uint8_t*>(values.data());
  return source;
}

void TestProducts(const Path& path, const magicpig_pool& pool) {
  const size_t shapes[][3] = {{1, 8, 1}, {5, 24, 33}, {13, 80, 64}, {40, 104, 70}, {3, 2056, 40}, {26, 2064, 35}, {2, 96, 1000}};
  static constexpr const char* kNames[] = {" f32", " bf16", " q8", " q4"};
  static constexpr double kErrors[] = {1e-5, 2e-2, 1e-4, 1e-4};  // of the inputs' rounding
  for (int f = 0; f < kWeightFormats; ++f) {
    const WeightFormat format = static_cast<WeightFormat>(f);
    for (const auto& [rows, cols_of_floats, outputs] : shapes) {
      const size_t cols = f < 2 ? cols_of_floats : (cols_of_floats + 31) / 32 * 32;
      for (const bool gated : {false, true}) {
        const std::string name = std::string(path.name) + kNames[f] +
                                 (gated ? " gated " : " ") + std::to_string(rows) + "x" + std::to_string(cols) + "x" +
                                 std::to_string(outputs);
        const std::vector<float> x = Random(rows * cols, 1), norm = Random(cols, 2), bias = Random(outputs, 3);
        std::vector<float> a = Random(outputs * cols, 4), b = Random(outputs * cols, 5);
        std::vector<Source> sources = {F32Source(a, outputs)};
        if (gated) sources.push_back(F32Source(b, outputs));
        Arena arena;
        LinearScratch scratch;
        const auto weight = MakeWeight(pool, *path.kernels, arena, sources, cols, format, gated);
        Check(weight.has_value(), name + ": made");
        // The reference multiplies the weights as they are held; what rounding them costs is no matter here.
        auto all = Exactly<int32_t>(outputs);
        for (size_t i = 0; i < outputs; ++i) all[i] = static_cast<int32_t>(i);
        for (auto* values : {&a, &b}) {
          const auto held = MakeWeight(pool, *path.kernels, arena, {F32Source(*values, outputs)}, cols, format, false);
          GatherRows(pool, *held, all.data(), outputs, values->data());
        }
        auto out = Exactly<float>(rows * outputs, NAN);
        LinearArgs args;
        args.x = x.data();
        args.rows = rows;
        args.norm = norm.data();
        args.epsilon = 1e-5f;
        args.bias = gated ? nullptr : bias.data();
        args.out = out.data();
        Check(Linear(pool, *path.kernels, scratch, *weight, args), name + ": ran");
        double worst = 0;
        for (size_t r = 0; r < rows; ++r) {
          double squares = 0;
          for (size_t k = 0; k < cols; ++k) squares += double(x[r * cols + k]) * x[r * cols + k];
          const double scale = 1 / sqrt(squares / cols + 1e-5);
          for (size_t o = 0; o < outputs; ++o) {
            double sum_a = 0, sum_b = 0;
            for (size_t k = 0; k < cols; ++k) {
              const double value = x[r * cols + k] * scale * norm[k];
              sum_a += value * a[o * cols + k];
              sum_b += value * b[o * cols + k];
            }
            const double expected = gated ? sum_a / (1 + exp(-sum_a)) * sum_b : sum_a + bias[o];
            const double error = fabs(out[r * outputs + o] - expected) / (gated ? cols : sqrt(double(cols)));
            worst = error >= worst ? error : isnan(error) ? INFINITY : worst;
          }
        }
        Check(worst < kErrors[f], name + ": error " + std::to_string(worst));
        // Adding to the output: the same sums once more.
        if (!gated) {
          auto twice = out;
          args.accumulate = true;
          args.out = twice.data();
          Linear(pool, *path.kernels, scratch, *weight, args);
          bool same = true;
          for (size_t i = 0; i < twice.size(); ++i) same = same && twice[i] == 2 * out[i];
          Check(same, name + ": accumulate");
        }
      }
    }
  }
}

void TestSources(const Path& path, const magicpig_pool& pool) {
  std::mt19937 engine(7);
  const size_t rows = 37, cols = 768;
  for (int type = 0; type <= static_cast<int>(SourceType::kQ6_K); ++type) {
    const BlockLayout layout = kBlockLayouts[type];
    auto data = Exactly<uint8_t>(rows * cols / layout.values * layout.bytes + 1);
    for (uint8_t& byte : data) byte = static_cast<uint8_t>(engine());
    auto order = Exactly<uint32_t>(rows);
    for (size_t i = 0; i < rows; ++i) order[i] = static_cast<uint32_t>(i * 5 % rows);
    Source source;
    source.rows = rows;
    source.type = static_cast<SourceType>(type);
    source.data = data.data() + 1;  // misaligned, and ending where the memory does
    source.row_order = order.data();
    Arena arena;
    for (const WeightFormat format : {WeightFormat::kQ8, WeightFormat::kQ4}) {
      Check(MakeWeight(pool, *path.kernels, arena, {source}, cols, format, false).has_value(), "quantised");
    }
    const auto weight = MakeWeight(pool, *path.kernels, arena, {source}, cols, WeightFormat::kF32, false);
    auto tokens = Exactly<int32_t>(rows);
    for (size_t i = 0; i < rows; ++i) tokens[i] = static_cast<int32_t>(rows - 1 - i);
    auto out = Exactly<float>(rows * cols, 0.5f);
    GatherRows(pool, *weight, tokens.data(), rows, out.data());
    // The portable decoder is the specification (and is checked against gguf's own where there is Python).
    bool same = true;
    auto row = Exactly<float>(cols);
    const size_t row_bytes = cols / layout.values * layout.bytes;
    for (size_t i = 0; i < rows; ++i) {
      kPortableKernels.dequantize(source.type, source.data + order[tokens[i]] * row_bytes, 0, cols, row.data());
      for (size_t k = 0; k < cols; ++k) {
        const uint32_t got = BitsOf(out[i * cols + k]), expected = BitsOf(row[k]);
        // NaN from a random scale: converting a signalling half may keep or set its quiet bit.
        same = same && (got == expected || (isnan(out[i * cols + k]) && isnan(row[k])));
      }
    }
    Check(same, std::string(path.name) + ": source type " + std::to_string(type));
  }
}

void TestLogSumExp(const Path& path) {
  for (const size_t count : {size_t{1}, size_t{15}, size_t{64}, size_t{1001}}) {
    auto values = Exactly<float>(count);
    const std::vector<float> random = Random(count, 11);
    for (size_t i = 0; i < count; ++i) values[i] = 20 * random[i];
    double sum = 0;
    for (const float value : values) sum += exp(static_cast<double>(value));
    size_t largest = 0;
    const double got = path.kernels->log_sum_exp(values.data(), count, &largest);
    const size_t expected = std::max_element(values.begin(), values.end()) - values.begin();
    Check(largest == expected && fabs(got - log(sum)) < 3e-7, std::string(path.name) + ": log_sum_exp");
  }
}

void TestRows(const Path& path, const magicpig_pool& pool) {
  const size_t rows = 700, heads = 3, head_dim = 80, stride = heads * head_dim;
  auto positions = Exactly<int32_t>(rows);
  for (size_t i = 0; i < rows; ++i) positions[i] = static_cast<int32_t>(i * 13);
  auto frequencies = Exactly<float>(head_dim / 2);
  for (size_t j = 0; j < head_dim / 2; ++j) frequencies[j] = powf(10000, -2.0f * j / head_dim);
  auto table = Exactly<float>(rows * head_dim);
  RopeTable(pool, positions.data(), rows, frequencies.data(), head_dim / 2, 1, table.data());
  const std::vector<float> before = Random(rows * stride, 9);
  auto x = before;
  Rope(pool, *path.kernels, x.data(), table.data(), rows, stride, heads, head_dim);
  double worst = 0;
  for (size_t i = 0; i < rows * heads; ++i) {
    const size_t row = i / heads;
    for (size_t j = 0; j < head_dim / 2; ++j) {
      const double angle = static_cast<float>(positions[row]) * frequencies[j];
      const size_t at = i * head_dim + j;
      worst = fmax(worst, fabs(x[at] - (before[at] * cos(angle) - before[at + head_dim / 2] * sin(angle))));
    }
  }
  Check(worst < 1e-6, std::string(path.name) + ": rope");
  const int32_t indices[] = {699, 0};
  auto copied = Exactly<float>(2 * stride);
  CopyRows(x.data(), indices, 2, stride, copied.data());
  Check(copied[0] == x[699 * stride] && copied[2 * stride - 1] == x[stride - 1], "copy rows");
}

// Known answers of Random123's philox4x32-10.
void TestPhilox() {
  const struct {
    uint64_t key, low, high;
    uint32_t out[4];
  } cases[] = {
      {0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {~0ull, ~0ull, ~0ull, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (const auto& known : cases) {
    uint32_t words[4][kRandomBatch];
    for (size_t i = 0; i < kRandomBatch; ++i) {
      words[0][i] = static_cast<uint32_t>(known.low);
      words[1][i] = static_cast<uint32_t>(known.low >> 32);
      words[2][i] = static_cast<uint32_t>(known.high);
      words[3][i] = static_cast<uint32_t>(known.high >> 32);
    }
    Philox4x32(known.key, words);
    for (int w = 0; w < 4; ++w) Check(words[w][0] == known.out[w] && words[w][kRandomBatch - 1] == known.out[w], "philox");
  }
}

// All 65,536 halves against the definition.
void TestHalves() {
  bool good = true;
  for (uint32_t half = 0; half < 65536; ++half) {
    const int exponent = half >> 10 & 31, mantissa = half & 1023;
    const float got = F16ToFloat(static_cast<uint16_t>(half));
    if (exponent == 31) {
      good = good && (mantissa ? isnan(got) : isinf(got));
      continue;
    }
    const double size = exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, exponent - 25);
    good = good && got == static_cast<float>(half & 0x8000 ? -size : size) && signbit(got) == (half >> 15 != 0);
    // And back: the value itself, and the two sides of the middle to the next one.
    good = good && FloatToF16(got) == half;
    if ((half & 0x7fff) < 0x7bff) {
      const float middle = (got + F16ToFloat(static_cast<uint16_t>(half + 1))) / 2;
      good = good && FloatToF16(middle) == (half & 1 ? half + 1 : half);
      good = good && FloatToF16(nextafterf(middle, got)) == half && FloatToF16(nextafterf(middle, 2 * middle)) == half + 1;
    }
  }
  Check(good && FloatToF16(65519.9f) == 0x7bff && FloatToF16(65520) == 0x7c00 && FloatToF16(-1e30f) == 0xfc00, "halves");
}

void TestMappedFile() {
  MappedFile file;
  Check(std::string("ENOENT") == file.Map("/nowhere/at/all"), "missing file");
  Check(std::string("EISDIR") == file.Map("/"), "directory");
  FILE* written = tmpfile();
  fputs("contents", written);
  fflush(written);
  const std::string path = "/proc/self/fd/" + std::to_string(fileno(written));
  Check(file.Map(path.c_str()) == nullptr && file.size() == 8 && file.data()[7] == 's', "mapped file");
  file.Unmap();
  file.Unmap();
  fclose(written);
}

void TestArena() {
  Arena arena;
  std::vector<Arena::Piece> pieces;
  for (size_t size : {100u, 1u << 20, 40u << 20, 7u, 16u << 20, 16u << 20, 16u << 20, 16u << 20, 64u}) {
    pieces.push_back(arena.Allocate(size));
    std::byte* data = pieces.back().data;
    Check(reinterpret_cast<uintptr_t>(data) % kAlignment == 0 && data[0] == std::byte{0} && data[size - 1] == std::byte{0}, "arena");
    data[0] = data[size - 1] = std::byte{1};
  }
  Check(arena.Allocate(SIZE_MAX / 4).data == nullptr, "arena refuses what there is not");
}

int Main() {
  TestPhilox();
  TestHalves();
  TestMappedFile();
  TestArena();
  for (const Path& path : AvailablePaths()) {
    for (const uint32_t threads : {1u, 3u}) {
      const Pool pool(threads);
      TestProducts(path, pool.pool);
      TestSources(path, pool.pool);
      TestRows(path, pool.pool);
      TestLogSumExp(path);
    }
    printf("%s done\n", path.name);
  }
  printf("%d checks, %d failed\n", checks, failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace magicpig::cpu

int main() { return magicpig::cpu::Main(); }
