// What the tests of all kernels share: limits on errors, and the checks that count.
#ifndef MAGICPIG_TEST_CONTEXT_H_
#define MAGICPIG_TEST_CONTEXT_H_

#include <algorithm>
#include <array>
#include <functional>
#include <string>

#include "harness.h"

namespace magicpig::test {

// Relative errors that rounding explains. float32 sums: 2^-24 times a few, on the matrix units (which truncate) times many; one
// rounding to bf16: 2^-9; attention also rounds its weights to bf16. A wrong index is off by order 1.
constexpr double kFloatLimit = 2e-6, kProductLimit = 3e-5, kRoundedLimit = 4e-3, kAttentionLimit = 6e-3;

struct Context {
  Random random;
  bool quick;
  int checks = 0, failures = 0;
  double largest = 0;  // relative error of the case that runs

  void expect(bool good, const std::string& what) {
    ++checks;
    if (good) return;
    ++failures;
    std::printf("    FAILED %s\n", what.c_str());
  }
  template <typename T, typename R>
  void compare(const DeviceBuffer<T>& out, const std::vector<R>& reference, double limit, const std::string& what) {
    const Difference d = difference(out.download(), reference);
    largest = std::max(largest, d.relative);
    char text[160];
    std::snprintf(text, sizeof text, "%s: relative error %.3g (limit %.3g), worst element %.3g rms", what.c_str(), d.relative, limit, d.worst);
    // One element's error may be a few times the root mean square of all.
    expect(d.relative <= limit && d.worst <= 30 * limit, text);
    expect(out.check_guard(), what + ": wrote past its end");
  }
  template <typename T>
  void equal(const DeviceBuffer<T>& out, const std::vector<T>& reference, const std::string& what) {
    const std::vector<T> host = out.download();
    size_t wrong = 0;
    for (size_t i = 0; i < reference.size(); ++i) wrong += host[i] != reference[i];
    expect(wrong == 0, what + ": " + std::to_string(wrong) + " of " + std::to_string(reference.size()) + " differ");
    expect(out.check_guard(), what + ": wrote past its end");
  }
};

inline std::vector<double> widen(const std::vector<float>& x) { return {x.begin(), x.end()}; }

inline std::string shape_text(std::initializer_list<std::pair<const char*, int64_t>> parts) {
  std::string text;
  for (const auto& [name, value] : parts) {
    if (!text.empty()) text += ' ';
    text.append(name).append("=").append(std::to_string(value));
  }
  return text;
}

// The tests, one for each kernel or group of kernels.
int test_layout();
void test_rms_norm(Context& c);
void test_rope(Context& c);
void test_elementwise(Context& c);
void test_linear(Context& c);
void test_gemm(Context& c);
void test_weights(Context& c);
void test_attention_prefill(Context& c);
void test_attention_decode(Context& c);
void test_merge(Context& c);
void test_simhash(Context& c);
void test_hadamard(Context& c);
void test_table_build(Context& c);
void test_sketch(Context& c);
void test_scatter_rows(Context& c);
void test_fill(Context& c);
void test_streams(Context& c);

}  // namespace magicpig::test

#endif  // MAGICPIG_TEST_CONTEXT_H_
