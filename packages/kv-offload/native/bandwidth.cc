#include "bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <new>

#include "magicpig/thread_pool.h"
#include "pages.h"

namespace magicpig::kv {

double MeasureReadBandwidth(const magicpig_pool& pool, size_t bytes, int rounds) {
  constexpr size_t kLine = 64;
  const size_t share = (bytes / pool.threads + kLine - 1) / kLine * kLine;
  // The same memory as a store's: slabs with huge pages where the system gives them.
  PagePool pages(share, /*pin=*/false);
  std::vector<const uint8_t*> shares;
  for (uint32_t i = 0; i < pool.threads; ++i) {
    Page* page = pages.Take();
    if (page == nullptr) throw std::bad_alloc();
    std::memset(page->data, 1, share);
    shares.push_back(page->data);
  }
  std::atomic<uint64_t> sink{0};
  double best = 0.0;
  for (int round = 0; round < rounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    ParallelFor(pool, pool.threads, [&](uint32_t task, uint32_t) {
      const auto* words = reinterpret_cast<const uint64_t*>(shares[task]);
      uint64_t sum[8] = {};
      for (size_t i = 0; i < share / 8; i += 8) {
        for (int k = 0; k < 8; ++k) sum[k] += words[i + k];
      }
      for (const uint64_t part : sum) sink.fetch_add(part, std::memory_order_relaxed);
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(share) * pool.threads / seconds.count());
  }
  return best;
}

}  // namespace magicpig::kv
