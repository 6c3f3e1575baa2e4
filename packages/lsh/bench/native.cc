// Times the native core alone, one thread: hashing, building from codes, querying. Prints one JSON object.
// Usage: lsh-bench [keys] [bits] [tables] [dim] [hadamard]
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "../native/head_index.h"
#include "../native/pool_handle.h"
#include "../native/projection.h"

using namespace magicpig::lsh;

namespace {

double Now() {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <typename F>
double Median(int repeats, F&& f) {
  std::vector<double> times;
  for (int i = 0; i < repeats; ++i) {
    const double start = Now();
    f(i);
    times.push_back(Now() - start);
  }
  std::nth_element(times.begin(), times.begin() + repeats / 2, times.end());
  return times[repeats / 2];
}

}  // namespace

int main(int argc, char** argv) {
  const auto argument = [&](int i, uint32_t otherwise) {
    return argc > i ? static_cast<uint32_t>(std::atoi(argv[i])) : otherwise;
  };
  const uint32_t n = argument(1, 98304), bits = argument(2, 10), tables = argument(3, 150), dim = argument(4, 128);
  const Kernels& kernels = BestKernels();
  const auto kind = argc > 5 ? ProjectionKind::kHadamard : ProjectionKind::kGaussian;
  const Projection projection(kind, dim, bits, tables, 1);
  const PoolHandle pool = ProcessPool(1);

  std::mt19937_64 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> keys(size_t{n} * dim);
  for (float& x : keys) x = normal(random);

  Projection::Scratch scratch;
  scratch.Prepare(projection);
  std::vector<uint16_t> codes(size_t{n} * tables);
  const double hash = Median(3, [&](int) {
    for (size_t i = 0; i < n; i += Projection::kRows) {
      const size_t rows = std::min<size_t>(Projection::kRows, n - i);
      projection.Hash(kernels, keys.data() + i * dim, rows, nullptr, scratch, nullptr, codes.data() + i * tables, tables, 1);
    }
  });

  // As many heads as keep a query's buckets out of the caches.
  constexpr int kHeads = 8;
  std::vector<HeadIndex> heads;
  for (int h = 0; h < kHeads; ++h) heads.emplace_back(TablesShape{bits, tables});
  const double build = Median(kHeads, [&](int h) {
    heads[h].Append(*pool, n, [&](size_t begin, size_t rows, uint16_t* out, size_t row_stride, size_t table_stride, uint32_t) {
      for (size_t r = 0; r < rows; ++r) {
        for (size_t t = 0; t < tables; ++t) {
          out[r * row_stride + t * table_stride] = codes[(begin + r) * tables + t];
        }
      }
      return true;
    });
  });

  constexpr int kQueries = 512;
  std::vector<float> queries(size_t{kQueries} * dim);
  for (float& x : queries) x = normal(random);
  std::vector<uint16_t> query_codes(size_t{kQueries} * tables);
  const double hash_one = Median(kQueries, [&](int i) {
    projection.Hash(kernels, queries.data() + size_t(i) * dim, 1, nullptr, scratch, nullptr,
                    query_codes.data() + size_t(i) * tables, tables, 1);
  });
  const double hash_four = Median(kQueries / 4, [&](int i) {
    projection.Hash(kernels, queries.data() + size_t(i) * 4 * dim, 4, nullptr, scratch, nullptr,
                    query_codes.data() + size_t(i) * 4 * tables, tables, 1);
  });

  QueryScratch query_scratch;
  Found out[4];
  size_t found = 0;
  double query = 1e9, query_four = 1e9;
  for (int repeat = 0; repeat < 3; ++repeat) {
    query = std::min(query, Median(kQueries, [&](int i) {
      heads[i % kHeads].Query(kernels, query_codes.data() + size_t(i) * tables, 1, n, 2, false, query_scratch, out);
      found += out[0].count;
    }));
    query_four = std::min(query_four, Median(kQueries / 4, [&](int i) {
      heads[i % kHeads].Query(kernels, query_codes.data() + size_t(i) * 4 * tables, 4, n, 2, false, query_scratch, out);
    }));
  }
  std::printf(
      "{\"isa\": \"%s\", \"keys\": %u, \"bits\": %u, \"tables\": %u, \"dim\": %u, \"hash_us_per_key\": %.3f, "
      "\"hash_query_us\": %.2f, \"hash_group_of_4_us_per_query\": %.2f, \"build_ms\": %.2f, \"query_us\": %.2f, \"query_group_of_4_us_per_query\": %.2f, \"share\": %.4f, "
      "\"bytes_per_key\": %.1f}\n",
      kernels.isa, n, bits, tables, dim, hash / n, hash_one, hash_four / 4, build / 1000, query, query_four / 4,
      double(found) / 3 / kQueries / n, double(heads[0].bytes()) / n);
}
