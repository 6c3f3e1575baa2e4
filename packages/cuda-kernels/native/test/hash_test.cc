// SimHash codes and tables.
#include "../kernels/hadamard.h"
#include "../kernels/simhash.h"
#include "../kernels/table_build.h"
#include "context.h"

namespace magicpig::test {
namespace {

struct HashSizes {
  int dim, bits, tables;
};

// Each kind of projections: drawn on the device, the codes of a vector, and its products before anything is rounded, with a bound on how far
// rounding the vector moves them.
class Gaussian {
 public:
  static constexpr const char* kName = "simhash";
  static constexpr double kNearZero = 3e-5;   // share of products so near zero that rounding may turn their sign
  static constexpr float kNormLimit = 1.2e-7f;  // sums of squares in another order: the same float32, or its neighbour

  Gaussian(Context& c, const std::string& what, const HashSizes& sizes, uint64_t seed)
      : sizes_(sizes), weights_(static_cast<size_t>(sizes.bits) * sizes.tables * projection_stride(sizes.dim)), device_(weights_.size()) {
    CHECK_CUDA(simhash_projections(nullptr, device_.get(), sizes.dim, sizes.bits, sizes.tables, seed));
    const WeightQuantiles quantiles = weight_quantiles();
    for (int row = 0; row < sizes.bits * sizes.tables; ++row) {
      for (int i = 0; i < sizes.dim; ++i) {
        const PhiloxWords words = philox({{static_cast<uint32_t>(i / 4), static_cast<uint32_t>(row % sizes.bits), static_cast<uint32_t>(row / sizes.bits), 0u}},
                                         static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
        weights_[static_cast<size_t>(row) * projection_stride(sizes.dim) + i] = static_cast<int8_t>(projection_weight(quantiles, words.word[i % 4]));
      }
    }
    c.equal(device_, weights_, what + " projections");
  }

  template <typename T>
  cudaError_t hash(uint16_t* codes, float* norms, int32_t* non_finite, const T* x, const float* centre, const HashShape& shape) const {
    if constexpr (std::is_same_v<T, float>) return simhash(nullptr, codes, norms, non_finite, x, centre, device_.get(), shape);
    if constexpr (std::is_same_v<T, bf16>) return simhash_bf16(nullptr, codes, norms, non_finite, x, centre, device_.get(), shape);
  }

  bool codes(uint16_t* codes, float* norm, const float* x, const float* centre) const {
    std::vector<int32_t> rounded(sizes_.dim);
    if (!reference::round_vector(rounded.data(), norm, x, centre, sizes_.dim)) return false;
    for (int t = 0; t < sizes_.tables; ++t) codes[t] = reference::code(rounded.data(), weights_.data(), sizes_.dim, sizes_.bits, t);
    return true;
  }

  // For bit j of table t at t * bits + j: {product, bound}.
  std::vector<std::pair<double, double>> products(const std::vector<double>& v) const {
    double peak = 0;
    for (const double value : v) peak = std::max(peak, std::fabs(value));
    std::vector<std::pair<double, double>> result;
    for (int row = 0; row < sizes_.bits * sizes_.tables; ++row) {
      double product = 0, magnitudes = 0;
      for (int i = 0; i < sizes_.dim; ++i) {
        const double weight = weights_[static_cast<size_t>(row) * projection_stride(sizes_.dim) + i];
        product += v[i] * weight;
        magnitudes += std::fabs(weight);
      }
      // Half a unit of rounding a coordinate, and what float32 adds to it.
      result.emplace_back(product, 0.51 * peak / rounding_limit(sizes_.dim) * magnitudes);
    }
    return result;
  }

 private:
  HashSizes sizes_;
  std::vector<int8_t> weights_;
  DeviceBuffer<int8_t> device_;
};

class Hadamard {
 public:
  static constexpr const char* kName = "hadamard";
  static constexpr double kNearZero = 2e-3;
  static constexpr float kNormLimit = 0;

  Hadamard(Context&, const std::string&, const HashSizes& sizes, uint64_t seed)
      : sizes_(sizes), seed_(seed), device_(hadamard_words(sizes.dim, sizes.bits, sizes.tables)) {
    CHECK_CUDA(hadamard_flips(nullptr, device_.get(), sizes.dim, sizes.bits, sizes.tables, seed));
  }

