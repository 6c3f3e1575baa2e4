// How kernels-bench measures: ceilings, medians by events, cold caches for what memory limits.
#ifndef MAGICPIG_BENCH_BENCH_H_
#define MAGICPIG_BENCH_BENCH_H_

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "../kernels/simhash.h"  // column_mean
#include "../test/harness.h"

namespace magicpig::test {

struct Result {
  std::string name, shape;
  double milliseconds, bytes, operations;
};

// How the calls of one measurement find the L2 cache.
enum class Cache {
  kCold,      // full of something else at each call: what memory limits
  kAsItIs,    // many calls in a row: what arithmetic limits
  kRotating,  // many calls in a row, each with other buffers, as `run` sees to
};

class Bench {
 public:
  Bench(std::string filter, bool small, size_t l2_bytes)
      : filter_(std::move(filter)),
        small_(small),
        flush_rows_(small ? 1 : static_cast<int>(std::max(2 * l2_bytes, size_t{128} << 20) / (kFlushWidth * sizeof(float)))),
        flush_(static_cast<size_t>(flush_rows_) * kFlushWidth),
        flush_means_(kFlushWidth) {
    CHECK_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    for (cudaEvent_t& event : events_) CHECK_CUDA(cudaEventCreateWithFlags(&event, cudaEventDefault));
  }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;
  ~Bench() {
    for (cudaEvent_t event : events_) cudaEventDestroy(event);
    cudaStreamDestroy(stream_);
  }
  cudaStream_t stream() const { return stream_; }
  bool wanted(const std::string& name) const { return filter_.empty() || name.find(filter_) != std::string::npos; }

  // Median of the time of one call of `run(i)` in milliseconds, i counting calls.
  double time(Cache cache, const std::function<cudaError_t(int)>& run) {
    int call = 0;
    const auto batch = [&](int count) {
      CHECK_CUDA(cudaEventRecord(events_[0], stream_));
      for (int i = 0; i < count; ++i) CHECK_CUDA(run(call++));
      CHECK_CUDA(cudaEventRecord(events_[1], stream_));
      return elapsed(0) / count;
    };
    if (small_) return batch(1);
    batch(2);  // to warm up
    std::vector<double> times;
    if (cache == Cache::kCold) {
      // All calls are queued before any is waited for, each behind a reading of other memory, which takes longer than queueing it
      // does. Reading, since what had been written would be written back during the call.
      for (int i = 0; i < kRounds; ++i) {
        CHECK_CUDA(column_mean(stream_, flush_means_.get(), flush_.get(), flush_rows_, kFlushWidth / 128, 128, kFlushWidth, 128));
        CHECK_CUDA(cudaEventRecord(events_[2 * i], stream_));
        CHECK_CUDA(run(call++));
        CHECK_CUDA(cudaEventRecord(events_[2 * i + 1], stream_));
      }
      for (int i = kRounds - 1; i >= 0; --i) times.push_back(elapsed(i));
    } else {
      const int count = static_cast<int>(std::clamp(2.0 / std::max(batch(2), 1e-4), 1.0, 400.0));  // about two milliseconds
      for (int i = 0; i < kRounds; ++i) times.push_back(batch(count));
    }
    std::nth_element(times.begin(), times.begin() + kRounds / 2, times.end());
    return times[kRounds / 2];
  }

  void add(const std::string& name, const std::string& shape, double bytes, double operations, Cache cache,
           const std::function<cudaError_t(int)>& run) {
    if (!wanted(name)) return;
    const std::string both = name + ", " + shape;
    running() = both.c_str();
    const double milliseconds = time(cache, run);
    running() = "";
    results.push_back({name, shape, milliseconds, bytes, operations});
    std::printf("%-26s %-46s %9.4f ms", name.c_str(), shape.c_str(), milliseconds);
    if (bytes > 0) std::printf("  %7.0f GB/s (%3.0f%% of copy)", bytes / milliseconds / 1e6, 100 * bytes / milliseconds / 1e6 / copy_rate);
    if (operations > 0) std::printf("  %7.1f TFLOP/s (%3.0f%% of GEMM)", operations / milliseconds / 1e9, 100 * operations / milliseconds / 1e9 / gemm_rate);
    std::printf("\n");
    std::fflush(stdout);
  }

  std::vector<Result> results;
  double copy_rate = 0;  // GB/s, bytes read plus bytes written
  double gemm_rate = 0;  // TFLOP/s in bf16
  std::string gemm_by;   // the library that this is the rate of; none: the package's own kernel
  double upload_rate = 0, download_rate = 0;  // GB/s, pinned
  double launch_microseconds = 0;  // between two events around a kernel that does nothing

 private:
  static constexpr int kRounds = 15;
  static constexpr int kFlushWidth = 65536;  // floats

  double elapsed(int pair) {
    CHECK_CUDA(cudaEventSynchronize(events_[2 * pair + 1]));
    float milliseconds = 0;
    CHECK_CUDA(cudaEventElapsedTime(&milliseconds, events_[2 * pair], events_[2 * pair + 1]));
    return milliseconds;
  }

  std::string filter_;
  bool small_;
  int flush_rows_;
  DeviceBuffer<float> flush_, flush_means_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t events_[2 * kRounds] = {};
};

}  // namespace magicpig::test

#endif  // MAGICPIG_BENCH_BENCH_H_
