// Times the native core, one thread, beside what it replaces: a dense float32 product and sorting every table. Medians after a
// warm-up; prints one JSON object.
// Usage: lsh-bench [keys] [bits] [tables] [dim]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "../native/head_index.h"
#include "../native/pool_handle.h"
#include "../native/projection.h"
#include "timing.h"

using namespace magicpig::lsh;

namespace {

// The baseline of hashing: x [rows][dim] times weights, packed [panels][dim][kPanel], in tiles of 8 rows whose sums stay in
// registers. Vectors are 16 wide where the processor has them; the clones are the same loop for each instruction set.
constexpr size_t kPanel = 48, kTileRows = 8;
using Floats = float __attribute__((vector_size(64), aligned(4), may_alias));

#if defined(__x86_64__)
[[gnu::target_clones("avx512f", "arch=haswell", "default")]]
#endif
void DenseTile(const float* x, size_t dim, const float* panel, float* out) {
  Floats sums[kTileRows][3] = {};
  for (size_t k = 0; k < dim; ++k) {
    const auto* w = reinterpret_cast<const Floats*>(panel + k * kPanel);
#pragma GCC unroll 8
    for (size_t r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 3
      for (size_t c = 0; c < 3; ++c) sums[r][c] += x[r * dim + k] * w[c];
    }
  }
  for (size_t r = 0; r < kTileRows; ++r) {
    for (size_t c = 0; c < 3; ++c) reinterpret_cast<Floats*>(out + r * kPanel)[c] = sums[r][c];
  }
}

// The baseline of building: a sort by code of every table. Code and id in one number, which is the quickest way to sort them.
void SortTable(const uint16_t* codes, size_t tables, size_t t, std::vector<uint64_t>& pairs) {
  for (size_t i = 0; i < pairs.size(); ++i) pairs[i] = uint64_t{codes[i * tables + t]} << 32 | i;
  std::sort(pairs.begin(), pairs.end());
}

}  // namespace

int main(int argc, char** argv) {
  const auto argument = [&](int i, uint32_t otherwise) {
    return argc > i ? static_cast<uint32_t>(std::atoi(argv[i])) : otherwise;
  };
  const uint32_t n = argument(1, 98304), bits = argument(2, 10), tables = argument(3, 150), dim = argument(4, 128);
  const Kernels& kernels = BestKernels();
  const PoolHandle pool = ProcessPool(1);

  std::mt19937_64 random(7);
  std::normal_distribution<float> normal;
  const auto normals = [&](size_t count) {
    std::vector<float> values(count);
    for (float& x : values) x = normal(random);
    return values;
  };

  // Hashing, of blocks of rows that stay in the caches: microseconds for one vector.
  constexpr int kHashes = 64;
  const std::vector<float> rows = normals(Projection::kRows * dim);
  const size_t panels = (size_t{bits} * tables + kPanel - 1) / kPanel;
  const std::vector<float> weights = normals(panels * dim * kPanel);
  std::vector<float> product(kTileRows * kPanel);
  const double dense = Median(kHashes, [&](int) {
    for (size_t panel = 0; panel < panels; ++panel) {
      for (size_t r = 0; r < Projection::kRows; r += kTileRows) {
        DenseTile(rows.data() + r * dim, dim, weights.data() + panel * dim * kPanel, product.data());
      }
    }
  }) / Projection::kRows;
  Projection::Scratch scratch;
  std::vector<uint16_t> codes(Projection::kRows * tables);
  const auto time_hash = [&](const Projection& projection, size_t count) {
    scratch.Prepare(projection);
    return Median(kHashes, [&](int) {
      projection.Hash(kernels, rows.data(), count, nullptr, scratch, nullptr, codes.data(), tables, 1);
    }) / static_cast<double>(count);
  };
  const Projection hadamard(ProjectionKind::kHadamard, dim, bits, tables, 1);
  const Projection gaussian(ProjectionKind::kGaussian, dim, bits, tables, 1);
  const double hash_hadamard = time_hash(hadamard, Projection::kRows), hash_gaussian = time_hash(gaussian, Projection::kRows);
  const double hash_group = time_hash(gaussian, 4), hash_one = time_hash(gaussian, 1);

  // Building, from the codes of normal vectors: milliseconds.
  std::vector<uint16_t> key_codes(size_t{n} * tables);
  for (size_t i = 0; i < n; i += Projection::kRows) {
    const size_t count = std::min<size_t>(Projection::kRows, n - i);
    const std::vector<float> keys = normals(count * dim);
    gaussian.Hash(kernels, keys.data(), count, nullptr, scratch, nullptr, key_codes.data() + i * tables, tables, 1);
  }
  const auto fill = [&](size_t begin, size_t count, uint16_t* out, size_t row_stride, size_t table_stride, uint32_t) {
    for (size_t r = 0; r < count; ++r) {
      for (size_t t = 0; t < tables; ++t) out[r * row_stride + t * table_stride] = key_codes[(begin + r) * tables + t];
    }
    return true;
  };
  // As many heads as keep a query's buckets out of the caches.
  constexpr int kHeads = 8;
  std::vector<HeadIndex> heads;
  for (int h = 0; h <= kHeads; ++h) heads.emplace_back(TablesShape{bits, tables});
  int built = 0;
  const double build = Median(kHeads, [&](int) { heads[built++].Append(*pool, n, fill); }) / 1000;
  std::vector<uint64_t> pairs(n);
  const double sort = Median(9, [&](int t) { SortTable(key_codes.data(), tables, t % tables, pairs); }) * tables / 1000;

  // Queries: microseconds for one.
  constexpr int kQueries = 512;
  std::vector<uint16_t> query_codes(size_t{kQueries} * tables);
  for (int i = 0; i < kQueries; ++i) {
    const std::vector<float> query = normals(dim);
    gaussian.Hash(kernels, query.data(), 1, nullptr, scratch, nullptr, query_codes.data() + size_t(i) * tables, tables, 1);
  }
  QueryScratch query_scratch;
  Found found[4];
  size_t candidates = 0;
  const auto time_query = [&](int group) {
    return Median(kQueries / group, [&](int i) {
      heads[i % kHeads].Query(kernels, query_codes.data() + size_t(i) * group * tables, group, n, 2, false, query_scratch, found);
      candidates += found[0].count;
    }) / group;
  };
  const double query_one = time_query(1);
  const double share = static_cast<double>(candidates) / (kQueries + 1) / n;
  const double query_group = time_query(4);

  std::printf(
      "{\"isa\": \"%s\", \"keys\": %u, \"bits\": %u, \"tables\": %u, \"dim\": %u,\n"
      " \"dense_us\": %.3f, \"hash_gaussian_us\": %.3f, \"hash_hadamard_us\": %.3f, \"hash_one_us\": %.2f, "
      "\"hash_in_group_of_4_us\": %.2f,\n"
      " \"sort_ms\": %.0f, \"build_ms\": %.1f, \"query_us\": %.2f, \"query_in_group_of_4_us\": %.2f, \"share\": %.4f, "
      "\"bytes_per_key\": %.1f,\n"
      " \"ratios\": {\"dense_over_gaussian\": %.2f, \"dense_over_hadamard\": %.2f, \"sort_over_build\": %.1f}}\n",
      kernels.isa, n, bits, tables, dim, dense, hash_gaussian, hash_hadamard, hash_one, hash_group, sort, build, query_one,
      query_group, share, static_cast<double>(heads[0].bytes()) / n, dense / hash_gaussian, dense / hash_hadamard, sort / build);
}
