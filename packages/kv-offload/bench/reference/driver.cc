// Runs the reference's retrieval and sampled attention (library/lsh and library/sparse_attention of its repository, compiled
// unchanged) on a layer that bench/reference.mjs wrote to a file. For each line on standard input: one round, whose two
// times in milliseconds it prints. Results of the last round go to FILE.out at the end.
#include <chrono>
#include <cstdio>
#include <fstream>
#include <numeric>
#include <vector>

#include "lsh/lsh.h"
#include "sparse_attention/sparse_attention.h"
// Its thread counts are constants of the headers: here the compiler sets them.
#undef LSH_THREADS
#undef ATTENTION_THREADS
#define LSH_THREADS REFERENCE_THREADS
#define ATTENTION_THREADS REFERENCE_THREADS
#include "lsh/lsh.cc"
#include "sparse_attention/sparse_attention.cc"

namespace {

template <typename T>
std::vector<T> Read(std::ifstream& file, size_t count) {
  std::vector<T> values(count);
  file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(count * sizeof(T)));
  return values;
}

template <typename T>
torch::Tensor TensorOf(std::vector<T>& values, std::vector<int64_t> sizes) {
  return {values.data(), std::move(sizes)};
}

template <typename F>
double Milliseconds(F run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

int main(int, char** argv) {
  std::ifstream file(argv[1], std::ios::binary);
  const std::vector<int> header = Read<int>(file, 6);
  const int n = header[0], heads = header[1], kv_heads = header[2], dim = header[3], bits = header[4], tables = header[5];
  const size_t keys = static_cast<size_t>(kv_heads) * n;
  std::vector<uint16_t> codes = Read<uint16_t>(file, keys * tables);  // (kv_heads, n, tables)
  const std::vector<uint16_t> query_codes16 = Read<uint16_t>(file, static_cast<size_t>(heads) * tables);
  std::vector<uint16_t> key = Read<uint16_t>(file, keys * dim), value = Read<uint16_t>(file, keys * dim);  // bfloat16
  std::vector<float> key_norm = Read<float>(file, keys);
  std::vector<uint16_t> query = Read<uint16_t>(file, static_cast<size_t>(heads) * dim);
  std::vector<float> query_norm = Read<float>(file, heads);
  if (!file) return 1;

  // Its tables are made of codes sorted by torch.
  std::vector<int16_t> sorted(keys * tables);  // (kv_heads, tables, n)
  std::vector<int> order(keys * tables);
  for (int h = 0; h < kv_heads; ++h) {
    for (int t = 0; t < tables; ++t) {
      std::vector<int> next((1 << bits) + 1);
      const auto code = [&](int i) { return codes[(static_cast<size_t>(h) * n + i) * tables + t]; };
      for (int i = 0; i < n; ++i) ++next[code(i) + 1];
      std::partial_sum(next.begin(), next.end(), next.begin());
      for (int i = 0; i < n; ++i) {
        const size_t at = (static_cast<size_t>(h) * tables + t) * n + next[code(i)]++;
        sorted[at] = static_cast<int16_t>(code(i));
        order[at] = i;
      }
    }
  }
  LSH lsh;
  lsh.alloc(bits, tables, 1, heads, kv_heads, 1, n);
  lsh.fill(0, 0, TensorOf(sorted, {kv_heads, tables, n}), TensorOf(order, {kv_heads, tables, n}));
  SparseAttentionServer server;
  server.alloc(1, heads, kv_heads, dim, 1, n);
  server.fill(0, 0, TensorOf(key, {kv_heads, n, dim}), TensorOf(value, {kv_heads, n, dim}), TensorOf(key_norm, {kv_heads, n}));

  std::vector<int> query_codes(query_codes16.begin(), query_codes16.end());
  std::vector<int> ids(static_cast<size_t>(heads) * n), count(heads);
  std::vector<uint16_t> output(static_cast<size_t>(heads) * dim);
  std::vector<float> max_expsum(2 * heads);
  for (std::string line; std::getline(std::cin, line);) {
    const double retrieve = Milliseconds([&] {
      lsh.batch_retrieve(0, TensorOf(query_codes, {heads, tables}), TensorOf(ids, {heads, n}), TensorOf(count, {heads}));
    });
    const double attend = Milliseconds([&] {
      server.attention_wrapper_bf16(0, bits, tables, TensorOf(output, {heads, dim}), TensorOf(max_expsum, {2, heads}),
                                    TensorOf(query, {heads, dim}), TensorOf(query_norm, {heads}), TensorOf(ids, {heads, n}),
                                    TensorOf(count, {heads}));
    });
    std::printf("%f %f\n", retrieve, attend);
    std::fflush(stdout);
  }
  std::ofstream results(std::string(argv[1]) + ".out", std::ios::binary);
  results.write(reinterpret_cast<const char*>(count.data()), static_cast<std::streamsize>(count.size() * sizeof(int)));
  results.write(reinterpret_cast<const char*>(output.data()), static_cast<std::streamsize>(output.size() * 2));
  results.write(reinterpret_cast<const char*>(max_expsum.data()), static_cast<std::streamsize>(max_expsum.size() * 4));
  return 0;
}
