// Weights: packing from checkpoints' formats, unpacking, and products with the quantised ones.
#include "../kernels/linear.h"
#include "../kernels/weights.h"
#include "context.h"

namespace magicpig::test {

namespace {

constexpr SourceType kTypes[] = {SourceType::kF32,  SourceType::kF16,  SourceType::kBf16, SourceType::kQ8_0, SourceType::kQ4_0, SourceType::kQ4_1,
                                 SourceType::kQ5_0, SourceType::kQ5_1, SourceType::kQ4_K, SourceType::kQ5_K, SourceType::kQ6_K};

// A matrix on the device.
struct Packed {
  DeviceBuffer<char> values, scales;
  WeightView view;
  Packed(WeightKind kind, int rows, int columns)
      : values(rows * weight_value_bytes(kind, columns)),
        scales(rows * weight_scale_bytes(kind, columns)),
        view{kind, values.get(), reinterpret_cast<uint16_t*>(scales.get())} {}
};

// Rows of a type with scales and values of a model's size, and what they say, by ggml's definitions read value by value.
struct Source {
  std::vector<uint8_t> bytes;
  std::vector<double> values;

  Source(Random& random, SourceType type, int rows, int columns) : values(static_cast<size_t>(rows) * columns) {
    const SourceBlock block = source_block(type);
    bytes.resize(static_cast<size_t>(rows) * columns / block.values * block.bytes);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.integer(0, 255));
    const auto put16 = [&](size_t at, uint16_t value) { std::memcpy(&bytes[at], &value, 2); };
    const auto half = [&](float least, float most) { return float_to_half(least + (most - least) * static_cast<float>(random.integer(0, 1000)) / 1000); };
    for (size_t i = 0; i < bytes.size() / block.bytes; ++i) {
      const size_t at = i * block.bytes;
      const float value = random.normal(1)[0] * 0.1f;
      switch (type) {
        case SourceType::kF32: std::memcpy(&bytes[at], &value, 4); break;
        case SourceType::kF16: put16(at, float_to_half(value)); break;
        case SourceType::kBf16: put16(at, magicpig::to_bf16(value).bits); break;
        case SourceType::kQ6_K: put16(at + 208, half(1e-5f, 1e-4f)); break;
        case SourceType::kQ4_K:
        case SourceType::kQ5_K:
          put16(at, half(1e-5f, 1e-4f));
          put16(at + 2, half(1e-5f, 1e-4f));
          break;
        case SourceType::kQ4_1:
        case SourceType::kQ5_1:
          put16(at, half(1e-3f, 1e-2f));
          put16(at + 2, half(-1e-1f, 0.0f));
          break;
        default: put16(at, half(1e-4f, 1e-2f));
      }
    }
    for (size_t i = 0; i < values.size(); ++i) values[i] = value_at(type, &bytes[i / block.values * block.bytes], static_cast<int>(i % block.values));
  }

