// Matrix products.
#include "../kernels/elementwise.h"
#include "../kernels/gemm.h"
#include "../kernels/linear.h"
#include "../runtime/cublaslt.h"
#include "context.h"

namespace magicpig::test {

namespace {

// `multiply` computes out (+)= x W^T + bias.
using Multiply = std::function<cudaError_t(float*, const bf16*, const bf16*, const float*, int, int, int, bool)>;

void test_product(Context& c, const char* name, const Multiply& multiply, std::initializer_list<std::array<int, 3>> shapes, bool biased) {
  for (const auto& [rows, outputs, inputs] : shapes) {
    const std::string what = std::string(name) + " " + shape_text({{"rows", rows}, {"outputs", outputs}, {"inputs", inputs}});
    const std::vector<bf16> x = c.random.normal_bf16(rows * inputs), w = c.random.normal_bf16(outputs * inputs);
    const std::vector<float> bias = c.random.normal(outputs), before = c.random.normal(rows * outputs);
    DeviceBuffer<bf16> dx(x), dw(w);
    DeviceBuffer<float> d_bias(bias), out(before.size());
    std::vector<double> ref(before.size());
    reference::linear(ref.data(), x.data(), w.data(), nullptr, rows, outputs, inputs);
    CHECK_CUDA(multiply(out.get(), dx.get(), dw.get(), nullptr, rows, outputs, inputs, false));
    c.compare(out, ref, kProductLimit, what);
    const float* d_b = biased ? d_bias.get() : nullptr;
    reference::linear(ref.data(), x.data(), w.data(), biased ? bias.data() : nullptr, rows, outputs, inputs);
    for (size_t i = 0; i < ref.size(); ++i) ref[i] += before[i];
    out.upload(before);
    CHECK_CUDA(multiply(out.get(), dx.get(), dw.get(), d_b, rows, outputs, inputs, true));
    c.compare(out, ref, kProductLimit, what + " accumulated");
  }
}

}  // namespace

void test_linear(Context& c) {
  const auto multiply = [](float* out, const bf16* x, const bf16* w, const float* bias, int rows, int outputs, int inputs, bool accumulate) {
    return linear(nullptr, out, x, bf16_weight(w), bias, rows, outputs, inputs, accumulate);
  };
  test_product(c, "linear", multiply, {{1, 1, 8}, {1, 40, 576}, {2, 33, 264}, {7, 16, 1000}, {8, 50, 72}, {9, 33, 576}, {16, 64, 328}, {13, 7, 2048}}, true);

  // A row does not depend on the others, nor on how many there are.
  const int inputs = 576, outputs = 50;
  const std::vector<bf16> x = c.random.normal_bf16(16 * inputs), w = c.random.normal_bf16(outputs * inputs);
  DeviceBuffer<bf16> dx(x), dw(w);
  DeviceBuffer<float> all(16 * outputs), one(outputs);
  CHECK_CUDA(linear(nullptr, all.get(), dx.get(), bf16_weight(dw.get()), nullptr, 16, outputs, inputs, false));
  const std::vector<float> whole = all.download();
  for (const int row : {0, 5, 15}) {
    CHECK_CUDA(linear(nullptr, one.get(), dx.get() + row * inputs, bf16_weight(dw.get()), nullptr, 1, outputs, inputs, false));
    c.equal(one, std::vector<float>(&whole[row * outputs], &whole[row * outputs] + outputs), "linear, one row alone");
  }

  for (const auto& [rows, width, inputs_] : {std::array{1, 8, 64}, {3, 24, 576}, {8, 40, 264}, {16, 72, 520}}) {
    const std::vector<bf16> gx = c.random.normal_bf16(rows * inputs_), gw = c.random.normal_bf16(2 * width * inputs_, 0.0f, 0.1f);
    std::vector<double> products(rows * 2 * width), ref(rows * width);
    reference::linear(products.data(), gx.data(), gw.data(), nullptr, rows, 2 * width, inputs_);
    for (int row = 0; row < rows; ++row) {
      for (int i = 0; i < width; ++i) ref[row * width + i] = reference::swiglu(products[row * 2 * width + i], products[row * 2 * width + width + i]);
    }
    DeviceBuffer<bf16> d_gx(gx), d_gw(gw), out(ref.size());
    CHECK_CUDA(linear_gated(nullptr, out.get(), d_gx.get(), bf16_weight(d_gw.get()), rows, width, inputs_));
    c.compare(out, ref, kRoundedLimit, "linear_gated " + shape_text({{"rows", rows}, {"width", width}, {"inputs", inputs_}}));
  }
}

void test_gemm(Context& c) {
  const auto own = [](float* out, const bf16* x, const bf16* w, const float* bias, int rows, int outputs, int inputs, bool accumulate) {
    return gemm(nullptr, out, x, w, bias, rows, outputs, inputs, accumulate);
  };
  test_product(c, "gemm", own, {{1, 1, 8}, {17, 33, 72}, {128, 128, 64}, {130, 140, 200}, {40, 257, 136}}, true);
  if (!c.quick) test_product(c, "gemm", own, {{300, 200, 1000}, {513, 129, 512}}, true);

  CublasLt library;
  if (!library.open()) {
    std::printf("    cuBLASLt: %s\n", library.why_not().c_str());
    return;
  }
  std::printf("    cuBLASLt: %s\n", library.path().c_str());
  DeviceBuffer<char> workspace(CublasLt::kWorkspaceBytes);
  const auto theirs = [&](float* out, const bf16* x, const bf16* w, const float*, int rows, int outputs, int inputs, bool accumulate) {
    return library.multiply(nullptr, out, x, w, rows, outputs, inputs, accumulate, workspace.get());
  };
  test_product(c, "cuBLASLt", theirs, {{17, 40, 72}, {130, 144, 200}, {300, 200, 1000}}, false);
}

}  // namespace magicpig::test
