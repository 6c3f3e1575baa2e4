// What kernels-test and kernels-bench share: device buffers, random data, comparison with a reference.
#ifndef MAGICPIG_TEST_HARNESS_H_
#define MAGICPIG_TEST_HARNESS_H_

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "../device/bf16.h"

namespace magicpig::test {

// What is being tested or measured, for the message when a call fails.
inline const char*& running() {
  static const char* what = "";
  return what;
}

[[noreturn]] inline void fail(const char* file, int line, const char* call, cudaError_t status) {
  std::fflush(stdout);
  std::fprintf(stderr, "%s:%d: %s: %s (%s)%s%s\n", file, line, call, cudaGetErrorName(status), cudaGetErrorString(status),
               *running() != '\0' ? ", during " : "", running());
  std::fprintf(stderr, "A kernel's fault shows at the next call that waits; with CUDA_LAUNCH_BLOCKING=1 it shows at its launch.\n");
  std::exit(2);
}

#define CHECK_CUDA(call)                                                                                        \
  do {                                                                                                          \
    const cudaError_t status_ = (call);                                                                         \
    if (status_ != cudaSuccess) ::magicpig::test::fail(__FILE__, __LINE__, #call, status_);                      \
  } while (false)

// Device memory with every byte 0xff (NaN, -1) at first. On a GPU a guarded stretch follows, which check_guard looks at; the
// emulator's memory has AddressSanitizer's guards instead.
template <typename T>
class DeviceBuffer {
 public:
  explicit DeviceBuffer(size_t count) : count_(count) {
    CHECK_CUDA(cudaMalloc(&data_, bytes() + kGuard + (bytes() + kGuard == 0)));
    poison();
  }
  explicit DeviceBuffer(const std::vector<T>& host) : DeviceBuffer(host.size()) { upload(host); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  ~DeviceBuffer() { cudaFree(data_); }

  T* get() const { return static_cast<T*>(data_); }
  size_t size() const { return count_; }
  size_t bytes() const { return count_ * sizeof(T); }

  void poison() {
    CHECK_CUDA(cudaMemsetAsync(data_, 0xff, bytes() + kGuard, nullptr));
    CHECK_CUDA(cudaDeviceSynchronize());
  }
  void upload(const std::vector<T>& host) { CHECK_CUDA(cudaMemcpy(data_, host.data(), bytes(), cudaMemcpyHostToDevice)); }
  std::vector<T> download() const {
    std::vector<T> host(count_);
    CHECK_CUDA(cudaDeviceSynchronize());
    CHECK_CUDA(cudaMemcpy(host.data(), data_, bytes(), cudaMemcpyDeviceToHost));
    return host;
  }
  // Whether nothing was written past the end.
  bool check_guard() const {
    std::vector<unsigned char> guard(kGuard);
    CHECK_CUDA(cudaMemcpy(guard.data(), static_cast<char*>(data_) + bytes(), kGuard, cudaMemcpyDeviceToHost));
    for (const unsigned char byte : guard) {
      if (byte != 0xff) return false;
    }
    return true;
  }

 private:
#if defined(MAGICPIG_EMULATE)
  static constexpr size_t kGuard = 0;
#else
  static constexpr size_t kGuard = 512;
#endif
  void* data_ = nullptr;
  size_t count_;
};

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  std::mt19937_64& engine() { return engine_; }
  int integer(int low, int high) { return std::uniform_int_distribution<int>(low, high)(engine_); }
  std::vector<float> normal(size_t count, float mean = 0.0f, float deviation = 1.0f) {
    std::normal_distribution<float> distribution(mean, deviation);
    std::vector<float> values(count);
    for (float& value : values) value = distribution(engine_);
    return values;
  }
  std::vector<bf16> normal_bf16(size_t count, float mean = 0.0f, float deviation = 1.0f) {
    std::vector<bf16> values(count);
    std::normal_distribution<float> distribution(mean, deviation);
    for (bf16& value : values) value = magicpig::to_bf16(distribution(engine_));
    return values;
  }

 private:
  std::mt19937_64 engine_;
};

inline double value_of(float x) { return x; }
inline double value_of(double x) { return x; }
inline double value_of(bf16 x) { return to_float(x); }

struct Difference {
  double relative = 0;  // |out - reference| / |reference|
  double worst = 0;     // largest single difference, in units of the reference's root mean square
};

// NaN anywhere, an unwritten (poisoned) element too, makes both infinite; equal infinities are equal.
template <typename T, typename R>
Difference difference(const std::vector<T>& out, const std::vector<R>& reference) {
  Difference result;
  double error = 0, norm = 0, worst = 0;
  size_t finite = 0;
  for (size_t i = 0; i < reference.size(); ++i) {
    const double a = value_of(out[i]), b = value_of(reference[i]);
    if (std::isinf(b) && a == b) continue;
    const double d = std::fabs(a - b);
    if (!(d < HUGE_VAL)) return {HUGE_VAL, HUGE_VAL};
    error += d * d;
    norm += b * b;
    worst = std::max(worst, d);
    ++finite;
  }
  if (finite == 0 || error == 0) return result;
  const double rms = std::sqrt(norm / static_cast<double>(finite));
  result.relative = rms > 0 ? std::sqrt(error / norm) : HUGE_VAL;
  result.worst = rms > 0 ? worst / rms : HUGE_VAL;
  return result;
}

}  // namespace magicpig::test

#endif  // MAGICPIG_TEST_HARNESS_H_