  static double value_at(SourceType type, const uint8_t* p, int i) {
    const auto word = [](const uint8_t* q) { return static_cast<uint16_t>(q[0] | q[1] << 8); };
    const auto number = [&](const uint8_t* q) { return static_cast<double>(half_to_float(word(q))); };
    const auto nibble = [&](const uint8_t* q) { return i < 16 ? q[i] & 15 : q[i - 16] >> 4; };
    const auto fifth = [&](const uint8_t* q) { return (q[i / 8] >> (i % 8) & 1) << 4; };
    const int part = i / 32, j = i % 32;
    const auto sub = [&](const uint8_t* q, bool min) {  // six-bit scales of q4_k and q5_k
      if (part < 4) return q[part + (min ? 4 : 0)] & 63;
      return (min ? q[part + 4] >> 4 : q[part + 4] & 15) | (q[min ? part : part - 4] >> 6) << 4;
    };
    switch (type) {
      case SourceType::kF32: {
        float value;
        std::memcpy(&value, p, 4);
        return value;
      }
      case SourceType::kF16: return number(p);
      case SourceType::kBf16: return to_float(bf16{word(p)});
      case SourceType::kQ8_0: return number(p) * static_cast<int8_t>(p[2 + i]);
      case SourceType::kQ4_0: return number(p) * (nibble(p + 2) - 8);
      case SourceType::kQ4_1: return number(p) * nibble(p + 4) + number(p + 2);
      case SourceType::kQ5_0: return number(p) * ((nibble(p + 6) | fifth(p + 2)) - 16);
      case SourceType::kQ5_1: return number(p) * (nibble(p + 8) | fifth(p + 4)) + number(p + 2);
      case SourceType::kQ4_K:
        return number(p) * sub(p + 4, false) * (p[16 + part / 2 * 32 + j] >> (part % 2 * 4) & 15) - number(p + 2) * sub(p + 4, true);
      case SourceType::kQ5_K: {
        const int code = (p[48 + part / 2 * 32 + j] >> (part % 2 * 4) & 15) | (p[16 + j] >> part & 1) << 4;
        return number(p) * sub(p + 4, false) * code - number(p + 2) * sub(p + 4, true);
      }
      default: {
        const int half = i / 128, c = part % 4;
        const int code = (p[half * 64 + c % 2 * 32 + j] >> (c / 2 * 4) & 15) | (p[128 + half * 32 + j] >> (2 * c) & 3) << 4;
        return number(p + 208) * static_cast<int8_t>(p[192 + i / 16]) * (code - 32);
      }
    }
  }
};

bool kept(SourceType type, WeightKind kind) {
  const bool four = type == SourceType::kQ4_0 || type == SourceType::kQ4_1;
  return kind == WeightKind::kQ8 ? type == SourceType::kQ8_0 || type == SourceType::kQ4_0 : kind == WeightKind::kQ4 && four;
}

// Largest step between two values that a block of the kind can hold.
double step_of(WeightKind kind, const double* block) {
  const auto [least, most] = std::minmax_element(block, block + kWeightBlock);
  return kind == WeightKind::kQ8 ? std::max(-*least, *most) / 127 : (*most - *least) / 15;
}

void test_packing(Context& c, SourceType type, WeightKind kind, int rows, int columns) {
  const std::string what = "pack_weight " + shape_text({{"type", static_cast<int>(type)}, {"kind", static_cast<int>(kind)}, {"columns", columns}});
  const Source source(c.random, type, rows, columns);
  const DeviceBuffer<uint8_t> bytes(source.bytes);
  Packed weight(kind, rows + 1, columns);
  CHECK_CUDA(pack_weight(nullptr, weight.view, 1, bytes.get(), type, rows, columns));  // the first row stays poisoned
  std::vector<int32_t> indices(rows);
  for (int row = 0; row < rows; ++row) indices[row] = rows - row;
  const DeviceBuffer<int32_t> d_indices(indices);
  DeviceBuffer<float> out(rows * columns);
  CHECK_CUDA(unpack_weight(nullptr, out.get(), nullptr, weight.view, d_indices.get(), rows, columns, rows + 1));
  const std::vector<float> got = out.download();
  bool good = true;
  for (int row = 0; row < rows; ++row) {
    for (int i = 0; i < columns; ++i) {
      const double* expected = &source.values[static_cast<size_t>(rows - 1 - row) * columns];
      double limit = 1e-6 * std::fabs(expected[i]) + 1e-9;
      if (kind == WeightKind::kBf16) {
        limit += 0x1p-8 * std::fabs(expected[i]);
      } else if (type == SourceType::kQ4_K && kind == WeightKind::kQ4) {
        limit += 4e-5;  // scale and minimum are rounded to halves
      } else if (kind != WeightKind::kF32 && !kept(type, kind)) {
        limit += 0.53 * step_of(kind, expected + i / kWeightBlock * kWeightBlock) + 2e-4;  // and the minimum's half
      }
      good = good && std::fabs(got[row * columns + i] - expected[i]) <= limit;
    }
  }
  c.expect(good, what);
  c.expect(weight.values.check_guard() && weight.scales.check_guard() && out.check_guard(), what + ": wrote past its end");
}

void test_quantised_products(Context& c, WeightKind kind) {
  for (const auto& [rows, outputs, inputs] : {std::array{1, 1, 32}, {1, 40, 576}, {3, 33, 96}, {8, 50, 1024}, {9, 24, 544}, {16, 64, 320}}) {
    const std::string what = "linear " + shape_text({{"kind", static_cast<int>(kind)}, {"rows", rows}, {"outputs", outputs}, {"inputs", inputs}});
    const std::vector<float> w = c.random.normal(outputs * inputs, 0.01f, 0.1f), bias = c.random.normal(outputs), before = c.random.normal(rows * outputs);
    const std::vector<bf16> x = c.random.normal_bf16(rows * inputs);
    const DeviceBuffer<float> dw(w), d_bias(bias);
    const DeviceBuffer<bf16> dx(x);
    Packed weight(kind, outputs, inputs);
    CHECK_CUDA(pack_weight(nullptr, weight.view, 0, dw.get(), SourceType::kF32, outputs, inputs));
    DeviceBuffer<float> unpacked(outputs * inputs), out(before);
    CHECK_CUDA(unpack_weight(nullptr, unpacked.get(), nullptr, weight.view, nullptr, outputs, inputs, outputs));
    const std::vector<float> values = unpacked.download();
    const auto product = [&](int row, int output) {
      double sum = 0;
      for (int i = 0; i < inputs; ++i) sum += static_cast<double>(to_float(x[row * inputs + i])) * values[output * inputs + i];
      return sum;
    };
    std::vector<double> ref(before.size());
    for (int i = 0; i < rows * outputs; ++i) ref[i] = product(i / outputs, i % outputs) + bias[i % outputs] + before[i];
    CHECK_CUDA(linear(nullptr, out.get(), dx.get(), weight.view, d_bias.get(), rows, outputs, inputs, true));
    c.compare(out, ref, kProductLimit, what);

    if (outputs % 16 != 0) continue;
    const int width = outputs / 2;
    std::vector<double> gated(rows * width);
    for (int i = 0; i < rows * width; ++i) {
      const double gate = product(i / width, i % width);
      gated[i] = gate / (1 + std::exp(-gate)) * product(i / width, width + i % width);
    }
    DeviceBuffer<bf16> out_gated(gated.size());
    CHECK_CUDA(linear_gated(nullptr, out_gated.get(), dx.get(), weight.view, rows, width, inputs));
    c.compare(out_gated, gated, kRoundedLimit, "gated " + what);
  }
}

}  // namespace