  template <typename T>
  cudaError_t hash(uint16_t* codes, float* norms, int32_t* non_finite, const T* x, const float* centre, const HashShape& shape) const {
    if constexpr (std::is_same_v<T, float>) return hadamard(nullptr, codes, norms, non_finite, x, centre, device_.get(), shape);
    if constexpr (std::is_same_v<T, bf16>) return hadamard_bf16(nullptr, codes, norms, non_finite, x, centre, device_.get(), shape);
  }

  bool codes(uint16_t* codes, float* norm, const float* x, const float* centre) const {
    return reference::hadamard_codes(codes, norm, x, centre, sizes_.dim, sizes_.bits, sizes_.tables, seed_);
  }

  std::vector<std::pair<double, double>> products(const std::vector<double>& x) const {
    const int size = hadamard_size(sizes_.dim);
    double square = 0;
    for (const double value : x) square += value * value;
    std::vector<std::pair<double, double>> result(static_cast<size_t>(sizes_.bits) * sizes_.tables);
    for (int block = 0; block < hadamard_blocks(sizes_.dim, sizes_.bits, sizes_.tables); ++block) {
      std::vector<double> v(size);
      for (int i = 0; i < sizes_.dim; ++i) v[i] = x[i] / std::sqrt(square) * kHadamardNorm;
      // Length of the error: half a unit a coordinate at first, stretched by each stage, and up to half a unit more at each halving.
      double error = 0.51 * std::sqrt(size);
      for (int rotation = 0; rotation < kHadamardRotations; ++rotation) {
        const std::vector<int> signs = reference::hadamard_signs(seed_, block, rotation, size);
        for (int i = 0; i < size; ++i) v[i] *= signs[i];
        for (int stage = 0; stage < hadamard_stages(size); ++stage) {
          const int stride = hadamard_stride(size, stage);
          const double scale = hadamard_halves(size, stage, rotation == 1) ? 0.5 : 1;
          for (int i = 0; i < size; ++i) {
            if (i & stride) continue;
            const double sum = v[i] + v[i + stride], rest = v[i] - v[i + stride];
            v[i] = sum * scale;
            v[i + stride] = rest * scale;
          }
          error = error * std::sqrt(2.0) * scale + (scale < 1 ? 0.5 * std::sqrt(size) : 0);
        }
      }
      for (int i = 0; i < size; ++i) {
        const int projection = block * size + i;
        if (projection < sizes_.bits * sizes_.tables) {
          result[projection % sizes_.tables * sizes_.bits + projection / sizes_.tables] = {v[i], error};
        }
      }
    }
    return result;
  }

