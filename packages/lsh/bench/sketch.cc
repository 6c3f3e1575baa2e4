// Times key sketches, one thread: encoding, the scan of codes for a group of query heads (codes from memory, where heads take turns, more
// than the caches hold, and from the second-level cache) beside a bare reading of the same bytes, and a whole selection beside that of
// SimHash tables (10 bits, 150 tables). "Per key and head" is the group's time over its query heads. Medians; prints one JSON object for
// each number of bits.
// Usage: lsh-sketch-bench [keys] [dim] [group]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "../native/sketch.h"
#include "../native/tables.h"
#include "timing.h"

using namespace magicpig::lsh;

namespace {

constexpr uint32_t kHeads = 12;
constexpr int kRepeats = 36;

std::vector<float> Normals(size_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& value : values) value = normal(random);
  return values;
}

template <typename Index>
double Select(const Index& index, uint32_t n, uint32_t dim, uint32_t group, const std::vector<float>& queries, double* share) {
  std::vector<magicpig_selection> out(group);
  double read = 0;
  int calls = 0;
  const double time = Median(kRepeats, [&](int i) {
    const magicpig_selector_args args{static_cast<uint32_t>(i) % kHeads, 0, group, dim, n, static_cast<uint32_t>(i), queries.data() + size_t(i) * group * dim};
    if (index.Select(args, out.data()) != 0) std::exit(1);
    for (const auto& selection : out) read += selection.count;
    ++calls;
  });
  *share = read / calls / group / n;
  return 1000 * time / n / group;
}

}  // namespace

int main(int argc, char** argv) {
  const auto argument = [&](int i, uint32_t otherwise) { return argc > i ? static_cast<uint32_t>(std::atoi(argv[i])) : otherwise; };
  const uint32_t n = argument(1, 98304), dim = argument(2, 128), group = std::min<uint32_t>(argument(3, 4), kSketchQueries);
  const std::vector<float> keys = Normals(size_t{n} * dim, 1), queries = Normals(size_t{kRepeats} * group * dim, 2);
  const size_t size = std::max(kSketchUnit, std::bit_ceil(size_t{dim}));
  const PoolHandle pool = ProcessPool(1);

  double simhash_share;
  double simhash;
  {
    const auto projection = std::make_shared<const Projection>(ProjectionKind::kHadamard, dim, 10, 150, 1);
    Tables tables({kHeads, 2, 1e-4, Centring::kNone, Element::kNone, true}, projection, std::vector<float>(17, 1.0f), pool, {});
    for (uint32_t head = 0; head < kHeads; ++head) {
      if (tables.Add(head, Vectors{keys.data(), Element::kF32}, n, nullptr) != Status::kOk) return 1;
    }
    simhash = Select(tables, n, dim, group, queries, &simhash_share);
  }

  for (uint32_t bits = 1; bits <= kMaxSketchBits; ++bits) {
    KeySketch sketch({kHeads, dim, bits, 1, 1 / std::sqrt(double(dim)), false, {SketchBudget::Kind::kShare, 0.02, 0, 1}, 0.02, pool});
    const double start = Now();
    for (uint32_t head = 0; head < kHeads; ++head) {
      if (sketch.Add(head, keys.data(), n) != KeySketch::Status::kOk) return 1;
    }
    const double encode = 1000 * (Now() - start) / n / kHeads;

    const size_t block_bytes = bits * size / 8 * kSketchKeys, blocks = (n + kSketchKeys - 1) / kSketchKeys, bytes = blocks * block_bytes;
    std::vector<Buffer<uint8_t>> codes;
    for (uint32_t head = 0; head < kHeads; ++head) {
      codes.emplace_back(bytes);
      std::memset(codes.back().data(), 0x5a + static_cast<int>(head), bytes);
    }
    const size_t table_bytes = size / kSketchUnit * kSketchTableBytes;
    Buffer<uint8_t> tables(group * table_bytes);
    const std::vector<int16_t> rounded(size, 1);
    for (uint32_t i = 0; i < group; ++i) BestSketchKernels().tables(rounded.data(), size, tables.data() + i * table_bytes);
    Buffer<uint16_t> sums(group * kSketchChunk);
    // All keys, chunk by chunk as in a draw; only the first `distinct` blocks are different ones.
    const auto scan_all = [&](const uint8_t* head, size_t distinct) {
      constexpr size_t kChunkBlocks = kSketchChunk / kSketchKeys;
      for (size_t block = 0; block < blocks; block += kChunkBlocks) {
        BestSketchKernels().scan(head + block % distinct * block_bytes, std::min(kChunkBlocks, blocks - block), bits, size, tables.data(), group,
                                 sums.data(), kSketchChunk);
      }
    };
    const auto head_of = [&](int i) { return codes[static_cast<uint32_t>(i) % kHeads].data(); };
    const double scan = Median(kRepeats, [&](int i) { scan_all(head_of(i), blocks); }) * 1000 / n / group;
    constexpr size_t kCachedBlocks = 64;
    const double cached = Median(kRepeats, [&](int) { scan_all(codes[0].data(), kCachedBlocks); }) * 1000 / n / group;
    using Words = uint64_t __attribute__((vector_size(64), aligned(64), may_alias));
    uint64_t sum = 0;
    const double read = Median(kRepeats, [&](int i) {
      const auto* words = reinterpret_cast<const Words*>(head_of(i));
      Words sums[4] = {};
      for (size_t w = 0; w < bytes / sizeof(Words); w += 4) {
        for (size_t j = 0; j < 4; ++j) sums[j] += words[w + j];
      }
      sum += (sums[0] + sums[1] + sums[2] + sums[3])[0];
    }) * 1000 / n / group;
    double share;
    const double select = Select(sketch, n, dim, group, queries, &share);
    std::printf(
        "{\"isa\": \"%s\", \"keys\": %u, \"dim\": %u, \"group\": %u, \"bits\": %u, \"bytes_per_key\": %.2f, \"encode_ns_per_key\": %.1f, "
        "\"scan_ns_per_key_and_head\": %.3f, \"cached_scan_ns_per_key_and_head\": %.3f, \"read_ns_per_key_and_head\": %.3f, \"scan_over_read\": %.2f, \"select_ns_per_key_and_head\": %.3f, "
        "\"share\": %.4f, \"simhash_select_ns_per_key_and_head\": %.3f, \"simhash_share\": %.4f, \"simhash_over_sketch\": %.2f, \"sum\": %llu}\n",
        BestSketchKernels().isa, n, dim, group, bits, double(sketch.bytes()) / n / kHeads, encode, scan, cached, read, scan / read, select, share, simhash,
        simhash_share, simhash / select, static_cast<unsigned long long>(sum & 1));
  }
}
