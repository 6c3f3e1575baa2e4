// The store and its attention without Node, for sanitizers: exact and sampled attention against a double-precision
// reference, and a random walk over the store's operations, on several threads.
#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "attention.h"
#include "checksum.h"
#include "isa.h"
#include "magicpig/thread_pool.h"
#include "numa.h"
#include "selectors.h"
#include "slab_memory.h"
#include "store.h"

namespace {

using namespace magicpig::kv;

int failures = 0;

void Expect(bool condition, const char* what, double value) {
  if (condition) return;
  ++failures;
  std::fprintf(stderr, "FAILED %s (%g)\n", what, value);
}

using Row = std::vector<float>;

struct Token {
  Row key, value;  // (kv_heads * dim)
};

// Relative error of one row's output against exact attention over the tokens `ids` in double precision.
double RowError(const Shape& shape, const std::vector<Token>& tokens, const std::vector<uint32_t>& ids, const Row& query,
                const float* output) {
  const uint32_t dim = shape.dim;
  double difference = 0.0, norm = 0.0;
  for (uint32_t head = 0; head < shape.query_heads; ++head) {
    const uint32_t offset = head / shape.group() * dim;
    std::vector<double> scores;
    double max = -INFINITY, sum = 0.0;
    for (const uint32_t id : ids) {
      double score = 0.0;
      for (uint32_t i = 0; i < dim; ++i) score += double{query[head * dim + i]} * tokens[id].key[offset + i];
      scores.push_back(score / std::sqrt(dim));
      max = std::max(max, scores.back());
    }
    for (double& score : scores) sum += score = std::exp(score - max);
    for (uint32_t i = 0; i < dim; ++i) {
      double expected = 0.0;
      for (size_t j = 0; j < ids.size(); ++j) expected += scores[j] / sum * tokens[ids[j]].value[offset + i];
      difference += std::pow(output[head * dim + i] - expected, 2);
      norm += expected * expected;
    }
  }
  return std::sqrt(difference / norm);
}

// Relative error that the rounding of stored rows may cause.
double Tolerance(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32: return 1e-5;
    case Dtype::kF16: return 2e-3;
    case Dtype::kInt8: return 3e-2;
    default: return 2e-2;
  }
}

struct Subject {
  std::shared_ptr<Sequence> sequence;
  std::vector<Token> tokens;
};

class Walk {
 public:
  Walk(const Shape& shape, uint32_t threads, uint32_t seed)
      : random_(seed),
        store_(std::make_shared<Store>(shape, shape.page_bytes() * 60, magicpig::ThreadPool::Create(threads))) {}

  void Run(int operations) {
    for (int i = 0; i < operations; ++i) Operate();
    subjects_.clear();
    Expect(store_->pages().bytes() == 0, "all pages are given back", static_cast<double>(store_->pages().bytes()));
  }

 private:
  uint32_t Below(uint32_t n) { return static_cast<uint32_t>(random_() % n); }

  Row Normals(size_t count) {
    std::normal_distribution<float> normal;
    Row row(count);
    for (float& x : row) x = normal(random_);
    return row;
  }

  void Operate() {
    const uint32_t kind = Below(8);
    if (kind == 0 || subjects_.empty()) {
      if (subjects_.size() < 5) subjects_.push_back({store_->Open(), {}});
      return;
    }
    Subject& subject = subjects_[Below(static_cast<uint32_t>(subjects_.size()))];
    if (kind == 1 && subjects_.size() < 5) {
      Subject fork{subject.sequence->Fork(), subject.tokens};
      subjects_.push_back(std::move(fork));
    } else if (kind == 2) {
      const uint32_t length = Below(static_cast<uint32_t>(subject.tokens.size()) + 1);
      subject.sequence->Truncate(length);
      subject.tokens.resize(length);
    } else if (kind == 3) {
      subject.sequence->Dispose();
      subjects_.erase(subjects_.begin() + (&subject - subjects_.data()));
    } else {
      TakeStep();
    }
  }