 private:
  HashSizes sizes_;
  uint64_t seed_;
  DeviceBuffer<uint32_t> device_;
};

// The device's codes are the reference's, whatever the projections. The sign of a product that was not rounded is another one in few places,
// which are counted, and only where the product is within rounding of zero.
template <typename Projections>
void test_codes(Context& c, const HashSizes& sizes, int rows, bool centred, bool tables_first) {
  const auto [dim, bits, tables] = sizes;
  const std::string what =
      std::string(Projections::kName) + ' ' + shape_text({{"rows", rows}, {"dim", dim}, {"bits", bits}, {"tables", tables}});
  const Projections projections(c, what, sizes, c.random.engine()());

  // bf16 values are float32 values too, so that both forms must agree. Rows lie apart, as the keys of one head do.
  const int x_stride = dim + 8;
  std::vector<bf16> x16 = c.random.normal_bf16(rows * x_stride, 0.7f);
  if (rows > 4) {
    std::fill_n(&x16[2 * x_stride], dim, bf16{0});  // no component: code of the zero vector
    x16[3 * x_stride + dim - 1] = bf16{0xff80};     // infinity
    x16[4 * x_stride] = bf16{0x7fc0};               // NaN
  }
  std::vector<float> x(x16.size());
  for (size_t i = 0; i < x.size(); ++i) x[i] = to_float(x16[i]);
  const std::vector<float> centre = c.random.normal(dim, 0.7f, 0.1f);
  const float* used = centred ? centre.data() : nullptr;
  const int64_t row_stride = tables_first ? 1 : tables, table_stride = tables_first ? rows : 1;
  std::vector<uint16_t> codes(static_cast<size_t>(rows) * tables), row_codes(tables);
  std::vector<float> norms(rows);
  int32_t bad = 0;
  int64_t turned = 0, turned_far = 0;
  for (int row = 0; row < rows; ++row) {
    const float* vector = &x[row * x_stride];
    if (!projections.codes(row_codes.data(), &norms[row], vector, used)) {
      std::fill(row_codes.begin(), row_codes.end(), uint16_t{0});
      norms[row] = 0;
      ++bad;
    } else if (norms[row] > 0) {
      std::vector<double> values(vector, vector + dim);
      for (int i = 0; i < dim && centred; ++i) values[i] = vector[i] - centre[i];
      const std::vector<std::pair<double, double>> products = projections.products(values);
      for (int i = 0; i < bits * tables; ++i) {
        const auto& [product, bound] = products[i];
        const bool differs = (product > 0) != ((row_codes[i / bits] >> i % bits & 1) != 0);
        turned += differs;
        turned_far += differs && std::fabs(product) > bound;
      }
    }
    for (int t = 0; t < tables; ++t) codes[row * row_stride + t * table_stride] = row_codes[t];
  }
  c.expect(turned_far == 0, what + ": " + std::to_string(turned_far) + " signs differ far from zero");
  c.expect(turned <= Projections::kNearZero * rows * bits * tables + 10, what + ": " + std::to_string(turned) + " signs differ");

  DeviceBuffer<float> dx(x), d_centre(centre), d_norms(rows);
  DeviceBuffer<bf16> dx16(x16);
  DeviceBuffer<uint16_t> d_codes(codes.size());
  DeviceBuffer<int32_t> non_finite(1);
  non_finite.upload({0});
  const HashShape shape{rows, dim, bits, tables, x_stride, row_stride, table_stride};
  const float* d_used = centred ? d_centre.get() : nullptr;
  CHECK_CUDA(projections.hash(d_codes.get(), d_norms.get(), non_finite.get(), dx.get(), d_used, shape));
  c.equal(d_codes, codes, what);
  c.equal(non_finite, {bad}, what + " non-finite rows");
  const std::vector<float> got = d_norms.download();
  for (int row = 0; row < rows; ++row) {
    if (rows > 4 && (row == 3 || row == 4)) {
      c.expect(std::isnan(got[row]), what + ": the norm of a vector that is not finite is NaN");
    } else {
      c.expect(std::fabs(got[row] - norms[row]) <= Projections::kNormLimit * norms[row], what + " norm of row " + std::to_string(row));
    }
  }
  d_codes.poison();
  CHECK_CUDA(projections.hash(d_codes.get(), nullptr, nullptr, dx16.get(), d_used, shape));
  c.equal(d_codes, codes, what + " from bf16");
}

}  // namespace

void test_simhash(Context& c) {
  test_codes<Gaussian>(c, {4, 1, 1}, 1, false, false);
  test_codes<Gaussian>(c, {64, 10, 20}, 5, true, false);
  test_codes<Gaussian>(c, {128, 10, 12}, 130, true, true);
  test_codes<Gaussian>(c, {80, 7, 9}, 17, false, true);
  test_codes<Gaussian>(c, {128, 16, 66}, 33, true, true);
  test_codes<Gaussian>(c, {256, 12, 5}, 3, true, false);
  test_codes<Gaussian>(c, {60, 11, 70}, 2, false, false);
  if (!c.quick) test_codes<Gaussian>(c, {128, 10, 150}, 1000, true, true);

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
  test_codes<Hadamard>(c, {4, 1, 1}, 1, false, false);
  test_codes<Hadamard>(c, {64, 10, 20}, 6, true, false);
  test_codes<Hadamard>(c, {128, 10, 50}, 9, true, true);
  test_codes<Hadamard>(c, {80, 16, 9}, 7, false, true);
  test_codes<Hadamard>(c, {256, 12, 33}, 5, true, false);
  test_codes<Hadamard>(c, {100, 11, 70}, 3, false, false);
  if (!c.quick) test_codes<Hadamard>(c, {128, 10, 150}, 100, true, true);
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