void test_weights(Context& c) {
  for (const SourceType type : kTypes) {
    for (const WeightKind kind : {WeightKind::kF32, WeightKind::kBf16, WeightKind::kQ8, WeightKind::kQ4}) {
      const int block = source_block(type).values;
      test_packing(c, type, kind, 3, block == 256 ? 512 : 96);
      if (block == 1 && !in_blocks(kind)) test_packing(c, type, kind, 2, 40);
    }
  }
  for (const WeightKind kind : {WeightKind::kQ8, WeightKind::kQ4}) test_quantised_products(c, kind);

  Packed weight(WeightKind::kQ8, 2, 64);
  const DeviceBuffer<float> zeros(std::vector<float>(128));
  CHECK_CUDA(pack_weight(nullptr, weight.view, 0, zeros.get(), SourceType::kF32, 2, 64));
  const DeviceBuffer<int32_t> outside(std::vector<int32_t>{2, -1, 0});
  DeviceBuffer<float> out(3 * 64);
  CHECK_CUDA(unpack_weight(nullptr, out.get(), nullptr, weight.view, outside.get(), 3, 64, 2));
  const std::vector<float> rows = out.download();
  c.expect(std::isnan(rows[0]) && std::isnan(rows[127]), "unpack_weight of a row outside is NaN");
  c.expect(rows[128] == 0.0f, "zeros stay zeros in blocks");
  c.expect(pack_weight(nullptr, weight.view, 0, zeros.get(), SourceType::kF32, 1, 40) == cudaErrorInvalidValue, "blocks need 32 columns");

  for (int bits = 0; bits < 65536; ++bits) {
    const float value = half_to_float(static_cast<uint16_t>(bits));
    if (std::isnan(value)) continue;
    c.expect(float_to_half(value) == bits, "half to float and back");
  }
}

}  // namespace magicpig::test
