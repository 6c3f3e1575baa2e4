// kernels-test: every kernel against its double-precision reference, on fresh random inputs, odd shapes and poisoned outputs.
//
//   kernels-test [--seed N] [--filter NAME] [--quick]
//
// Exit status 0: all passed; 1: something differed; 2: a CUDA call failed; 77: no device. Built against the emulator it runs the
// same checks on the CPU, in three orders of threads.
#include <algorithm>
#include <array>
#include <chrono>
#include <functional>

#include "../kernels/attention_decode.h"
#include "../kernels/attention_prefill.h"
#include "../kernels/elementwise.h"
#include "../kernels/fill.h"
#include "../kernels/gemm.h"
#include "../kernels/hadamard.h"
#include "../kernels/linear.h"
#include "../kernels/rms_norm.h"
#include "../kernels/rope.h"
#include "../kernels/simhash.h"
#include "../kernels/sketch.h"
#include "../kernels/table_build.h"
#include "../runtime/cublaslt.h"
#include "harness.h"

namespace magicpig::test {

int test_layout();

namespace {

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

std::vector<double> widen(const std::vector<float>& x) { return {x.begin(), x.end()}; }

std::string shape_text(std::initializer_list<std::pair<const char*, int64_t>> parts) {
  std::string text;
  for (const auto& [name, value] : parts) text += (text.empty() ? "" : " ") + std::string(name) + "=" + std::to_string(value);
  return text;
}

void test_rms_norm(Context& c) {
  for (const auto& [rows, columns] : {std::pair{1, 8}, {3, 40}, {2, 576}, {5, 1032}, {2, 4096}}) {
    const std::string what = shape_text({{"rows", rows}, {"columns", columns}});
    const std::vector<float> x = c.random.normal(rows * columns, 0.3f, 2.0f), y = c.random.normal(rows * columns), w = c.random.normal(columns);
    DeviceBuffer<float> dx(x), dy(y), dw(w), out_f32(x.size());
    DeviceBuffer<bf16> out(x.size());
    std::vector<double> ref(x.size()), sum(x.size());
    reference::rms_norm(ref.data(), widen(x).data(), w.data(), rows, columns, 1e-5);
    CHECK_CUDA(rms_norm(nullptr, out.get(), dx.get(), dw.get(), rows, columns, 1e-5f));
    c.compare(out, ref, kRoundedLimit, "rms_norm " + what);
    CHECK_CUDA(rms_norm_f32(nullptr, out_f32.get(), dx.get(), dw.get(), rows, columns, 1e-5f));
    c.compare(out_f32, ref, kFloatLimit, "rms_norm_f32 " + what);

    for (size_t i = 0; i < x.size(); ++i) sum[i] = static_cast<double>(x[i]) + y[i];
    reference::rms_norm(ref.data(), sum.data(), w.data(), rows, columns, 1e-5);
    out.poison();
    CHECK_CUDA(add_rms_norm(nullptr, out.get(), dx.get(), dy.get(), dw.get(), rows, columns, 1e-5f));
    c.compare(out, ref, kRoundedLimit, "add_rms_norm " + what);
    c.compare(dx, sum, kFloatLimit, "add_rms_norm's sum " + what);
  }
  DeviceBuffer<float> x(16);
  DeviceBuffer<bf16> out(16);
  c.expect(rms_norm(nullptr, out.get(), x.get(), x.get(), 1, 12, 1e-5f) == cudaErrorInvalidValue, "rms_norm takes 12 columns");
}

void test_rope(Context& c) {
  for (const auto& [rows, heads, kv_heads, dim] : {std::array{1, 1, 1, 8}, {5, 9, 3, 64}, {3, 8, 2, 80}, {2, 32, 8, 128}}) {
    const std::string what = shape_text({{"rows", rows}, {"heads", heads}, {"dim", dim}});
    std::vector<int32_t> positions(rows), slots(rows);
    for (int i = 0; i < rows; ++i) positions[i] = c.random.integer(0, 130000);
    for (int i = 0; i < rows; ++i) slots[i] = i == 1 ? -1 : 2 * (rows - 1 - i);
    std::vector<float> frequencies(dim / 2);
    for (int j = 0; j < dim / 2; ++j) frequencies[j] = std::pow(500000.0f, -2.0f * static_cast<float>(j) / static_cast<float>(dim));
    DeviceBuffer<int32_t> d_positions(positions), d_slots(slots);
    DeviceBuffer<float> d_frequencies(frequencies), table(rows * dim);
    std::vector<double> ref_table(rows * dim);
    reference::rope_table(ref_table.data(), positions.data(), frequencies.data(), rows, dim, 1.25);
    CHECK_CUDA(rope_table(nullptr, table.get(), d_positions.get(), d_frequencies.get(), rows, dim, 1.25f));
    c.compare(table, ref_table, kFloatLimit, "rope_table " + what);

    const int stride = (heads + 2 * kv_heads) * dim;
    const std::vector<float> qkv = c.random.normal(rows * stride);
    std::vector<double> ref = widen(qkv);
    reference::rope(ref.data(), ref_table.data(), rows, stride, heads + kv_heads, dim);

    DeviceBuffer<float> d_qkv(qkv);
    DeviceBuffer<bf16> q(rows * heads * dim), k(2 * rows * kv_heads * dim), v(2 * rows * kv_heads * dim);
    std::vector<double> ref_q(q.size()), ref_k(k.size()), ref_v(v.size());
    std::vector<bool> stored(2 * rows);
    for (int row = 0; row < rows; ++row) {
      std::copy_n(&ref[row * stride], heads * dim, &ref_q[row * heads * dim]);
      if (slots[row] < 0) continue;
      stored[slots[row]] = true;
      std::copy_n(&ref[row * stride + heads * dim], kv_heads * dim, &ref_k[slots[row] * kv_heads * dim]);
      std::copy_n(&ref[row * stride + (heads + kv_heads) * dim], kv_heads * dim, &ref_v[slots[row] * kv_heads * dim]);
    }
    CHECK_CUDA(cudaMemsetAsync(k.get(), 0, k.bytes(), nullptr));
    CHECK_CUDA(cudaMemsetAsync(v.get(), 0, v.bytes(), nullptr));
    CHECK_CUDA(rope_split(nullptr, q.get(), k.get(), v.get(), d_qkv.get(), table.get(), d_slots.get(), rows, heads, kv_heads, dim));
    c.compare(q, ref_q, kRoundedLimit, "rope_split q " + what);
    c.compare(k, ref_k, kRoundedLimit, "rope_split k " + what);
    c.compare(v, ref_v, kRoundedLimit, "rope_split v " + what);
    CHECK_CUDA(rope(nullptr, d_qkv.get(), table.get(), rows, stride, heads + kv_heads, dim));
    c.compare(d_qkv, ref, kFloatLimit, "rope " + what);
  }
}

void test_elementwise(Context& c) {
  for (const auto& [rows, width] : {std::pair{1, 8}, {3, 40}, {7, 1536}}) {
    const std::string what = shape_text({{"rows", rows}, {"width", width}});
    const std::vector<float> gate_up = c.random.normal(rows * 2 * width, 0.0f, 3.0f);
    std::vector<double> ref(rows * width);
    for (int row = 0; row < rows; ++row) {
      for (int i = 0; i < width; ++i) ref[row * width + i] = reference::swiglu(gate_up[row * 2 * width + i], gate_up[row * 2 * width + width + i]);
    }
    DeviceBuffer<float> d(gate_up);
    DeviceBuffer<bf16> out(ref.size());
    CHECK_CUDA(swiglu(nullptr, out.get(), d.get(), rows, width));
    c.compare(out, ref, kRoundedLimit, "swiglu " + what);

    const std::vector<float> bias = c.random.normal(width);
    DeviceBuffer<float> d_bias(bias), biased(rows * width);
    std::vector<double> ref_biased(rows * width);
    for (int i = 0; i < rows * width; ++i) ref_biased[i] = bias[i % width];
    CHECK_CUDA(add_bias(nullptr, biased.get(), d_bias.get(), rows, width, false));
    c.compare(biased, ref_biased, 0, "add_bias " + what);
    for (double& value : ref_biased) value *= 2;
    CHECK_CUDA(add_bias(nullptr, biased.get(), d_bias.get(), rows, width, true));
    c.compare(biased, ref_biased, 0, "add_bias accumulated " + what);

    const int vocabulary = 11;
    const std::vector<bf16> table = c.random.normal_bf16(vocabulary * width);
    std::vector<int32_t> tokens(rows);
    for (int32_t& token : tokens) token = c.random.integer(0, vocabulary - 1);
    std::vector<double> rows_of(rows * width);
    std::vector<float> table_f32(table.size());
    for (size_t i = 0; i < table.size(); ++i) table_f32[i] = to_float(table[i]);
    for (int row = 0; row < rows; ++row) {
      for (int i = 0; i < width; ++i) rows_of[row * width + i] = table_f32[tokens[row] * width + i];
    }
    DeviceBuffer<bf16> d_table(table);
    DeviceBuffer<float> d_table_f32(table_f32), rows_out(rows * width);
    DeviceBuffer<int32_t> d_tokens(tokens);
    CHECK_CUDA(embed(nullptr, rows_out.get(), d_table.get(), d_tokens.get(), rows, width, vocabulary));
    c.compare(rows_out, rows_of, 0, "embed " + what);
    rows_out.poison();
    CHECK_CUDA(copy_rows(nullptr, rows_out.get(), d_table_f32.get(), d_tokens.get(), rows, width, vocabulary));
    c.compare(rows_out, rows_of, 0, "copy_rows " + what);
    tokens.assign(rows, vocabulary);
    d_tokens.upload(tokens);
    CHECK_CUDA(cudaMemsetAsync(rows_out.get(), 0, rows_out.bytes(), nullptr));
    CHECK_CUDA(embed(nullptr, rows_out.get(), d_table.get(), d_tokens.get(), rows, width, vocabulary));
    bool all_nan = true;
    for (const float value : rows_out.download()) all_nan = all_nan && std::isnan(value);
    c.expect(all_nan, "embed of a token outside the vocabulary is NaN");
  }
  for (const int count : {1, 4, 7, 8, 9, 1021, 4096}) {
    const std::string what = shape_text({{"count", count}});
    const std::vector<float> x = c.random.normal(count), y = c.random.normal(count);
    std::vector<double> sum(count);
    std::vector<float> rounded(count);
    for (int i = 0; i < count; ++i) {
      sum[i] = static_cast<double>(x[i]) + y[i];
      rounded[i] = to_float(magicpig::to_bf16(x[i]));
    }
    DeviceBuffer<float> dx(x), dy(y), back(count);
    DeviceBuffer<bf16> half(count);
    CHECK_CUDA(to_bf16(nullptr, half.get(), dx.get(), count));
    c.compare(half, rounded, 0, "to_bf16 " + what);
    CHECK_CUDA(to_f32(nullptr, back.get(), half.get(), count));
    c.compare(back, rounded, 0, "to_f32 " + what);
    CHECK_CUDA(add(nullptr, dx.get(), dy.get(), count));
    c.compare(dx, sum, kFloatLimit, "add " + what);
  }
}

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

void test_linear(Context& c) {
  const auto multiply = [](float* out, const bf16* x, const bf16* w, const float* bias, int rows, int outputs, int inputs, bool accumulate) {
    return linear(nullptr, out, x, w, bias, rows, outputs, inputs, accumulate);
  };
  test_product(c, "linear", multiply, {{1, 1, 8}, {1, 40, 576}, {2, 33, 264}, {7, 16, 1000}, {8, 50, 72}, {9, 33, 576}, {16, 64, 328}, {13, 7, 2048}}, true);

  // A row does not depend on the others, nor on how many there are.
  const int inputs = 576, outputs = 50;
  const std::vector<bf16> x = c.random.normal_bf16(16 * inputs), w = c.random.normal_bf16(outputs * inputs);
  DeviceBuffer<bf16> dx(x), dw(w);
  DeviceBuffer<float> all(16 * outputs), one(outputs);
  CHECK_CUDA(linear(nullptr, all.get(), dx.get(), dw.get(), nullptr, 16, outputs, inputs, false));
  const std::vector<float> whole = all.download();
  for (const int row : {0, 5, 15}) {
    CHECK_CUDA(linear(nullptr, one.get(), dx.get() + row * inputs, dw.get(), nullptr, 1, outputs, inputs, false));
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
    CHECK_CUDA(linear_gated(nullptr, out.get(), d_gx.get(), d_gw.get(), rows, width, inputs_));
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

// A cache in either layout, or in pages in a random order with NaN in the pages that belong to nobody.
struct Cache {
  std::vector<bf16> k, v;
  std::vector<int32_t> pages;
  KvView view{};
  int64_t sequence_stride = 0;
  int pages_stride = 0;
  int kv_heads, dim;

  Cache(Random& random, int sequences, int tokens, int kv_heads_, int dim_, bool paged, bool heads_first) : kv_heads(kv_heads_), dim(dim_) {
    const int pages_each = tokens / kPageTokens + 1;
    const int64_t elements = static_cast<int64_t>(sequences) * (paged ? (pages_each + 1) * kPageTokens : tokens) * kv_heads * dim;
    k = random.normal_bf16(elements);
    v = random.normal_bf16(elements);
    view.token_stride = heads_first ? dim : kv_heads * dim;
    view.head_stride = heads_first ? (paged ? kPageTokens : tokens) * dim : dim;
    view.page_stride = paged ? kPageTokens * kv_heads * dim : kPageTokens * view.token_stride;
    sequence_stride = static_cast<int64_t>(tokens) * kv_heads * dim;
    if (paged) {
      pages_stride = pages_each;
      std::vector<int32_t> all(sequences * (pages_each + 1));
      for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int32_t>(i);
      std::shuffle(all.begin(), all.end(), random.engine());
      pages.assign(all.begin(), all.begin() + sequences * pages_each);
      for (size_t i = pages.size(); i < all.size(); ++i) {
        std::fill_n(&k[all[i] * view.page_stride], view.page_stride, bf16{0xffff});
        std::fill_n(&v[all[i] * view.page_stride], view.page_stride, bf16{0xffff});
      }
    }
  }
  // Makes what lies past a sequence's end NaN: nothing there may reach a result.
  void spoil(int sequence, int from, int tokens) {
    for (int token = from; token < tokens; ++token) {
      for (int head = 0; head < kv_heads; ++head) {
        std::fill_n(&k[offset(sequence, token, head)], dim, bf16{0xffff});
        std::fill_n(&v[offset(sequence, token, head)], dim, bf16{0xffff});
      }
    }
  }
  int64_t offset(int sequence, int token, int head) const {
    return pages.empty() ? sequence * sequence_stride + view.row(nullptr, token, head) : view.row(&pages[sequence * pages_stride], token, head);
  }
  std::vector<int64_t> offsets(int sequence, int keys, int head) const {
    std::vector<int64_t> result(keys);
    for (int token = 0; token < keys; ++token) result[token] = offset(sequence, token, head);
    return result;
  }
};

void test_attention_prefill(Context& c) {
  struct Shape {
    int queries, keys, query_heads, kv_heads, dim;
    int64_t query_position, key_position;
    bool paged, heads_first;
  };
  std::vector<Shape> shapes = {
      {1, 1, 1, 1, 64, 0, 0, false, false},      {70, 70, 2, 2, 64, 0, 0, false, true},   {37, 150, 6, 2, 128, 113, 0, false, false},
      {130, 130, 4, 1, 80, 0, 0, false, false},  {9, 200, 9, 3, 64, 191, 0, true, false}, {20, 64, 8, 2, 128, 100, 40, false, true},
      {6, 40, 2, 1, 64, 2, 5, true, true},
  };
  if (!c.quick) shapes.push_back({300, 700, 8, 2, 128, 400, 0, true, false});
  for (const Shape& s : shapes) {
    const std::string what = "attention_prefill " + shape_text({{"queries", s.queries}, {"keys", s.keys}, {"heads", s.query_heads},
                                                                {"kv_heads", s.kv_heads}, {"dim", s.dim}, {"paged", s.paged}});
    Cache cache(c.random, 1, s.keys + 30, s.kv_heads, s.dim, s.paged, s.heads_first);
    cache.spoil(0, s.keys, s.keys + 30);
    const std::vector<bf16> q = c.random.normal_bf16(s.queries * s.query_heads * s.dim);
    const double scale = 1 / std::sqrt(static_cast<double>(s.dim));
    std::vector<double> ref(q.size()), ref_lse(s.queries * s.query_heads);
    for (int query = 0; query < s.queries; ++query) {
      for (int head = 0; head < s.query_heads; ++head) {
        const int row = query * s.query_heads + head;
        const int keys = visible_keys(s.query_position + query, s.key_position, s.keys);
        const auto offsets = cache.offsets(0, keys, head / (s.query_heads / s.kv_heads));
        ref_lse[row] = reference::attention_row(&ref[row * s.dim], &q[row * s.dim], cache.k.data(), cache.v.data(), offsets.data(), keys, s.dim, scale);
      }
    }
    DeviceBuffer<bf16> dq(q), dk(cache.k), dv(cache.v), out_bf16(q.size());
    DeviceBuffer<int32_t> pages(cache.pages);
    DeviceBuffer<float> out(q.size()), lse(ref_lse.size());
    KvView view = cache.view;
    view.k = dk.get();
    view.v = dv.get();
    view.pages = s.paged ? pages.get() : nullptr;
    const PrefillShape shape{s.queries, s.keys, s.query_heads, s.kv_heads, s.dim, s.query_position, s.key_position, static_cast<float>(scale)};
    CHECK_CUDA(attention_prefill(nullptr, out.get(), nullptr, lse.get(), dq.get(), view, shape));
    c.compare(out, ref, kAttentionLimit, what);
    c.compare(lse, ref_lse, 1e-4, what + " lse");
    CHECK_CUDA(attention_prefill(nullptr, nullptr, out_bf16.get(), nullptr, dq.get(), view, shape));
    c.compare(out_bf16, ref, kAttentionLimit, what + " bf16");
  }
}

void test_attention_decode(Context& c) {
  struct Shape {
    std::vector<int32_t> lengths;
    int query_heads, kv_heads, dim, split;
    bool paged, heads_first;
  };
  std::vector<Shape> shapes = {
      {{1}, 1, 1, 64, 64, false, false},      {{0, 5, 64}, 9, 3, 64, 64, false, false}, {{130, 0, 257}, 8, 2, 128, 64, true, false},
      {{300}, 4, 1, 80, 128, false, true},    {{77, 200}, 20, 1, 64, 256, true, true},  {{128}, 6, 3, 128, 64, false, true},
  };
  if (!c.quick) shapes.push_back({{3000, 1, 0, 2049}, 32, 8, 128, 512, true, false});
  for (const Shape& s : shapes) {
    const int sequences = static_cast<int>(s.lengths.size());
    const int most = *std::max_element(s.lengths.begin(), s.lengths.end());
    const std::string what = "attention_decode " + shape_text({{"sequences", sequences}, {"keys", most}, {"heads", s.query_heads},
                                                               {"kv_heads", s.kv_heads}, {"dim", s.dim}, {"paged", s.paged}});
    Cache cache(c.random, sequences, most + 30, s.kv_heads, s.dim, s.paged, s.heads_first);
    const std::vector<bf16> q = c.random.normal_bf16(sequences * s.query_heads * s.dim);
    const double scale = 1 / std::sqrt(static_cast<double>(s.dim));
    std::vector<double> ref(q.size()), ref_lse(sequences * s.query_heads);
    for (int sequence = 0; sequence < sequences; ++sequence) {
      cache.spoil(sequence, s.lengths[sequence], most + 30);
      for (int head = 0; head < s.query_heads; ++head) {
        const int row = sequence * s.query_heads + head;
        const auto offsets = cache.offsets(sequence, s.lengths[sequence], head / (s.query_heads / s.kv_heads));
        ref_lse[row] = reference::attention_row(&ref[row * s.dim], &q[row * s.dim], cache.k.data(), cache.v.data(), offsets.data(),
                                                s.lengths[sequence], s.dim, scale);
      }
    }
    DeviceBuffer<bf16> dq(q), dk(cache.k), dv(cache.v), out_bf16(q.size());
    DeviceBuffer<int32_t> pages(cache.pages), lengths(s.lengths);
    DeviceBuffer<float> out(q.size()), lse(ref_lse.size());
    KvView view = cache.view;
    view.k = dk.get();
    view.v = dv.get();
    view.pages = s.paged ? pages.get() : nullptr;
    DecodeShape shape{sequences, s.query_heads, s.kv_heads, s.dim, cache.pages_stride, cache.sequence_stride, most, s.split, static_cast<float>(scale)};
    DeviceBuffer<char> workspace(attention_decode_workspace(shape));
    CHECK_CUDA(attention_decode(nullptr, out.get(), nullptr, lse.get(), workspace.get(), dq.get(), view, lengths.get(), shape));
    c.compare(out, ref, kAttentionLimit, what);
    c.compare(lse, ref_lse, 1e-4, what + " lse");
    c.expect(workspace.check_guard(), what + ": wrote past its workspace");
    CHECK_CUDA(attention_decode(nullptr, nullptr, out_bf16.get(), nullptr, workspace.get(), dq.get(), view, lengths.get(), shape));
    c.compare(out_bf16, ref, kAttentionLimit, what + " bf16");

    // A larger bound on the lengths changes nothing, to the bit.
    const std::vector<float> exact = out.download();
    shape.max_keys = most + 3 * s.split;
    DeviceBuffer<char> larger(attention_decode_workspace(shape));
    out.poison();
    const bool one_split = attention_decode_workspace(DecodeShape{sequences, s.query_heads, s.kv_heads, s.dim, 0, 0, most, s.split, 1}) == 0;
    CHECK_CUDA(attention_decode(nullptr, out.get(), nullptr, lse.get(), larger.get(), dq.get(), view, lengths.get(), shape));
    if (one_split) {
      c.compare(out, ref, kAttentionLimit, what + " with a larger bound");
    } else {
      c.equal(out, exact, what + " with a larger bound");
    }
  }
}

void test_merge(Context& c) {
  for (const auto& [rows, dim] : {std::pair{1, 4}, {9, 64}, {33, 128}}) {
    const float none = -HUGE_VALF;
    std::vector<float> a = c.random.normal(rows * dim), b = c.random.normal(rows * dim);
    std::vector<float> lse_a = c.random.normal(rows, 3.0f, 4.0f), lse_b = c.random.normal(rows, 3.0f, 4.0f);
    if (rows > 3) {
      lse_a[1] = lse_a[2] = lse_b[2] = lse_b[3] = none;
      std::fill_n(&a[dim], dim, std::nanf(""));  // a part without keys may hold anything
    }
    std::vector<double> ref(rows * dim), ref_lse(rows);
    for (int row = 0; row < rows; ++row) {
      const double top = std::max(lse_a[row], lse_b[row]);
      const double wa = top == none ? 0 : std::exp(lse_a[row] - top), wb = top == none ? 0 : std::exp(lse_b[row] - top);
      ref_lse[row] = top == none ? top : top + std::log(wa + wb);
      for (int i = 0; i < dim; ++i) {
        ref[row * dim + i] = top == none ? 0 : ((wa > 0 ? wa * a[row * dim + i] : 0) + (wb > 0 ? wb * b[row * dim + i] : 0)) / (wa + wb);
      }
    }
    DeviceBuffer<float> da(a), db(b), dla(lse_a), dlb(lse_b), out(ref.size()), lse(rows);
    DeviceBuffer<bf16> out_bf16(ref.size());
    CHECK_CUDA(merge_attention(nullptr, out.get(), nullptr, lse.get(), da.get(), dla.get(), db.get(), dlb.get(), rows, dim));
    c.compare(out, ref, 2e-5, "merge_attention " + shape_text({{"rows", rows}, {"dim", dim}}));
    c.compare(lse, ref_lse, 1e-5, "merge_attention lse");
    CHECK_CUDA(merge_attention(nullptr, nullptr, out_bf16.get(), dla.get(), da.get(), dla.get(), db.get(), dlb.get(), rows, dim));
    c.compare(out_bf16, ref, kRoundedLimit, "merge_attention bf16");
    c.compare(dla, ref_lse, 1e-5, "merge_attention lse in place");
  }
}

void test_simhash(Context& c) {
  struct Shape {
    int rows, dim, bits, tables;
    bool centred, tables_first;
  };
  std::vector<Shape> shapes = {{1, 4, 1, 1, false, false},   {5, 64, 10, 20, true, false}, {130, 128, 10, 12, true, true}, {17, 80, 7, 9, false, true},
                               {33, 128, 16, 66, true, true}, {3, 256, 12, 5, true, false}, {2, 60, 11, 70, false, false}};
  if (!c.quick) shapes.push_back({1000, 128, 10, 150, true, true});
  for (const Shape& s : shapes) {
    const std::string what = "simhash " + shape_text({{"rows", s.rows}, {"dim", s.dim}, {"bits", s.bits}, {"tables", s.tables}});
    const int stride = projection_stride(s.dim);
    const uint64_t seed = c.random.engine()();
    DeviceBuffer<int8_t> projections(static_cast<size_t>(s.bits) * s.tables * stride);
    CHECK_CUDA(simhash_projections(nullptr, projections.get(), s.dim, s.bits, s.tables, seed));
    std::vector<int8_t> ref_projections(projections.size());
    const WeightQuantiles quantiles = weight_quantiles();
    for (int t = 0; t < s.tables; ++t) {
      for (int j = 0; j < s.bits; ++j) {
        for (int i = 0; i < s.dim; ++i) {
          const PhiloxWords words = philox({{static_cast<uint32_t>(i / 4), static_cast<uint32_t>(j), static_cast<uint32_t>(t), 0u}},
                                           static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
          ref_projections[static_cast<size_t>(t * s.bits + j) * stride + i] = static_cast<int8_t>(projection_weight(quantiles, words.word[i % 4]));
        }
      }
    }
    c.equal(projections, ref_projections, what + " projections");

    // bf16 values are float32 values too, so that both forms must agree. Rows lie apart, as the keys of one head do.
    const int x_stride = s.dim + 8;
    std::vector<bf16> x16 = c.random.normal_bf16(s.rows * x_stride, 0.7f);
    if (s.rows > 4) {
      std::fill_n(&x16[2 * x_stride], s.dim, bf16{0});       // no component: code of the zero vector
      x16[3 * x_stride + s.dim - 1] = bf16{0x7f80};          // infinity
      x16[4 * x_stride] = bf16{0x7fc0};                      // NaN
    }
    std::vector<float> x(x16.size());
    for (size_t i = 0; i < x.size(); ++i) x[i] = to_float(x16[i]);
    const std::vector<float> centre = c.random.normal(s.dim, 0.7f, 0.1f);
    const float* used = s.centred ? centre.data() : nullptr;
    std::vector<uint16_t> codes(static_cast<size_t>(s.rows) * s.tables);
    std::vector<float> norms(s.rows);
    const int64_t row_stride = s.tables_first ? 1 : s.tables, table_stride = s.tables_first ? s.rows : 1;
    int32_t bad = 0;
    std::vector<int32_t> rounded(s.dim);
    for (int row = 0; row < s.rows; ++row) {
      const bool finite = reference::round_vector(rounded.data(), &norms[row], &x[row * x_stride], used, s.dim);
      bad += !finite;
      if (!finite) norms[row] = 0;
      for (int t = 0; t < s.tables; ++t) {
        codes[row * row_stride + t * table_stride] = finite ? reference::code(rounded.data(), ref_projections.data(), s.dim, s.bits, t) : 0;
      }
    }
    DeviceBuffer<float> dx(x), d_centre(centre), d_norms(s.rows);
    DeviceBuffer<bf16> dx16(x16);
    DeviceBuffer<uint16_t> d_codes(codes.size());
    DeviceBuffer<int32_t> non_finite(1);
    non_finite.upload({0});
    const HashShape shape{s.rows, s.dim, s.bits, s.tables, x_stride, row_stride, table_stride};
    const float* d_used = s.centred ? d_centre.get() : nullptr;
    CHECK_CUDA(simhash(nullptr, d_codes.get(), d_norms.get(), non_finite.get(), dx.get(), d_used, projections.get(), shape));
    c.equal(d_codes, codes, what);
    c.equal(non_finite, {bad}, what + " non-finite rows");
    std::vector<float> got = d_norms.download();
    for (int row = 0; row < s.rows; ++row) {
      if (s.rows > 4 && (row == 3 || row == 4)) {
        c.expect(std::isnan(got[row]), what + ": the norm of a vector that is not finite is NaN");
      } else {
        // Sums of squares in float64 differ in their order only: the same float32, or its neighbour.
        c.expect(std::fabs(got[row] - norms[row]) <= 1.2e-7f * norms[row], what + " norm of row " + std::to_string(row));
      }
    }
    d_codes.poison();
    CHECK_CUDA(simhash_bf16(nullptr, d_codes.get(), nullptr, nullptr, dx16.get(), d_used, projections.get(), shape));
    c.equal(d_codes, codes, what + " from bf16");
  }

  const int rows = 53, heads = 3, dim = 40;
  const std::vector<float> x = c.random.normal(rows * heads * dim, 1.0f);
  std::vector<float> mean(heads * dim);
  for (int i = 0; i < heads * dim; ++i) {
    double sum = 0;
    for (int row = 0; row < rows; ++row) sum += x[row * heads * dim + i];
    mean[i] = static_cast<float>(sum / rows);
  }
  DeviceBuffer<float> dx(x), d_mean(mean.size());
  CHECK_CUDA(column_mean(nullptr, d_mean.get(), dx.get(), rows, heads, dim, heads * dim, dim));
  c.equal(d_mean, mean, "column_mean");
}

void test_hadamard(Context& c) {
  struct Shape {
    int rows, dim, bits, tables;
    bool centred, tables_first;
  };
  for (const Shape& s : {Shape{1, 4, 1, 1, false, false}, {6, 64, 10, 20, true, false}, {9, 128, 10, 50, true, true}, {7, 80, 16, 9, false, true},
                         {5, 256, 12, 33, true, false}, {3, 100, 11, 70, false, false}}) {
    const std::string what = "hadamard " + shape_text({{"rows", s.rows}, {"dim", s.dim}, {"bits", s.bits}, {"tables", s.tables}});
    const uint64_t seed = c.random.engine()();
    DeviceBuffer<uint32_t> flips(hadamard_words(s.dim, s.bits, s.tables));
    CHECK_CUDA(hadamard_flips(nullptr, flips.get(), s.dim, s.bits, s.tables, seed));
    const int x_stride = s.dim + 4;
    std::vector<bf16> x16 = c.random.normal_bf16(s.rows * x_stride, 0.7f);
    if (s.rows > 4) {
      std::fill_n(&x16[2 * x_stride], s.dim, bf16{0});
      x16[3 * x_stride + s.dim - 1] = bf16{0xff80};
    }
    std::vector<float> x(x16.size());
    for (size_t i = 0; i < x.size(); ++i) x[i] = to_float(x16[i]);
    const std::vector<float> centre = c.random.normal(s.dim, 0.7f, 0.1f);
    const float* used = s.centred ? centre.data() : nullptr;
    const int64_t row_stride = s.tables_first ? 1 : s.tables, table_stride = s.tables_first ? s.rows : 1;
    std::vector<uint16_t> codes(static_cast<size_t>(s.rows) * s.tables), row_codes(s.tables);
    std::vector<float> norms(s.rows);
    int32_t bad = 0;
    for (int row = 0; row < s.rows; ++row) {
      if (!reference::hadamard_codes(row_codes.data(), &norms[row], &x[row * x_stride], used, s.dim, s.bits, s.tables, seed)) {
        std::fill(row_codes.begin(), row_codes.end(), uint16_t{0});
        norms[row] = 0;
        ++bad;
      }
      for (int t = 0; t < s.tables; ++t) codes[row * row_stride + t * table_stride] = row_codes[t];
    }
    DeviceBuffer<float> dx(x), d_centre(centre), d_norms(s.rows);
    DeviceBuffer<bf16> dx16(x16);
    DeviceBuffer<uint16_t> d_codes(codes.size());
    DeviceBuffer<int32_t> non_finite(1);
    non_finite.upload({0});
    const HashShape shape{s.rows, s.dim, s.bits, s.tables, x_stride, row_stride, table_stride};
    const float* d_used = s.centred ? d_centre.get() : nullptr;
    CHECK_CUDA(hadamard(nullptr, d_codes.get(), d_norms.get(), non_finite.get(), dx.get(), d_used, flips.get(), shape));
    c.equal(d_codes, codes, what);
    c.equal(non_finite, {bad}, what + " non-finite rows");
    std::vector<float> got = d_norms.download();
    for (int row = 0; row < s.rows; ++row) {
      if (s.rows > 4 && row == 3) {
        c.expect(std::isnan(got[row]), what + ": the norm of a vector that is not finite is NaN");
      } else {
        c.expect(got[row] == norms[row], what + " norm of row " + std::to_string(row));
      }
    }
    d_codes.poison();
    CHECK_CUDA(hadamard_bf16(nullptr, d_codes.get(), nullptr, nullptr, dx16.get(), d_used, flips.get(), shape));
    c.equal(d_codes, codes, what + " from bf16");
  }
}

void test_table_build(Context& c) {
  struct Shape {
    int keys, bits, tables;
    bool skewed;
  };
  std::vector<Shape> shapes = {{1, 1, 2, false}, {31, 4, 1, false}, {1000, 10, 3, false}, {257, 11, 2, true}, {700, 12, 2, false}, {900, 16, 2, true}};
  if (!c.quick) shapes.insert(shapes.end(), {{65535, 10, 2, false}, {65535, 16, 1, false}, {40000, 8, 1, true}});
  for (const Shape& s : shapes) {
    const std::string what = "table_build " + shape_text({{"keys", s.keys}, {"bits", s.bits}, {"tables", s.tables}});
    const int stride = s.keys + 3;
    std::vector<uint16_t> codes(static_cast<size_t>(stride) * s.tables);
    for (uint16_t& code : codes) {
      code = static_cast<uint16_t>(c.random.integer(0, (1 << s.bits) - 1));
      if (s.skewed && c.random.integer(0, 3) > 0) code = static_cast<uint16_t>((1 << s.bits) - 2);
    }
    std::vector<uint16_t> starts(segment_starts(s.tables, s.bits)), ids(segment_ids(s.tables, s.keys));
    for (int t = 0; t < s.tables; ++t) {
      reference::table_build(&starts[segment_starts(t, s.bits)], &ids[segment_ids(t, s.keys)], &codes[static_cast<size_t>(t) * stride], s.keys, s.bits);
    }
    DeviceBuffer<uint16_t> d_codes(codes), d_starts(starts.size()), d_ids(ids.size());
    DeviceBuffer<char> workspace(table_build_workspace(s.keys, s.bits, s.tables));
    CHECK_CUDA(table_build(nullptr, d_starts.get(), d_ids.get(), workspace.get(), d_codes.get(), s.keys, s.bits, s.tables, stride));
    c.equal(d_ids, ids, what + " ids");
    c.equal(d_starts, starts, what + " starts");
  }
}

void test_sketch(Context& c) {
  struct Shape {
    int keys, dim, bits, kv_heads, group;
    bool centred, bf16_keys;
    double budget;
  };
  std::vector<Shape> shapes = {{1, 8, 1, 1, 1, false, false, 0.5},   {700, 64, 2, 2, 3, true, false, 40},  {130, 80, 3, 1, 4, true, true, 20},
                               {333, 128, 4, 1, 9, false, true, 50}, {90, 256, 2, 1, 2, true, false, 10}, {5000, 64, 1, 1, 2, true, true, 9000}};
  if (!c.quick) shapes.push_back({20000, 128, 2, 2, 4, true, true, 600});
  for (const Shape& s : shapes) {
    const std::string what = "sketch " + shape_text({{"keys", s.keys}, {"dim", s.dim}, {"bits", s.bits}, {"kv_heads", s.kv_heads}, {"group", s.group}});
    const int size = hadamard_size(s.dim), words = size / 32, heads = s.kv_heads * s.group;
    const SketchShape shape{s.dim, s.bits, s.kv_heads, s.group, s.keys + 37};
    const uint64_t seed = c.random.engine()();
    const float scale = 1.0f / std::sqrt(static_cast<float>(s.dim));
    // Keys of a narrow cone, one of them the centre itself.
    std::vector<float> centre = c.random.normal(s.kv_heads * s.dim, 0.0f, 1.5f), x = c.random.normal(s.kv_heads * s.keys * s.dim, 0.0f, 1.0f);
    for (size_t i = 0; i < x.size(); ++i) x[i] = to_float(magicpig::to_bf16(x[i] + (s.centred ? centre[i / (s.keys * s.dim) * s.dim + i % s.dim] : 0.0f)));
    for (float& value : centre) value = to_float(magicpig::to_bf16(value));
    if (s.keys > 2 && s.centred) std::copy_n(centre.data(), s.dim, &x[s.dim]);
    const std::vector<float> q = c.random.normal(heads * s.dim, 0.0f, 2.0f);

    // Reference: codes and factors, scores, draws.
    std::vector<uint32_t> codes(static_cast<size_t>(s.kv_heads) * shape.capacity * s.bits * words);
    std::vector<uint16_t> factors(static_cast<size_t>(s.kv_heads) * shape.capacity);
    std::vector<std::vector<int>> grids(s.kv_heads * s.keys);
    for (int h = 0; h < s.kv_heads; ++h) {
      for (int key = 0; key < s.keys; ++key) {
        float factor;
        auto& v = grids[h * s.keys + key];
        v = reference::sketch_encode(&factor, &x[(h * s.keys + key) * s.dim], s.centred ? &centre[h * s.dim] : nullptr, s.dim, s.bits, seed);
        const size_t at = h * shape.capacity + key;
        factors[at] = magicpig::to_bf16(factor).bits;
        for (int i = 0; i < size; ++i) {
          const uint32_t u = static_cast<uint32_t>((v[i] + (1 << s.bits) - 1) / 2);
          for (int p = 0; p < s.bits; ++p) codes[(at * s.bits + p) * words + plane_word(size, i)] |= (u >> p & 1u) << plane_bit(size, i);
        }
      }
    }
    DeviceBuffer<uint32_t> flips(kHadamardRotations * words), d_codes(codes.size());
    DeviceBuffer<uint16_t> d_factors(factors.size());
    DeviceBuffer<float> d_centre(centre), d_q(q);
    CHECK_CUDA(sketch_flips(nullptr, flips.get(), s.dim, seed));
    CHECK_CUDA(cudaMemsetAsync(d_codes.get(), 0, d_codes.bytes(), nullptr));
    CHECK_CUDA(cudaMemsetAsync(d_factors.get(), 0, d_factors.bytes(), nullptr));
    std::vector<bf16> x16(x.size());
    for (size_t i = 0; i < x.size(); ++i) x16[i] = magicpig::to_bf16(x[i]);
    DeviceBuffer<float> dx(x);
    DeviceBuffer<bf16> dx16(x16);
    for (int h = 0; h < s.kv_heads; ++h) {
      for (const auto& [first, rows] : {std::pair{0, s.keys / 3}, {s.keys / 3, s.keys - s.keys / 3}}) {  // grows by blocks
        const int64_t at = static_cast<int64_t>(h * s.keys + first) * s.dim;
        const void* from = s.bf16_keys ? static_cast<const void*>(dx16.get() + at) : dx.get() + at;
        CHECK_CUDA(sketch_encode(nullptr, d_codes.get(), d_factors.get(), from, s.bf16_keys, s.centred ? d_centre.get() + h * s.dim : nullptr,
                                 flips.get(), shape, h, first, rows, s.dim));
      }
    }
    c.equal(d_codes, codes, what + " codes");
    c.equal(d_factors, factors, what + " factors");

    const SketchBins bins = sketch_bins();
    DeviceBuffer<char> workspace(sketch_draw_workspace(shape));
    const int room = s.keys;
    for (const uint32_t step : {0u, 77u}) {
      const SketchStep options{s.keys, room, s.budget, 0.02, scale, 5, step, seed};
      std::vector<uint32_t> ids(static_cast<size_t>(heads) * room, 0xffffffffu);
      std::vector<int32_t> counts(heads);
      std::vector<std::vector<float>> logs(heads);
      for (int head = 0; head < heads; ++head) {
        const int h = head / s.group;
        double norm;
        const std::vector<int> y = reference::sketch_rotate(&q[head * s.dim], nullptr, s.dim, seed, &norm);
        int largest = 0;
        for (const int value : y) largest = std::max(largest, std::abs(value));
        std::vector<int> q8(size);
        for (int i = 0; i < size; ++i) q8[i] = static_cast<int>(std::nearbyint(multiply(static_cast<float>(y[i]), 127.0f / static_cast<float>(largest))));
        double sums[8] = {}, offset = 0;
        for (int i = 0; i < s.dim && s.centred; ++i) sums[i % 8] += static_cast<double>(q[head * s.dim + i]) * centre[h * s.dim + i];
        for (const double sum : sums) offset += sum;
        const auto sigma = static_cast<float>(largest * norm / (127.0 * sketch_norm(size)) * static_cast<double>(scale));
        std::vector<float> scores(s.keys);
        float top = -HUGE_VALF;
        for (int key = 0; key < s.keys; ++key) {
          int dot = 0;
          for (int i = 0; i < size; ++i) dot += grids[h * s.keys + key][i] * q8[i];
          const float factor = to_float(bf16{factors[h * shape.capacity + key]});
          scores[key] = sum_of(multiply(multiply(static_cast<float>(dot), sigma), factor), static_cast<float>(offset * scale));
          top = std::max(top, scores[key]);
        }
        std::vector<uint32_t> histogram(kSketchBins);
        for (const float score : scores) ++histogram[sketch_bin(top, score)];
        const SketchDraw draw = sketch_threshold(histogram.data(), bins, top, s.keys, s.budget, options.floor_share);
        for (int key = 0; key < s.keys; ++key) {
          const float pi = sketch_probability(draw, scores[key]);
          if (!sketch_drawn(pi, static_cast<uint32_t>(key), static_cast<uint32_t>(head), options.layer, step, seed)) continue;
          ids[static_cast<size_t>(head) * room + static_cast<size_t>(counts[head]++)] = static_cast<uint32_t>(key);
          logs[head].push_back(-std::log(pi));
        }
      }
      DeviceBuffer<uint32_t> d_ids(ids.size());
      DeviceBuffer<float> d_logs(ids.size());
      DeviceBuffer<int32_t> d_counts(heads);
      CHECK_CUDA(sketch_draw(nullptr, d_ids.get(), d_logs.get(), d_counts.get(), workspace.get(), d_codes.get(), d_factors.get(), d_q.get(),
                             s.centred ? d_centre.get() : nullptr, flips.get(), shape, options));
      c.equal(d_counts, counts, what + " counts");
      c.equal(d_ids, ids, what + " ids");
      c.expect(workspace.check_guard(), what + ": wrote past its workspace");
      const std::vector<float> got = d_logs.download();
      bool close = true;
      for (int head = 0; head < heads; ++head) {
        for (size_t i = 0; i < logs[head].size(); ++i) {
          close = close && std::fabs(got[static_cast<size_t>(head) * room + i] - logs[head][i]) <= 1e-5f * (1 + logs[head][i]);
        }
      }
      c.expect(close, what + " -log pi");
      if (s.budget >= s.keys) c.expect(counts[0] == s.keys, what + ": a budget of all keys draws all");
    }
  }

  // What it is for: unbiased sums. Over many steps the mean of sum e^s / pi over the drawn keys is the sum over all, and the mean
  // number drawn the budget; s here are the true scores, which the sketches only estimate.
  const int keys = 600, dim = 64, steps = 200;
  const double budget = 60;
  const SketchShape shape{dim, 2, 1, 1, keys};
  const std::vector<float> x = c.random.normal(keys * dim), q = c.random.normal(dim, 0.0f, 2.0f);
  DeviceBuffer<uint32_t> flips(kHadamardRotations * 2), codes(keys * 2 * 2), ids(keys);
  DeviceBuffer<uint16_t> factors(keys);
  DeviceBuffer<float> dx(x), dq(q), logs(keys);
  DeviceBuffer<int32_t> count(1);
  DeviceBuffer<char> workspace(sketch_draw_workspace(shape));
  CHECK_CUDA(sketch_flips(nullptr, flips.get(), dim, 9));
  CHECK_CUDA(sketch_encode(nullptr, codes.get(), factors.get(), dx.get(), false, nullptr, flips.get(), shape, 0, 0, keys, dim));
  std::vector<double> weights(keys);
  double total = 0;
  for (int key = 0; key < keys; ++key) {
    double score = 0;
    for (int i = 0; i < dim; ++i) score += static_cast<double>(x[key * dim + i]) * q[i] / 8;
    total += weights[key] = std::exp(score);
  }
  double mean = 0, square = 0, drawn = 0;
  for (int step = 0; step < steps; ++step) {
    CHECK_CUDA(sketch_draw(nullptr, ids.get(), logs.get(), count.get(), workspace.get(), codes.get(), factors.get(), dq.get(), nullptr, flips.get(),
                           shape, SketchStep{keys, keys, budget, 0.02, 0.125f, 0, static_cast<uint32_t>(step), c.random.engine()()}));
    const int n = count.download()[0];
    const std::vector<uint32_t> chosen = ids.download();
    const std::vector<float> log_pi = logs.download();
    double estimate = 0;
    for (int i = 0; i < n; ++i) estimate += weights[chosen[i]] * std::exp(static_cast<double>(log_pi[i]));
    mean += estimate / total / steps;
    square += estimate / total * (estimate / total) / steps;
    drawn += static_cast<double>(n) / steps;
  }
  const double error = std::sqrt((square - mean * mean) / steps);
  c.expect(std::fabs(mean - 1) < 5 * error + 1e-9, "sketch: mean of the estimates " + std::to_string(mean) + " +- " + std::to_string(error));
  c.expect(error * std::sqrt(steps) < 0.2, "sketch: one estimate's relative error " + std::to_string(error * std::sqrt(steps)));
  c.expect(std::fabs(drawn - budget) < 0.06 * budget + 5 * std::sqrt(budget / steps), "sketch: " + std::to_string(drawn) + " keys drawn");
}

void test_fill(Context& c) {
  for (const int count : {1, 8, 1003}) {
    const uint64_t seed = c.random.engine()();
    std::vector<double> ref(count);
    for (int i = 0; i < count; ++i) ref[i] = 0.5 + 0.02 * reference::normal(seed, static_cast<uint64_t>(i));
    DeviceBuffer<float> out(count);
    DeviceBuffer<bf16> out_bf16(count);
    CHECK_CUDA(fill_normal(nullptr, out.get(), nullptr, count, seed, 0.5f, 0.02f));
    c.compare(out, ref, 1e-6, "fill_normal " + shape_text({{"count", count}}));
    CHECK_CUDA(fill_normal(nullptr, nullptr, out_bf16.get(), count, seed, 0.5f, 0.02f));
    c.compare(out_bf16, ref, kRoundedLimit, "fill_normal bf16 " + shape_text({{"count", count}}));
  }
}

// Events, copies and graphs: a captured stretch of kernels, replayed with new data, orders itself after what it waits for.
void test_streams(Context& c) {
  const int count = 4096;
  const std::vector<float> x = c.random.normal(count), y = c.random.normal(count);
  DeviceBuffer<float> dx(count), dy(y);
  cudaStream_t copies, compute;
  cudaEvent_t copied;
  CHECK_CUDA(cudaStreamCreateWithFlags(&copies, cudaStreamNonBlocking));
  CHECK_CUDA(cudaStreamCreateWithFlags(&compute, cudaStreamNonBlocking));
  CHECK_CUDA(cudaEventCreateWithFlags(&copied, cudaEventDisableTiming));
  void* pinned = nullptr;
  CHECK_CUDA(cudaHostAlloc(&pinned, count * sizeof(float), cudaHostAllocPortable));
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  CHECK_CUDA(cudaStreamBeginCapture(compute, cudaStreamCaptureModeThreadLocal));
  CHECK_CUDA(add(compute, dx.get(), dy.get(), count));
  CHECK_CUDA(add(compute, dx.get(), dy.get(), count));
  CHECK_CUDA(cudaStreamEndCapture(compute, &graph));
  CHECK_CUDA(cudaGraphInstantiate(&exec, graph, 0));
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < count; ++i) static_cast<float*>(pinned)[i] = x[i] * static_cast<float>(round + 1);
    CHECK_CUDA(cudaMemcpyAsync(dx.get(), pinned, count * sizeof(float), cudaMemcpyHostToDevice, copies));
    CHECK_CUDA(cudaEventRecord(copied, copies));
    CHECK_CUDA(cudaStreamWaitEvent(compute, copied, 0));
    CHECK_CUDA(cudaGraphLaunch(exec, compute));
    CHECK_CUDA(cudaMemcpyAsync(pinned, dx.get(), count * sizeof(float), cudaMemcpyDeviceToHost, compute));
    CHECK_CUDA(cudaStreamSynchronize(compute));
    bool good = true;
    for (int i = 0; i < count; ++i) {
      good = good && std::fabs(static_cast<float*>(pinned)[i] - (x[i] * static_cast<float>(round + 1) + 2 * y[i])) < 1e-5f;
    }
    c.expect(good, "graph replay " + std::to_string(round));
  }
  CHECK_CUDA(cudaGraphExecDestroy(exec));
  CHECK_CUDA(cudaGraphDestroy(graph));
  CHECK_CUDA(cudaEventDestroy(copied));
  CHECK_CUDA(cudaStreamDestroy(copies));
  CHECK_CUDA(cudaStreamDestroy(compute));
  CHECK_CUDA(cudaFreeHost(pinned));
}

struct Case {
  const char* name;
  void (*run)(Context&);
};
constexpr Case kCases[] = {
    {"rms_norm", test_rms_norm},   {"rope", test_rope},
    {"elementwise", test_elementwise}, {"linear", test_linear},
    {"gemm", test_gemm},           {"attention_prefill", test_attention_prefill},
    {"attention_decode", test_attention_decode}, {"merge_attention", test_merge},
    {"simhash", test_simhash},     {"hadamard", test_hadamard},
    {"table_build", test_table_build},
    {"sketch", test_sketch},
    {"fill", test_fill},           {"streams", test_streams},
};

int run_all(uint64_t seed, const std::string& filter, bool quick, const char* order) {
  int failures = 0, checks = 0;
  for (const Case& test : kCases) {
    if (!filter.empty() && std::string(test.name).find(filter) == std::string::npos) continue;
    Context context{Random(seed), quick};
    const auto start = std::chrono::steady_clock::now();
    test.run(context);
    CHECK_CUDA(cudaDeviceSynchronize());
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::printf("%-18s %s %4d checks, largest relative error %.2e, %.2f s%s\n", test.name, context.failures == 0 ? "ok    " : "FAILED",
                context.checks, context.largest, seconds, order);
    failures += context.failures;
    checks += context.checks;
  }
  std::printf("%d of %d checks failed (seed %llu)%s\n", failures, checks, static_cast<unsigned long long>(seed), order);
  return failures;
}

}  // namespace
}  // namespace magicpig::test

int main(int argc, char** argv) {
  using namespace magicpig::test;
  uint64_t seed = std::random_device{}();
  std::string filter;
  bool quick = false;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--seed" && i + 1 < argc) {
      seed = std::strtoull(argv[++i], nullptr, 10);
    } else if (argument == "--filter" && i + 1 < argc) {
      filter = argv[++i];
    } else if (argument == "--quick") {
      quick = true;
    } else {
      std::fprintf(stderr, "usage: kernels-test [--seed N] [--filter NAME] [--quick]\n");
      return 2;
    }
  }
  int failures = test_layout();
  std::printf("layout             %s\n", failures == 0 ? "ok" : "FAILED");

  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess || devices == 0) {
    std::printf("no CUDA device (%s): only the layout was checked\n", status == cudaSuccess ? "none found" : cudaGetErrorString(status));
    return failures == 0 ? 77 : 1;
  }
  cudaDeviceProp properties;
  CHECK_CUDA(cudaGetDeviceProperties(&properties, 0));
  std::printf("device: %s, compute capability %d.%d\n", properties.name, properties.major, properties.minor);

#if defined(MAGICPIG_EMULATE)
  constexpr std::pair<emulator::Order, const char*> kOrders[] = {{emulator::Order::kForward, ", threads forward"},
                                                                 {emulator::Order::kReverse, ", threads in reverse"},
                                                                 {emulator::Order::kShuffled, ", threads shuffled"}};
  for (const auto& [order, text] : kOrders) {
    emulator::set_order(order, static_cast<uint32_t>(seed));
    failures += run_all(seed, filter, quick, text);
  }
#else
  failures += run_all(seed, filter, quick, "");
#endif
  return failures == 0 ? 0 : 1;
}