  void TakeStep() {
    const Shape& shape = store_->shape();
    const size_t kv_width = shape.kv_heads * shape.dim, width = shape.query_heads * shape.dim;
    std::vector<Store::Request> requests;
    for (const Subject& subject : subjects_) {
      requests.push_back({subject.sequence, Below(3) == 0 ? 1 + Below(90) : 1});
    }
    std::unique_ptr<Step> step;
    if (const Status status = store_->MakeStep(requests, step)) {
      Expect(status->code == ErrorCode::kOutOfMemory, "a step is refused for memory only", 0);
      return;
    }
    const uint32_t layer = shape.layers - 1, rows = step->rows();
    const Row keys = Normals(rows * kv_width), values = Normals(rows * kv_width), queries = Normals(rows * width);
    Expect(!step->Append(layer, {keys.data(), kv_width}, {values.data(), kv_width}), "append", 0);

    // Every other entry with enough tokens samples a few of them.
    GivenSelector given(shape);
    const std::vector<uint32_t> chosen{1, 5, 6, 20, 29};
    for (uint32_t head = 0; head < shape.query_heads; ++head) given.Set(layer * shape.query_heads + head, chosen, {});
    const uint32_t begin = 3, end = 33;
    std::vector<Sampling> sampling(requests.size());
    for (size_t e = 0; e < requests.size(); e += 2) {
      if (step->entries()[e].start >= end) sampling[e] = {given.abi(), begin, end};
    }

    Row output(rows * width), log_sum_exp(rows * shape.query_heads);
    std::vector<double> keys_read(rows);
    AttendArgs args{};
    args.layer = layer;
    args.queries = {queries.data(), width};
    args.output = {output.data(), width};
    args.sampling = &sampling;
    args.log_sum_exp = log_sum_exp.data();
    args.keys_read = keys_read.data();
    Expect(!Attend(*step, args), "attend", 0);

    uint32_t row = 0;
    for (size_t e = 0; e < requests.size(); ++e) {
      for (uint32_t i = 0; i < requests[e].tokens; ++i, ++row) {
        subjects_[e].tokens.push_back({{&keys[row * kv_width], &keys[row * kv_width] + kv_width},
                                       {&values[row * kv_width], &values[row * kv_width] + kv_width}});
        std::vector<uint32_t> ids;
        for (uint32_t id = 0; id < subjects_[e].tokens.size(); ++id) {
          const bool sampled = sampling[e].selector != nullptr && id >= begin && id < end;
          if (!sampled || std::find(chosen.begin(), chosen.end(), id - begin) != chosen.end()) ids.push_back(id);
        }
        const Row query(&queries[row * width], &queries[row * width] + width);
        const double error = RowError(shape, subjects_[e].tokens, ids, query, &output[row * width]);
        Expect(error < Tolerance(shape.dtype), "relative error", error);
        Expect(keys_read[row] == static_cast<double>(ids.size() * shape.query_heads), "keys read", keys_read[row]);
      }
    }
  }

  std::mt19937 random_;
  std::shared_ptr<Store> store_;
  std::vector<Subject> subjects_;
};

// Values of the reference implementation (xxhsum -H1).
void TestChecksum() {
  const auto of = [](const std::string& text, size_t piece) {
    Checksum checksum;
    for (size_t i = 0; i < text.size(); i += piece) checksum.Add(text.data() + i, std::min(piece, text.size() - i));
    return checksum.Value();
  };
  Expect(of("", 1) == 0xef46db3751d8e999ull, "checksum of nothing", 0);
  Expect(of("a", 1) == 0xd24ec4f1a98c6e5bull, "checksum of a", 0);
  Expect(of("abc", 3) == 0x44bc2cf5ad770999ull, "checksum of abc", 0);
  const std::string text(1000, 'x');
  for (const size_t piece : {1, 7, 31, 32, 33, 999}) Expect(of(text, piece) == of(text, 1000), "checksum in pieces", 0);
}

// The nodes of a process on a machine that these files describe.
void TestNuma() {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("kv-numa-" + std::to_string(std::random_device()()));
  const auto write = [&](const std::string& name, const std::string& text) {
    std::filesystem::create_directories((folder / name).parent_path());
    std::ofstream(folder / name) << text << "\n";
  };
  write("has_memory", "0-1,8");
  write("node0/cpulist", "0-3,8-11");
  write("node1/cpulist", "4-7");
  write("node8/cpulist", "");  // memory without CPUs
  using Nodes = std::vector<uint32_t>;
  Expect(LocalNodes(folder.string(), {0, 11}) == Nodes{0}, "one node", 0);
  Expect(LocalNodes(folder.string(), {2, 3, 4}) == Nodes{0, 1}, "two nodes", 0);
  Expect(LocalNodes(folder.string(), {12}).empty(), "no node", 0);
  Expect(LocalNodes((folder / "nowhere").string(), {0}).empty(), "no description of nodes", 0);
  std::filesystem::remove_all(folder);

  SlabMemorySource source(/*pin=*/false);
  const auto memory = source.Map(100);
  Expect(memory != nullptr && memory->bytes() % (2 << 20) == 0, "slab memory", 0);
  const Nodes nodes = LocalNodes();
  Expect(nodes.empty() || Interleave(nodes, memory->data(), memory->bytes()) || errno == EPERM || errno == ENOSYS,
         "memory spread over this machine's nodes", errno);
  Expect(!Interleave({1000}, memory->data(), memory->bytes()), "a node that is not there is refused", 0);
}

}  // namespace

int main() {
  TestChecksum();
  TestNuma();
  for (const Dtype dtype : {Dtype::kBf16, Dtype::kF16, Dtype::kF32, Dtype::kInt8}) {
    Walk({2, 2, 6, 40, 16, dtype}, 4, 1).Run(60);
    Walk({1, 1, 4, 128, 64, dtype}, 4, 2).Run(40);
    Walk({1, 3, 9, 64, 64, dtype}, 2, 3).Run(40);
  }
  std::printf("%s: %s\n", IsaName(ActiveIsa()), failures == 0 ? "passed" : "FAILED");
  return failures == 0 ? 0 : 1;
}
