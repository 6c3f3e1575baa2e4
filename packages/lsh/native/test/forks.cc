// Forks of tables against plain lists of codes: random changes of many at a time, from one thread and from several; and segments
// that were built elsewhere.
#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "../pool_handle.h"
#include "../tables.h"
#include "check.h"

using namespace magicpig::lsh;

namespace {

constexpr uint32_t kHeads = 2, kDim = 4, kBits = 6, kTables = 8;

std::shared_ptr<const Projection> TheProjection() {
  static const auto projection = std::make_shared<Projection>(ProjectionKind::kGaussian, kDim, kBits, kTables, 3);
  return projection;
}

// Tables, and the codes [n][kTables] of each head's keys.
struct Pair {
  std::shared_ptr<Tables> tables;
  std::vector<uint16_t> codes[kHeads];

  static Pair Empty() {
    return {std::make_shared<Tables>(TablesOptions{kHeads, 2, 1e-4, Centring::kNone, Element::kNone, true}, TheProjection(),
                                     std::vector<float>(17, 1.0f), ProcessPool(2), std::vector<float>()),
            {}};
  }
  size_t size(uint32_t head) const { return codes[head].size() / kTables; }

  void Check(std::mt19937& random) const {
    thread_local QueryScratch scratch;
    for (uint32_t head = 0; head < kHeads; ++head) {
      CHECK(tables->size(head) == size(head));
      if (tables->index(head) == nullptr) continue;
      uint16_t query[kTables];
      for (uint16_t& code : query) code = random() % (1u << kBits);
      Found found;
      tables->index(head)->Query(BestKernels(), query, 1, size(head), 2, false, scratch, &found);
      std::vector<uint32_t> expected;
      for (size_t i = 0; i < size(head); ++i) {
        int equal = 0;
        for (size_t t = 0; t < kTables; ++t) equal += codes[head][i * kTables + t] == query[t];
        if (equal >= 2) expected.push_back(static_cast<uint32_t>(i));
      }
      CHECK(found.count == expected.size() && std::equal(expected.begin(), expected.end(), found.ids.data()));
    }
  }

  void Append(uint32_t head, size_t n, std::mt19937& random) {
    const size_t old = codes[head].size();
    codes[head].resize(old + n * kTables);
    std::generate(codes[head].begin() + static_cast<ptrdiff_t>(old), codes[head].end(), [&] { return random() % (1u << kBits); });
    CHECK(tables->AddCodes(head, codes[head].data() + old, n) == Status::kOk);
  }
  void Truncate(uint32_t head, size_t n) {
    codes[head].resize(n * kTables);
    tables->Truncate(head, n);
  }
  void Clear() {
    for (auto& each : codes) each.clear();
    tables->Clear();
  }
  Pair Fork() const {
    Pair fork = *this;
    fork.tables = tables->Fork();
    return fork;
  }
};

// Changes some of `pairs` and forks of them at random, checking after each change.
void Live(std::vector<Pair> pairs, uint32_t seed, int steps) {
  std::mt19937 random(seed);
  for (int step = 0; step < steps; ++step) {
    const size_t at = random() % pairs.size();
    const uint32_t head = random() % kHeads;
    Pair& pair = pairs[at];
    switch (random() % 8) {
      case 0:
        if (pairs.size() < 6) pairs.push_back(pair.Fork());
        break;
      case 1:
        if (pairs.size() > 1) {
          if (random() % 2 == 0) pair.tables->Dispose();
          pairs.erase(pairs.begin() + static_cast<ptrdiff_t>(at));
        }
        break;
      case 2:
        if (random() % 4 == 0) pair.Clear();
        break;
      case 3:
        pair.Truncate(head, pair.size(head) == 0 ? 0 : random() % pair.size(head));
        break;
      case 4:
        pair.Append(head, 1 + random() % 2500, random);
        break;
      default:
        pair.Append(head, 1 + random() % 200, random);
    }
    for (const Pair& each : pairs) each.Check(random);
  }
}

void ForksAreApart() {
  for (uint32_t seed = 0; seed < 4; ++seed) Live({Pair::Empty()}, seed, 60);

  // Four threads change forks of what the fifth changes and disposes of.
  std::mt19937 random(9);
  Pair base = Pair::Empty();
  base.Append(0, 5000, random);
  base.Append(0, 300, random);
  base.Append(1, 700, random);
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < 4; ++i) threads.emplace_back(Live, std::vector<Pair>{base.Fork()}, 100 + i, 30);
  base.Append(0, 50, random);
  base.Truncate(1, 600);
  base.Append(1, 60, random);
  base.Check(random);
  base.tables->Dispose();
  for (std::thread& thread : threads) thread.join();
}

