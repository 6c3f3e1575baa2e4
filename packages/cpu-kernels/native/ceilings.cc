#include "ceilings.h"

#include <magicpig/thread_pool.h>

#include <algorithm>
#include <atomic>
#include <chrono>

#include "memory.h"

namespace magicpig::cpu {
namespace {

constexpr size_t kReadBytes = size_t{256} << 20;  // several times the largest caches
constexpr size_t kReadTask = size_t{1} << 20;
constexpr int kReadPasses = 5;
constexpr size_t kPeakIterations = size_t{1} << 15;
constexpr uint32_t kPeakTasksPerThread = 8;
constexpr int kPeakPasses = 5;

// Seconds of the fastest of some calls: other processes only ever slow a call down.
template <typename F>
double Fastest(int passes, F&& f) {
  double best = 1e9;
  for (int pass = 0; pass < passes; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    f();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

}  // namespace

bool MeasureCeilings(const magicpig_pool& pool, const Kernels& kernels, Ceilings* ceilings) {
  Block block = Block::Allocate(kReadBytes);
  if (!block) return false;
  ParallelFor(pool, kReadBytes / kReadTask, [&](uint32_t task, uint32_t) {
    std::fill_n(block.data() + task * kReadTask, kReadTask, std::byte{1});  // pages exist once they are written
  });
  ceilings->read_bandwidth = kReadBytes / Fastest(kReadPasses, [&] {
    ParallelFor(pool, kReadBytes / kReadTask,
                [&](uint32_t task, uint32_t) { kernels.read(block.data() + task * kReadTask, kReadTask); });
  });
  for (int format = 0; format < kInputFormats; ++format) {
    std::atomic<uint64_t> operations{0};
    const double seconds = Fastest(kPeakPasses, [&] {
      operations = 0;
      ParallelFor(pool, kPeakTasksPerThread * pool.threads,
                  [&](uint32_t, uint32_t) { operations += kernels.inputs[format].peak(kPeakIterations); });
    });
    ceilings->operations[format] = static_cast<double>(operations) / seconds;
  }
  return true;
}

}  // namespace magicpig::cpu
