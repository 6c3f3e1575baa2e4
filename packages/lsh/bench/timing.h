// Median times.
#ifndef MAGICPIG_LSH_BENCH_TIMING_H_
#define MAGICPIG_LSH_BENCH_TIMING_H_

#include <algorithm>
#include <chrono>
#include <vector>

inline double Now() {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Median time in microseconds of f(i), i < repeats, after f(0) once.
template <typename F>
double Median(int repeats, F&& f) {
  std::vector<double> times;
  f(0);
  for (int i = 0; i < repeats; ++i) {
    const double start = Now();
    f(i);
    times.push_back(Now() - start);
  }
  std::nth_element(times.begin(), times.begin() + repeats / 2, times.end());
  return times[repeats / 2];
}

#endif  // MAGICPIG_LSH_BENCH_TIMING_H_
