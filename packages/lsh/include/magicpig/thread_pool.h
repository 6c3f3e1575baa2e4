// A fork-join thread pool for short, frequent parallel sections (some 300 operators in a 10 ms decode step).
//
// Workers spin for a few tens of microseconds after a section and then park on a condition variable: a futex wake at each
// operator would cost more than its arithmetic, while a pool that spins for ever starves other processes of the cores.
// Tasks come from one atomic counter, and a section ends when its tasks are done: a worker that the system has put aside
// delays only the task it holds, and one that has not woken yet is not waited for.
#ifndef MAGICPIG_THREAD_POOL_H_
#define MAGICPIG_THREAD_POOL_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

#include "pool.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace magicpig {

inline void CpuRelax() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield" ::: "memory");
#else
  std::this_thread::yield();
#endif
}

// Owns threads - 1 workers; the thread that calls Run is the remaining one. Reference counted through the C ABI.
class ThreadPool {
 public:
  // The returned handle holds one reference, given back with handle.release(handle.context). Throws std::system_error when
  // the system has no more threads.
  static magicpig_pool Create(uint32_t threads) {
    auto* pool = new ThreadPool(threads < 1 ? 1 : threads);
    return {MAGICPIG_POOL_ABI, pool->threads_, pool,
            [](void* self, uint32_t tasks, Body body, void* arg) { static_cast<ThreadPool*>(self)->Run(tasks, body, arg); },
            [](void* self) { static_cast<ThreadPool*>(self)->references_.fetch_add(1, std::memory_order_relaxed); },
            [](void* self) {
              auto* pool = static_cast<ThreadPool*>(self);
              if (pool->references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete pool;
            }};
  }

 private:
  using Body = void (*)(void* arg, uint32_t task, uint32_t thread);
  static constexpr auto kSpin = std::chrono::microseconds(30);

  explicit ThreadPool(uint32_t threads) : threads_(threads) {
    try {
      for (uint32_t i = 1; i < threads_; ++i) workers_.emplace_back([this, i] { Work(i); });
    } catch (...) {  // the system has no more threads: those already started must not outlive the pool
      Stop();
      throw;
    }
  }

  ~ThreadPool() { Stop(); }

  void Stop() {
    {
      std::lock_guard<std::mutex> lock(park_);
      stop_.store(true, std::memory_order_seq_cst);
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  void Run(uint32_t tasks, Body body, void* arg) {
    if (tasks == 0) return;
    std::lock_guard<std::mutex> one_at_a_time(run_);
    if (tasks == 1 || threads_ == 1) {
      for (uint32_t task = 0; task < tasks; ++task) body(arg, task, 0);
      return;
    }
    // The section is closed and nobody is inside, so these fields are ours.
    body_ = body;
    arg_ = arg;
    tasks_ = tasks;
    next_.store(0, std::memory_order_relaxed);
    const uint64_t number = (state_.load(std::memory_order_relaxed) >> kNumberShift) + 1;
    state_.store(number << kNumberShift | kOpen, std::memory_order_seq_cst);  // publishes the fields above
    if (parked_.load(std::memory_order_seq_cst) > 0) {
      { std::lock_guard<std::mutex> lock(park_); }  // a worker between its last check and its wait must not miss the wake
      wake_.notify_all();
    }
    Drain(0);
    // All tasks are handed out: wait for the workers that hold one, not for those that never came.
    uint64_t state = state_.fetch_and(~kOpen, std::memory_order_acq_rel);
    for (uint32_t spins = 0; (state & kInside) != 0; state = state_.load(std::memory_order_acquire)) {
      if (++spins < 4096) {
        CpuRelax();
      } else {
        std::this_thread::yield();
      }
    }
  }

  void Drain(uint32_t thread) {
    for (;;) {
      const uint32_t task = next_.fetch_add(1, std::memory_order_relaxed);
      if (task >= tasks_) return;
      body_(arg_, task, thread);
    }
  }

  void Work(uint32_t thread) {
    uint64_t seen = 0;  // number of the last section this worker took part in
    while (Enter(seen)) {
      Drain(thread);
      state_.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  bool Joinable(uint64_t state, uint64_t seen) const { return (state & kOpen) != 0 && state >> kNumberShift != seen; }

  // Waits for a section that this worker has not taken part in, and joins it. False when the pool is being destroyed.
  bool Enter(uint64_t& seen) {
    for (;;) {
      const auto deadline = std::chrono::steady_clock::now() + kSpin;
      for (uint32_t spins = 1;; ++spins) {
        uint64_t state = state_.load(std::memory_order_acquire);
        while (Joinable(state, seen)) {
          if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) {
            seen = state >> kNumberShift;
            return true;
          }
        }
        CpuRelax();
        if (spins % 64 == 0 && std::chrono::steady_clock::now() > deadline) break;
      }
      std::unique_lock<std::mutex> lock(park_);
      parked_.fetch_add(1, std::memory_order_seq_cst);
      wake_.wait(lock, [&] {
        return stop_.load(std::memory_order_seq_cst) || Joinable(state_.load(std::memory_order_seq_cst), seen);
      });
      parked_.fetch_sub(1, std::memory_order_seq_cst);
      if (stop_.load(std::memory_order_seq_cst)) return false;
    }
  }

  // state_: section number | open bit | number of workers inside.
  static constexpr uint64_t kInside = (1ull << 31) - 1;
  static constexpr uint64_t kOpen = 1ull << 31;
  static constexpr int kNumberShift = 32;

  const uint32_t threads_;
  std::atomic<int64_t> references_{1};
  std::mutex run_;  // held for one section: sections never overlap
  Body body_ = nullptr;
  void* arg_ = nullptr;
  uint32_t tasks_ = 0;
  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<uint32_t> next_{0};
  std::atomic<uint32_t> parked_{0};
  std::atomic<bool> stop_{false};
  std::mutex park_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
};

// Runs f(task, thread) for each task on the pool.
template <typename F>
void ParallelFor(const magicpig_pool& pool, uint32_t tasks, F&& f) {
  pool.run(
      pool.context, tasks,
      [](void* arg, uint32_t task, uint32_t thread) { (*static_cast<std::remove_reference_t<F>*>(arg))(task, thread); }, &f);
}

}  // namespace magicpig

#endif  // MAGICPIG_THREAD_POOL_H_
