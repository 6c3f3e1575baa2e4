// Norms, rotary embeddings, and the operators that touch each value once.
#include "../kernels/elementwise.h"
#include "../kernels/fill.h"
#include "../kernels/rms_norm.h"
#include "../kernels/rope.h"
#include "../kernels/scatter_rows.h"
#include "context.h"

namespace magicpig::test {

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

void test_scatter_rows(Context& c) {
  for (const auto& [rows, heads, dim] : {std::array{1, 1, 8}, {70, 3, 64}, {5, 2, 80}, {130, 8, 128}}) {
    const std::vector<bf16> x = c.random.normal_bf16(rows * heads * dim);
    std::vector<int32_t> slots(rows);
    for (int row = 0; row < rows; ++row) slots[row] = row == 2 ? -1 : 2 * (rows - 1 - row);
    const DeviceBuffer<bf16> dx(x);
    const DeviceBuffer<int32_t> d_slots(slots);
    for (const bool ordered : {true, false}) {
      DeviceBuffer<bf16> out(2 * rows * heads * dim);
      CHECK_CUDA(cudaMemsetAsync(out.get(), 0, out.bytes(), nullptr));
      std::vector<double> ref(out.size());
      for (int i = 0; i < rows * heads * dim; ++i) {
        const int head = i / (rows * dim), row = i / dim % rows, slot = ordered ? row : slots[row];
        if (slot >= 0) ref[(slot * heads + head) * dim + i % dim] = to_float(x[i]);
      }
      CHECK_CUDA(scatter_rows(nullptr, out.get(), dx.get(), ordered ? nullptr : d_slots.get(), rows, heads, dim));
      c.compare(out, ref, 0, "scatter_rows " + shape_text({{"rows", rows}, {"heads", heads}, {"dim", dim}}));
    }
  }
}

void test_fill(Context& c) {
  for (const auto& [count, first] : {std::pair<int, int64_t>{1, 0}, {8, 4}, {1003, int64_t{1} << 35}}) {
    const uint64_t seed = c.random.engine()();
    std::vector<double> ref(count);
    for (int i = 0; i < count; ++i) ref[i] = 0.5 + 0.02 * reference::normal(seed, static_cast<uint64_t>(first + i));
    DeviceBuffer<float> out(count);
    DeviceBuffer<bf16> out_bf16(count);
    CHECK_CUDA(fill_normal(nullptr, out.get(), nullptr, count, seed, 0.5f, 0.02f, first));
    c.compare(out, ref, 1e-6, "fill_normal " + shape_text({{"count", count}, {"first", first}}));
    CHECK_CUDA(fill_normal(nullptr, nullptr, out_bf16.get(), count, seed, 0.5f, 0.02f, first));
    c.compare(out_bf16, ref, kRoundedLimit, "fill_normal bf16 " + shape_text({{"count", count}, {"first", first}}));
  }
}

}  // namespace magicpig::test