void ForksOfViewsChange() {
  std::mt19937 random(11);
  Pair base = Pair::Empty();
  base.Append(0, 5000, random);
  base.Append(0, 300, random);
  base.Append(1, 700, random);
  std::vector<uint8_t> bytes;
  base.tables->Write([&](const ContainerWriter& writer, const magicpig_pool& pool) {
    bytes.resize(writer.bytes());
    writer.Write(pool, bytes.data());
  });
  for (uint32_t seed = 20; seed < 24; ++seed) {
    Pair view = base;
    view.tables = Tables::Read(Container::Copy(bytes.data(), bytes.size(), Tables::kFileKind), TheProjection(),
                               std::vector<float>(17, 1.0f), ProcessPool(2), true, false);
    const Pair fork = view.Fork();
    CHECK(fork.tables->bytes() < 4096);  // the keys are in the file
    view.tables.reset();                 // which lives on with the fork
    Live({fork}, seed, 40);
  }
}

// Tables filled with segments have the keys of tables filled with codes.
void SegmentsAreAdopted() {
  std::mt19937 random(13);
  const PoolHandle pool = ProcessPool(2);
  for (const auto& counts : {std::vector<uint32_t>{1}, {1024}, {1025}, {700, 700, 700}, {65535, 40000, 5}, {65536, 1, 65534, 2000},
                             {131070, 131070}}) {
    Pair pair = Pair::Empty();
    for (const uint32_t count : counts) {
      std::vector<uint16_t> codes(size_t{count} * kTables);
      for (uint16_t& code : codes) code = random() % 5 == 0 ? random() % 3 : random() % (1u << kBits);
      // Sorted by hand.
      const uint32_t parts = (count + 65534) / 65535, buckets = 1u << kBits;
      std::vector<uint16_t> starts, ids;
      for (uint32_t t = 0; t < kTables; ++t) {
        std::map<std::pair<uint32_t, uint32_t>, std::vector<uint16_t>> sorted;  // by bucket and part
        for (uint32_t i = 0; i < count; ++i) {
          sorted[{codes[size_t{i} * kTables + t], i / 65535}].push_back(static_cast<uint16_t>(i % 65535));
        }
        std::vector<uint32_t> before(parts);
        for (uint32_t b = 0; b <= buckets; ++b) {
          for (uint32_t p = 0; p < parts; ++p) starts.push_back(static_cast<uint16_t>(before[p]));
          for (uint32_t p = 0; b < buckets && p < parts; ++p) {
            const auto& bucket = sorted[{b, p}];
            before[p] += static_cast<uint32_t>(bucket.size());
            ids.insert(ids.end(), bucket.begin(), bucket.end());
          }
        }
      }
      const std::vector<float> norms(count, 0.5f);
      const GivenSegment good{count, starts.data(), ids.data(), norms.data(), nullptr};
      uint32_t table = 0;

      // One id changed is refused. A start may be one of another segment.
      for (int trial = 0; trial < 30; ++trial) {
        const bool start = trial % 3 == 0;
        auto& words = start ? starts : ids;
        uint16_t& word = words[random() % words.size()];
        const uint16_t kept = word;
        word = trial % 2 == 0 ? static_cast<uint16_t>(random()) : static_cast<uint16_t>(word + 1);
        if (word != kept) {
          const std::shared_ptr<Tables> fork = pair.tables->Fork();
          const Status status = fork->AddSegment(1, good, &table);
          CHECK(start || status == Status::kInvalidSegment);
          CHECK(status == Status::kOk || table == static_cast<size_t>(&word - words.data()) / (words.size() / kTables));
          CHECK(status == Status::kOk ? fork->index(1)->Valid(*pool) : fork->size(1) == pair.size(1));
        }
        word = kept;
      }
      for (const float bad : {-1.0f, HUGE_VALF, std::nanf("")}) {
        std::vector<float> bad_norms = norms;
        bad_norms[random() % count] = bad;
        CHECK(pair.tables->AddSegment(1, {count, starts.data(), ids.data(), bad_norms.data(), nullptr}, &table) == Status::kInvalidNorm);
      }
      pair.Check(random);

      CHECK(pair.tables->AddSegment(1, good, &table) == Status::kOk);
      pair.codes[1].insert(pair.codes[1].end(), codes.begin(), codes.end());
      for (int i = 0; i < 5; ++i) pair.Check(random);
      CHECK(pair.tables->index(1)->Valid(*pool));
      CHECK(pair.tables->index(1)->bytes() <= HeadIndex::MostBytes({kBits, kTables}, pair.size(1)));
    }
    Live({pair}, 14, 6);
  }
}

}  // namespace

void ForksAndSegmentsAreRight() {
  ForksAreApart();
  ForksOfViewsChange();
  SegmentsAreAdopted();
}
