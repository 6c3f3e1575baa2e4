// kernels-bench: time, bytes, operations of each kernel at the sizes of Llama-3.1-8B, and the share of the machine's ceilings, which
// are measured first in the same run.
//
//   kernels-bench [--json FILE] [--filter NAME] [--small]
//
// Bytes are the fewest that must move (each input read once, each output written once), operations those of the definition, so that
// a share says how far a kernel is from the machine, whatever it does inside. Exit status 77: no device.
#include <ctime>
#include <fstream>
#include <memory>

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
#include "bench.h"

namespace magicpig::test {
namespace {

// Random values drawn on the device; poison or zeros could run faster than data does.
std::unique_ptr<DeviceBuffer<bf16>> random_bf16(size_t count, uint64_t seed) {
  auto buffer = std::make_unique<DeviceBuffer<bf16>>(count);
  CHECK_CUDA(fill_normal(nullptr, nullptr, buffer->get(), static_cast<int64_t>(count), seed, 0.0f, 1.0f, 0));
  CHECK_CUDA(cudaDeviceSynchronize());
  return buffer;
}
std::unique_ptr<DeviceBuffer<float>> random_f32(size_t count, uint64_t seed) {
  auto buffer = std::make_unique<DeviceBuffer<float>>(count);
  CHECK_CUDA(fill_normal(nullptr, buffer->get(), nullptr, static_cast<int64_t>(count), seed, 0.0f, 1.0f, 0));
  CHECK_CUDA(cudaDeviceSynchronize());
  return buffer;
}

std::string text(const char* format, auto... values) {
  char buffer[128];
  std::snprintf(buffer, sizeof buffer, format, values...);
  return buffer;
}

void run_all(Bench& b, CublasLt& library, bool small) {
  const cudaStream_t s = b.stream();
  const int scale = small ? 1024 : 1;  // --small: to see that it runs, not for its numbers

  // ---- Ceilings ----
  {
    const size_t bytes = (size_t{2} << 30) / scale;
    DeviceBuffer<char> from(bytes), to(bytes);
    CHECK_CUDA(fill_normal(nullptr, reinterpret_cast<float*>(from.get()), nullptr, static_cast<int64_t>(bytes / 4), 1, 0.0f, 1.0f, 0));
    CHECK_CUDA(cudaDeviceSynchronize());
    b.copy_rate = 2.0 * static_cast<double>(bytes) / b.time(Cache::kAsItIs, [&](int) { return cudaMemcpyAsync(to.get(), from.get(), bytes, cudaMemcpyDeviceToDevice, s); }) / 1e6;
    void* pinned = nullptr;
    const size_t part = bytes / 8;
    CHECK_CUDA(cudaHostAlloc(&pinned, part, cudaHostAllocPortable));
    std::memset(pinned, 1, part);
    b.upload_rate = static_cast<double>(part) / b.time(Cache::kAsItIs, [&](int) { return cudaMemcpyAsync(to.get(), pinned, part, cudaMemcpyHostToDevice, s); }) / 1e6;
    b.download_rate = static_cast<double>(part) / b.time(Cache::kAsItIs, [&](int) { return cudaMemcpyAsync(pinned, from.get(), part, cudaMemcpyDeviceToHost, s); }) / 1e6;
    CHECK_CUDA(cudaFreeHost(pinned));
  }
  DeviceBuffer<char> workspace(CublasLt::kWorkspaceBytes);
  const int gemm_size = small ? 256 : 8192;
  {
    const auto x = random_bf16(static_cast<size_t>(gemm_size) * gemm_size, 2), w = random_bf16(static_cast<size_t>(gemm_size) * gemm_size, 3);
    DeviceBuffer<float> out(static_cast<size_t>(gemm_size) * gemm_size);
    const double operations = 2.0 * gemm_size * gemm_size * gemm_size;
    if (library.is_open() &&
        library.multiply(s, out.get(), x->get(), w->get(), gemm_size, gemm_size, gemm_size, false, workspace.get()) == cudaSuccess) {
      b.gemm_by = library.path();
    }
    const double ms = b.time(Cache::kAsItIs, [&](int) {
      return !b.gemm_by.empty() ? library.multiply(s, out.get(), x->get(), w->get(), gemm_size, gemm_size, gemm_size, false, workspace.get())
                               : gemm(s, out.get(), x->get(), w->get(), nullptr, gemm_size, gemm_size, gemm_size, false);
    });
    b.gemm_rate = operations / ms / 1e9;
    b.launch_microseconds = 1e3 * b.time(Cache::kCold, [&](int) { return add(s, out.get(), out.get() + 4, 4); });
    std::printf("ceilings: copy %.0f GB/s, GEMM %.0f TFLOP/s (%s), pinned upload %.1f GB/s, download %.1f GB/s; a launch takes %.1f us\n", b.copy_rate,
                b.gemm_rate, b.gemm_by.empty() ? "own kernel: no cuBLASLt here" : "cuBLASLt", b.upload_rate, b.download_rate, b.launch_microseconds);
    const std::string shape = text("%d x %d x %d", gemm_size, gemm_size, gemm_size);
    b.add("gemm", shape, 0, operations, Cache::kAsItIs, [&](int) { return gemm(s, out.get(), x->get(), w->get(), nullptr, gemm_size, gemm_size, gemm_size, false); });
  }

  // ---- Rows ----
  const int rows = 8192 / scale, hidden = 4096, heads = 32, kv_heads = 8, dim = 128, ffn = 14336;
  {
    const auto x = random_f32(static_cast<size_t>(rows) * hidden, 4), y = random_f32(static_cast<size_t>(rows) * hidden, 5), w = random_f32(hidden, 6);
    DeviceBuffer<bf16> out(static_cast<size_t>(rows) * hidden);
    const double count = static_cast<double>(rows) * hidden;
    const std::string shape = text("%d x %d", rows, hidden);
    b.add("rms_norm", shape, 6 * count, 0, Cache::kCold, [&](int) { return rms_norm(s, out.get(), x->get(), w->get(), rows, hidden, 1e-5f); });
    b.add("add_rms_norm", shape, 14 * count, 0, Cache::kCold, [&](int) { return add_rms_norm(s, out.get(), x->get(), y->get(), w->get(), rows, hidden, 1e-5f); });
    b.add("add", shape, 12 * count, 0, Cache::kCold, [&](int) { return add(s, x->get(), y->get(), static_cast<int64_t>(count)); });
    b.add("to_bf16", shape, 6 * count, 0, Cache::kCold, [&](int) { return to_bf16(s, out.get(), x->get(), static_cast<int64_t>(count)); });
  }
  if (b.wanted("swiglu")) {
    const auto x = random_f32(static_cast<size_t>(rows) * 2 * ffn, 7);
    DeviceBuffer<bf16> out(static_cast<size_t>(rows) * ffn);
    b.add("swiglu", text("%d x %d", rows, ffn), 10.0 * rows * ffn, 0, Cache::kCold, [&](int) { return swiglu(s, out.get(), x->get(), rows, ffn); });
  }
  if (b.wanted("rope_split")) {
    const int width = (heads + 2 * kv_heads) * dim;
    const auto qkv = random_f32(static_cast<size_t>(rows) * width, 8), table = random_f32(static_cast<size_t>(rows) * dim, 9);
    DeviceBuffer<bf16> q(static_cast<size_t>(rows) * heads * dim), k(static_cast<size_t>(rows) * kv_heads * dim), v(k.size());
    b.add("rope_split", text("%d x (32 + 2 * 8) x 128", rows), static_cast<double>(rows) * (6.0 * width + 4.0 * dim), 0, Cache::kCold, [&](int) {
      return rope_split(s, q.get(), k.get(), v.get(), qkv->get(), table->get(), nullptr, rows, heads, kv_heads, dim);
    });
  }

  // ---- Products of few rows: weights rotate, so that none is found in a cache ----
  if (b.wanted("linear")) {
    const int copies = small ? 1 : 8;
    const int wide = small ? 512 : 2 * ffn;
    std::vector<std::unique_ptr<DeviceBuffer<bf16>>> weights;
    for (int i = 0; i < copies; ++i) weights.push_back(random_bf16(static_cast<size_t>(wide) * hidden, 10 + i));
    const auto x = random_bf16(static_cast<size_t>(16) * hidden, 30);
    DeviceBuffer<float> out(static_cast<size_t>(16) * wide);
    DeviceBuffer<bf16> out_bf16(static_cast<size_t>(16) * wide / 2);
    for (const int r : {1, 4, 8, 16}) {
      for (const int outputs : {small ? 256 : hidden, wide}) {
        b.add("linear", text("%d rows, %d x %d", r, outputs, hidden), 2.0 * outputs * hidden + r * (2.0 * hidden + 4.0 * outputs), 0,
              Cache::kRotating, [&, r, outputs](int i) { return linear(s, out.get(), x->get(), bf16_weight(weights[i % copies]->get()), nullptr, r, outputs, hidden, false); });
      }
      b.add("linear_gated", text("%d rows, 2 * %d x %d", r, wide / 2, hidden), 2.0 * wide * hidden + r * (2.0 * hidden + 1.0 * wide), 0,
            Cache::kRotating, [&, r](int i) { return linear_gated(s, out_bf16.get(), x->get(), bf16_weight(weights[i % copies]->get()), r, wide / 2, hidden); });
      if (library.is_open()) {
        b.add("linear by cuBLASLt", text("%d rows, %d x %d", r, wide, hidden), 2.0 * wide * hidden + r * (2.0 * hidden + 4.0 * wide), 0,
              Cache::kRotating, [&, r](int i) { return library.multiply(s, out.get(), x->get(), weights[i % copies]->get(), r, wide, hidden, false, workspace.get()); });
      }
    }
  }

  if (b.wanted("linear")) {
    const int copies = small ? 1 : 8, wide = small ? 512 : 2 * ffn;
    const auto x = random_bf16(static_cast<size_t>(16) * hidden, 31);
    const auto source = random_bf16(static_cast<size_t>(wide) * hidden, 32);
    DeviceBuffer<float> out(static_cast<size_t>(16) * wide);
    for (const auto& [kind, name] : {std::pair{WeightKind::kQ8, "linear, 8-bit blocks"}, {WeightKind::kQ4, "linear, 4-bit blocks"}}) {
      const size_t values = static_cast<size_t>(wide) * weight_value_bytes(kind, hidden), scales = static_cast<size_t>(wide) * weight_scale_bytes(kind, hidden);
      std::vector<std::unique_ptr<DeviceBuffer<char>>> weights;
      const auto view = [&](int i) {
        char* memory = weights[i % copies]->get();
        return WeightView{kind, memory, reinterpret_cast<uint16_t*>(memory + values)};
      };
      for (int i = 0; i < copies; ++i) {
        weights.push_back(std::make_unique<DeviceBuffer<char>>(values + scales));
        CHECK_CUDA(pack_weight(nullptr, view(i), 0, source->get(), SourceType::kBf16, wide, hidden));
      }
      CHECK_CUDA(cudaDeviceSynchronize());
      for (const int r : {1, 4, 16}) {
        b.add(name, text("%d rows, %d x %d", r, wide, hidden), static_cast<double>(values + scales) + r * (2.0 * hidden + 4.0 * wide), 0,
              Cache::kRotating, [&, r](int i) { return linear(s, out.get(), x->get(), view(i), nullptr, r, wide, hidden, false); });
      }
    }
  }

  // ---- Attention ----
  const float softmax_scale = 1.0f / std::sqrt(static_cast<float>(dim));
  const auto contiguous = [&](const bf16* k, const bf16* v) { return KvView{k, v, nullptr, kPageTokens * kv_heads * dim, kv_heads * dim, dim}; };
  for (const int tokens : small ? std::vector<int>{128} : std::vector<int>{4096, 16384}) {
    if (!b.wanted("attention_prefill")) break;
    const auto q = random_bf16(static_cast<size_t>(tokens) * heads * dim, 40), k = random_bf16(static_cast<size_t>(tokens) * kv_heads * dim, 41);
    const auto v = random_bf16(k->size(), 42);
    DeviceBuffer<bf16> out(q->size());
    const PrefillShape shape{tokens, tokens, heads, kv_heads, dim, 0, 0, softmax_scale};
    b.add("attention_prefill", text("%d tokens, 32 / 8 heads, d = 128", tokens), 0, 4.0 * dim * heads * (0.5 * tokens * (tokens + 1.0)),
          Cache::kAsItIs, [&](int) { return attention_prefill(s, nullptr, out.get(), nullptr, q->get(), contiguous(k->get(), v->get()), shape); });
  }
  for (const auto& [sequences, tokens] : small ? std::vector<std::pair<int, int>>{{1, 256}} : std::vector<std::pair<int, int>>{{1, 4096}, {1, 98304}, {8, 16384}, {64, 68}}) {
    if (!b.wanted("attention_decode")) break;
    const size_t elements = static_cast<size_t>(sequences) * tokens * kv_heads * dim;
    const auto q = random_bf16(static_cast<size_t>(sequences) * heads * dim, 43), k = random_bf16(elements, 44), v = random_bf16(elements, 45);
    DeviceBuffer<float> out(q->size()), lse(static_cast<size_t>(sequences) * heads);
    DeviceBuffer<int32_t> lengths(std::vector<int32_t>(sequences, tokens));
    const DecodeShape shape{sequences, heads, kv_heads, dim, 0, static_cast<int64_t>(tokens) * kv_heads * dim, tokens, 512, softmax_scale};
    DeviceBuffer<char> parts(attention_decode_workspace(shape));
    b.add("attention_decode", text("%d x %d tokens, 32 / 8 heads, d = 128", sequences, tokens), 4.0 * static_cast<double>(elements), 0, Cache::kCold, [&](int) {
      return attention_decode(s, out.get(), nullptr, lse.get(), parts.get(), q->get(), contiguous(k->get(), v->get()), lengths.get(), nullptr, shape);
    });
  }
  if (b.wanted("merge_attention")) {
    const int count = rows * heads;
    const auto x = random_f32(static_cast<size_t>(count) * dim, 46), y = random_f32(static_cast<size_t>(count) * dim, 47), lse = random_f32(count, 48);
    DeviceBuffer<bf16> out(x->size());
    b.add("merge_attention", text("%d rows of 128", count), 10.0 * count * dim + 8.0 * count, 0, Cache::kCold, [&](int) {
      return merge_attention(s, nullptr, out.get(), nullptr, x->get(), lse->get(), y->get(), lse->get(), count, dim);
    });
  }

  // ---- Hashing and tables: (K, L) = (10, 150), the keys of one layer of 96K tokens ----
  const int bits = 10, tables = 150;
  if (b.wanted("simhash") || b.wanted("column_mean")) {
    DeviceBuffer<int8_t> projections(static_cast<size_t>(bits) * tables * projection_stride(dim));
    CHECK_CUDA(simhash_projections(nullptr, projections.get(), dim, bits, tables, 1));
    CHECK_CUDA(cudaDeviceSynchronize());
    const int keys = (small ? 200 : 98304) * kv_heads;
    const auto x = random_bf16(static_cast<size_t>(keys) * dim, 50);
    const auto centre = random_f32(static_cast<size_t>(kv_heads) * dim, 51);
    DeviceBuffer<uint16_t> codes(static_cast<size_t>(keys) * tables);
    DeviceBuffer<float> norms(keys), mean(static_cast<size_t>(kv_heads) * dim);
    const HashShape all{keys, dim, bits, tables, dim, 1, keys};
    b.add("simhash", text("%d keys, (10, 150), d = 128", keys), static_cast<double>(keys) * (2.0 * dim + 2.0 * tables + 4), 2.0 * keys * dim * bits * tables,
          Cache::kAsItIs, [&](int) { return simhash_bf16(s, codes.get(), norms.get(), nullptr, x->get(), centre->get(), projections.get(), all); });
    const HashShape queries{heads, dim, bits, tables, dim, tables, 1};
    b.add("simhash", "32 queries, (10, 150), d = 128", 0, 2.0 * heads * dim * bits * tables,
          Cache::kAsItIs, [&](int) { return simhash_bf16(s, codes.get(), nullptr, nullptr, x->get(), nullptr, projections.get(), queries); });
    DeviceBuffer<uint32_t> flips(hadamard_words(dim, bits, tables));
    CHECK_CUDA(hadamard_flips(nullptr, flips.get(), dim, bits, tables, 1));
    CHECK_CUDA(cudaDeviceSynchronize());
    b.add("simhash (hadamard)", text("%d keys, (10, 150), d = 128", keys), static_cast<double>(keys) * (2.0 * dim + 2.0 * tables + 4), 0,
          Cache::kCold, [&](int) { return hadamard_bf16(s, codes.get(), norms.get(), nullptr, x->get(), centre->get(), flips.get(), all); });
    b.add("column_mean", text("%d rows, 8 x 128", keys / kv_heads), 2.0 * keys * dim, 0,
          Cache::kCold, [&](int) { return column_mean_bf16(s, mean.get(), x->get(), keys / kv_heads, kv_heads, dim, kv_heads * dim, dim); });
  }
  if (b.wanted("sketch")) {
    const int keys = small ? 48 : 98304, room = small ? 48 : 6144, pages = (keys + kSketchPage - 1) / kSketchPage;
    const auto x = random_bf16(static_cast<size_t>(keys) * kv_heads * dim, 60);
    const auto q = random_f32(static_cast<size_t>(heads) * dim, 61);
    DeviceBuffer<uint32_t> flips(kHadamardRotations * hadamard_size(dim) / 32), samples(heads * sketch_sample_words(room));
    DeviceBuffer<int32_t> lengths(std::vector<int32_t>{keys});
    DeviceBuffer<uint32_t> steps(std::vector<uint32_t>{static_cast<uint32_t>(keys)});
    CHECK_CUDA(sketch_flips(s, flips.get(), dim, 1));
    for (const int width : {1, 2, 4}) {
      const SketchShape shape{dim, width, kv_heads, heads / kv_heads};
      const int words = sketch_words(hadamard_size(dim), width);
      DeviceBuffer<uint32_t> codes(static_cast<size_t>(pages) * kv_heads * kSketchPage * words);
      DeviceBuffer<uint16_t> factors(static_cast<size_t>(pages) * kv_heads * kSketchPage);
      DeviceBuffer<char> scratch(sketch_draw_workspace(shape, 1, keys));
      const SketchView view{codes.get(), factors.get(), nullptr, pages};
      const double key_bytes = words * 4.0 + 2;
      b.add("sketch_encode", text("8 x %d keys, %d bits, d = 128", keys, width), static_cast<double>(kv_heads) * keys * (2.0 * dim + key_bytes), 0, Cache::kCold, [&](int) {
        return sketch_encode(s, view, nullptr, x->get(), true, nullptr, flips.get(), shape, SketchKeys{0, 0, keys, kv_heads * dim, dim});
      });
      const SketchDraw draw{1, keys, room, heads * dim, {SketchBudget::kShare, 0.05, 0, 1}, 0.02, softmax_scale, 0, 1};
      b.add("sketch_draw", text("5%% of 8 x %d keys, 32 queries, %d bits, d = 128", keys, width), static_cast<double>(kv_heads) * keys * key_bytes, 0, Cache::kCold, [&](int) {
        return sketch_draw(s, samples.get(), scratch.get(), view, q->get(), flips.get(), lengths.get(), steps.get(), shape, draw);
      });
    }
  }
  if (b.wanted("table_build")) {
    const int keys = small ? 2000 : 49152, count = small ? 8 : tables * kv_heads;
    for (const int width : {10, 14}) {
      DeviceBuffer<uint16_t> codes(static_cast<size_t>(keys) * count), starts(segment_starts(count, width)), ids(segment_ids(count, keys));
      DeviceBuffer<char> scratch(table_build_workspace(keys, width, count));
      std::vector<uint16_t> host(codes.size());
      std::mt19937 random(7);
      for (uint16_t& code : host) code = static_cast<uint16_t>(random() & ((1u << width) - 1));
      codes.upload(host);
      b.add("table_build", text("%d tables of %d keys, %d bits", count, keys, width), 4.0 * count * keys + 2.0 * static_cast<double>(starts.size()), 0,
            Cache::kCold, [&](int) { return table_build(s, starts.get(), ids.get(), scratch.get(), codes.get(), keys, width, count, keys); });
    }
  }
}

void write_json(const std::string& file, const Bench& b, const cudaDeviceProp& device) {
  std::ofstream out(file);
  char date[32];
  const std::time_t now = std::time(nullptr);
  std::strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&now));
  out << "{\n  \"device\": \"" << device.name << "\",\n  \"computeCapability\": \"" << device.major << "." << device.minor << "\",\n  \"date\": \"" << date
      << "\",\n  \"ceilings\": {\"copyGBs\": " << b.copy_rate << ", \"gemmTflops\": " << b.gemm_rate << ", \"gemmBy\": \"" << (b.gemm_by.empty() ? "own kernel" : b.gemm_by)
      << "\", \"pinnedUploadGBs\": " << b.upload_rate << ", \"pinnedDownloadGBs\": " << b.download_rate << ", \"launchMicroseconds\": " << b.launch_microseconds << "},\n  \"results\": [\n";
  for (size_t i = 0; i < b.results.size(); ++i) {
    const Result& r = b.results[i];
    out << "    {\"kernel\": \"" << r.name << "\", \"shape\": \"" << r.shape << "\", \"milliseconds\": " << r.milliseconds << ", \"bytes\": " << r.bytes
        << ", \"operations\": " << r.operations << ", \"shareOfCopy\": " << r.bytes / r.milliseconds / 1e6 / b.copy_rate
        << ", \"shareOfGemm\": " << r.operations / r.milliseconds / 1e9 / b.gemm_rate << "}" << (i + 1 < b.results.size() ? "," : "") << "\n";
  }
  out << "  ]\n}\n";
}

}  // namespace
}  // namespace magicpig::test

int main(int argc, char** argv) {
  using namespace magicpig;
  using namespace magicpig::test;
  std::string json, filter;
  bool small = false;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--json" && i + 1 < argc) {
      json = argv[++i];
    } else if (argument == "--filter" && i + 1 < argc) {
      filter = argv[++i];
    } else if (argument == "--small") {
      small = true;
    } else {
      std::fprintf(stderr, "usage: kernels-bench [--json FILE] [--filter NAME] [--small]\n");
      return 2;
    }
  }
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess || devices == 0) {
    std::printf("no CUDA device (%s)\n", status == cudaSuccess ? "none found" : cudaGetErrorString(status));
    return 77;
  }
  cudaDeviceProp device;
  CHECK_CUDA(cudaGetDeviceProperties(&device, 0));
  std::printf("%s, compute capability %d.%d, %d multiprocessors, L2 %.0f MB\n", device.name, device.major, device.minor, device.multiProcessorCount,
              device.l2CacheSize / 1e6);
  CublasLt library;
  if (!library.open()) std::printf("%s\n", library.why_not().c_str());
  Bench bench(filter, small, static_cast<size_t>(device.l2CacheSize));
  run_all(bench, library, small);
  if (!json.empty()) write_json(json, bench, device);
  return 0;
}
