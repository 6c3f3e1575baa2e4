// SimHash codes and tables.
#include "../kernels/hadamard.h"
#include "../kernels/simhash.h"
#include "../kernels/table_build.h"
#include "context.h"

namespace magicpig::test {

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

}  // namespace magicpig::test
