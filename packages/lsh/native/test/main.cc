// Checks the core against plain loops, on every instruction set of this machine, and under sanitizers. Exits with 1 at the
// first difference.
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <new>
#include <random>
#include <thread>
#include <vector>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "../../include/magicpig/thread_pool.h"
#include "../kernels.h"
#include "../new_selector.h"
#include "../pool_handle.h"
#include "../projection.h"
#include "../tables.h"
#include "check.h"
#include "normals.h"

using namespace magicpig::lsh;

namespace {

std::vector<const Kernels*> AllKernels() {
  std::vector<const Kernels*> all{&kPortableKernels};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) all.push_back(&kAvx2Kernels);
  if (__builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512vnni")) all.push_back(&kAvx512Kernels);
#elif defined(__aarch64__)
  all.push_back(&kNeonKernels);
#endif
  return all;
}

// Every kernel against the portable one, for row counts and sizes around the edges of tiles.
void KernelsAgree() {
  for (const ProjectionKind kind : {ProjectionKind::kGaussian, ProjectionKind::kHadamard}) {
    for (const uint32_t dim : {1u, 7u, 64u, 80u, 128u, 200u}) {
      for (const auto& [bits, tables] : {std::pair{1u, 1u}, {4u, 31u}, {10u, 150u}, {16u, 33u}}) {
        const Projection projection(kind, dim, bits, tables, 11);
        Projection::Scratch scratch;
        scratch.Prepare(projection);
        const std::vector<float> x = Normals(size_t{64} * dim, dim), centre = Normals(dim, 5);
        for (const size_t rows : {1, 2, 3, 15, 33, 64}) {
          std::vector<uint16_t> expected(rows * tables), codes(rows * tables);
          std::vector<float> expected_norms(rows), norms(rows);
          CHECK(projection.Hash(kPortableKernels, x.data(), rows, centre.data(), scratch, expected_norms.data(), expected.data(),
                                tables, 1));
          for (const Kernels* kernels : AllKernels()) {
            CHECK(projection.Hash(*kernels, x.data(), rows, centre.data(), scratch, norms.data(), codes.data(), 1, rows));
            CHECK(norms == expected_norms);
            for (size_t r = 0; r < rows; ++r) {
              for (size_t t = 0; t < tables; ++t) CHECK(codes[t * rows + r] == expected[r * tables + t]);
            }
          }
        }
      }
    }
  }
}

// Leaves ones on the stack where the next call will have its frame.
[[gnu::noinline]] void DirtyStack() {
  volatile unsigned char bytes[4096];
  for (volatile unsigned char& byte : bytes) byte = 0xff;
}

// Ids read off counters against a loop over them, with counters around the threshold in and beyond the limit.
template <typename Counter, typename Collect>
void CollectIsExact(Collect collect) {
  std::mt19937 random(sizeof(Counter));
  for (const size_t n : {64, 128, 320, 1024}) {
    for (const size_t limit : {size_t{0}, size_t{1}, n / 2 - 1, n / 2, n / 2 + 1, n - 63, n - 31, n - 1, n}) {
      for (const uint32_t least : {1u, 2u, 3u, 4u, 5u, 6u, 255u}) {
        for (const uint32_t most : {1u, least - 1, least, least + 3}) {
          std::vector<Counter> counters(n);
          std::vector<uint32_t> expected, ids(n + kCollectSlack);
          for (size_t i = 0; i < n; ++i) {
            counters[i] = static_cast<Counter>(std::min<uint32_t>(random() % (most + 1), Counter(-1)));
            if (i < limit && counters[i] >= least) expected.push_back(static_cast<uint32_t>(1000 + i));
          }
          DirtyStack();
          const size_t count = collect(counters.data(), n, limit, least, 1000, ids.data());
          ids.resize(count);
          CHECK(ids == expected);
          CHECK(std::all_of(counters.begin(), counters.end(), [](Counter counter) { return counter == 0; }));
        }
      }
    }
  }
}

// Candidates of a head against a count over all codes, while it grows in pieces and is cut.
void CandidatesAreExact(const Kernels& kernels, uint32_t bits, uint32_t tables) {
  std::mt19937 random(bits * 1000 + tables);
  const PoolHandle pool = ProcessPool(3);
  HeadIndex index(TablesShape{bits, tables});
  std::vector<uint16_t> all;
  QueryScratch scratch;
  Found found[3];
  const auto compare = [&] {
    const size_t n = all.size() / tables;
    CHECK(index.size() == n);
    std::vector<uint16_t> codes(3 * tables);
    for (auto& c : codes) c = static_cast<uint16_t>(random() % 3 % (1u << bits));
    for (const uint32_t least : {1u, 2u, 5u}) {
      if (least > tables) continue;
      const size_t limit = random() % 2 ? n : n - n / 3;
      for (const bool collisions : {false, true}) {
        index.Query(kernels, codes.data(), 3, limit, least, collisions, scratch, found);
        for (size_t row = 0; row < 3; ++row) {
          std::vector<uint32_t> ids;
          std::vector<uint16_t> counts;
          for (size_t i = 0; i < limit; ++i) {
            uint32_t equal = 0;
            for (size_t t = 0; t < tables; ++t) equal += all[i * tables + t] == codes[row * tables + t];
            if (equal < least) continue;
            ids.push_back(static_cast<uint32_t>(i));
            counts.push_back(static_cast<uint16_t>(equal));
          }
          CHECK(found[row].count == ids.size());
          CHECK(std::equal(ids.begin(), ids.end(), found[row].ids.data()));
          CHECK(!collisions || std::equal(counts.begin(), counts.end(), found[row].collisions.data()));
        }
      }
    }
  };
  const auto append = [&](size_t n) {
    const size_t old = all.size();
    all.resize(old + n * tables);
    for (size_t i = old; i < all.size(); ++i) {
      all[i] = static_cast<uint16_t>((random() % 8 == 0 ? random() % 3 : random()) % (1u << bits));
    }
    CHECK(index.Append(*pool, n, [&](size_t begin, size_t rows, uint16_t* codes, size_t row_stride, size_t table_stride, uint32_t) {
      for (size_t r = 0; r < rows; ++r) {
        for (size_t t = 0; t < tables; ++t) codes[r * row_stride + t * table_stride] = all[old + (begin + r) * tables + t];
      }
      return true;
    }));
    compare();
  };
  compare();
  for (const size_t n : {1, 100, 1000, 1, 3000, 900, 900, 900, 20'000, 70'000, 5, 60'000}) {
    append(n);
    CHECK(index.bytes() <= HeadIndex::MostBytes({bits, tables}, index.size()));
  }
  CHECK(!index.Append(*pool, 5000, [](size_t, size_t, uint16_t*, size_t, size_t, uint32_t) { return false; }));
  compare();
  for (const size_t keep : {140'000, 131'072, 96'000, 70'000, 66'000, 65'535, 65'000, 500, 0}) {
    index.Truncate(*pool, keep);
    all.resize(keep * tables);
    compare();
    append(17);
    index.Truncate(*pool, keep);
    all.resize(keep * tables);
  }
}

// The selector through its C ABI, from several threads at once.
void SelectorSelects() {
  constexpr uint32_t kDim = 64, kBits = 6, kTables = 40;
  auto projection = std::make_shared<Projection>(ProjectionKind::kGaussian, kDim, kBits, kTables, 3);
  auto tables = std::make_shared<Tables>(TablesOptions{4, 2, 1e-4, Centring::kAuto, Element::kNone, true}, projection,
                                         std::vector<float>(17, 1.0f), ProcessPool(2), std::vector<float>());
  const std::vector<float> keys = Normals(size_t{5000} * kDim, 1), queries = Normals(size_t{6} * kDim, 2);
  CHECK(tables->Add(2, {keys.data(), Element::kF32}, 5000, nullptr) == Status::kOk);
  magicpig_selector* selector = NewSelector<Tables>(tables, kDim, 4);
  CHECK(selector->abi == MAGICPIG_SELECTOR_ABI && selector->heads == 4 && selector->head_dim == kDim);

  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (const uint32_t indexed : {5000u, 1234u, 1u, 0u}) {
        magicpig_selection out[6];
        const magicpig_selector_args args{2, 0, 6, kDim, indexed, 0, queries.data()};
        CHECK(selector->select(selector->context, &args, out) == 0);
        for (int q = 0; q < 6; ++q) {
          // One at a time gives the same.
          std::vector<uint32_t> ids(out[q].ids, out[q].ids + out[q].count);
          CHECK(std::is_sorted(ids.begin(), ids.end()) && (ids.empty() || ids.back() < indexed));
          CHECK(out[q].correction == MAGICPIG_CORRECTION_COSINE_TABLE && out[q].table_size == 17);
          CHECK(out[q].centre == tables->centre(2) && out[q].inverse_norms != nullptr);
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();

  magicpig_selection out;
  CHECK(selector->select(selector->context, std::make_unique<magicpig_selector_args>(magicpig_selector_args{
                                                1, 0, 1, kDim, 10, 0, queries.data()}).get(), &out) == 0);
  CHECK(out.count == 0);  // a head without keys
  magicpig_selector_args args{4, 0, 1, kDim, 10, 0, queries.data()};
  CHECK(selector->select(selector->context, &args, &out) != 0);  // no such head
  args.head = 2;
  args.head_dim = kDim / 2;
  CHECK(selector->select(selector->context, &args, &out) != 0);  // another dimension
  args.head_dim = kDim;
  selector->retain(selector->context);
  selector->release(selector->context);
  tables->Dispose();
  CHECK(selector->select(selector->context, &args, &out) != 0);
  selector->release(selector->context);
}

// Not under sanitizers and emulators, which need address space of their own.
#if defined(__GLIBC__) && defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define LIMITS_MEMORY
// Adds that find no memory, at many points of the way, leave the index as it was.
void OutOfMemoryIsHarmless() {
  mallopt(M_MMAP_THRESHOLD, 1 << 17);  // what is freed goes back to the system, and so counts no more
  constexpr uint32_t kDim = 16, kTables = 100;
  const auto projection = std::make_shared<Projection>(ProjectionKind::kGaussian, kDim, 8, kTables, 3);
  Tables tables({1, 1, 1e-4, Centring::kAuto, Element::kF32, true}, projection, std::vector<float>(17, 1.0f), ProcessPool(1), {});
  const std::vector<float> keys = Normals(size_t{100'000} * kDim, 4);
  const Vectors vectors{keys.data(), Element::kF32};
  CHECK(tables.Add(0, vectors, 3000, nullptr) == Status::kOk);
  const QueryOptions what{3, true, true, nullptr, 0, 0};
  const auto answer = [&] {
    const Candidates found = tables.Query(0, vectors, what);
    CHECK(found.count > 0 && found.ids[0] == 0);
    return std::vector<uint32_t>(found.ids, found.ids + found.count);
  };
  const std::vector<uint32_t> before = answer();
  int failed = 0, done = 0;
  for (size_t room = 0; done == 0; room += size_t{1} << 20) {
    std::ifstream statm("/proc/self/statm");
    size_t pages = 0;
    statm >> pages;
    const size_t used = pages * static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const rlimit unlimited{RLIM_INFINITY, RLIM_INFINITY}, limit{used + room, RLIM_INFINITY};
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    try {
      CHECK(tables.Add(0, vectors, 100'000, nullptr) == Status::kOk);
      ++done;
    } catch (const std::bad_alloc&) {
      ++failed;
    }
    CHECK(setrlimit(RLIMIT_AS, &unlimited) == 0);
    if (done == 0) CHECK(tables.size(0) == 3000 && answer() == before);
  }
  CHECK(failed > 10 && tables.size(0) == 103'000);
}
#endif

}  // namespace

int main() {
#ifdef LIMITS_MEMORY
  OutOfMemoryIsHarmless();
#endif
  KernelsAgree();
  for (const Kernels* kernels : AllKernels()) {
    CandidatesAreExact(*kernels, 4, 3);
    CandidatesAreExact(*kernels, 10, 20);
    CollectIsExact<uint8_t>(kernels->collect8);
    CollectIsExact<uint16_t>(kernels->collect16);
  }
  CandidatesAreExact(BestKernels(), 8, 300);
  CandidatesAreExact(BestKernels(), 16, 2);
  SelectorSelects();
  ContainerRefusesDamage();
  DamagedFilesAreHarmless();
  ForksAndSegmentsAreRight();
  SketchKernelsAreRight();
  KeySketchesAreRight();
  std::printf("ok: %zu instruction sets\n", AllKernels().size());
}
