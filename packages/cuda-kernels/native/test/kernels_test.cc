// kernels-test: every kernel against its double-precision reference, on fresh random inputs, odd shapes and poisoned outputs.
//
//   kernels-test [--seed N] [--filter NAME] [--quick]
//
// Exit status 0: all passed; 1: something differed; 2: a CUDA call failed; 77: no device. Each kernel's tests run in a process of
// their own, since a fault ends the use of CUDA in a process; not so with --quick (for tools that watch one process) or
// --filter. Built against the emulator it runs the same checks on the CPU, in three orders of threads.
#include <spawn.h>
#include <sys/wait.h>

#include <chrono>

#include "context.h"

extern char** environ;

namespace magicpig::test {
namespace {

struct Case {
  const char* name;
  void (*run)(Context&);
};
constexpr Case kCases[] = {
    {"rms_norm", test_rms_norm},   {"rope", test_rope},
    {"elementwise", test_elementwise}, {"linear", test_linear},
    {"gemm", test_gemm},           {"weights", test_weights},
    {"attention_prefill", test_attention_prefill},
    {"attention_decode", test_attention_decode}, {"merge_attention", test_merge},
    {"simhash", test_simhash},     {"hadamard", test_hadamard},
    {"table_build", test_table_build},
    {"scatter_rows", test_scatter_rows},
    {"sketch", test_sketch},
    {"fill", test_fill},           {"streams", test_streams},
};

// Cases whose names contain `filter`, or the one of that name.
int run_all(uint64_t seed, const std::string& filter, bool exact, bool quick, const char* order) {
  int failures = 0, checks = 0;
  for (const Case& test : kCases) {
    if (exact ? test.name != filter : std::string(test.name).find(filter) == std::string::npos) continue;
    running() = test.name;
    Context context{Random(seed), quick};
    const auto start = std::chrono::steady_clock::now();
    test.run(context);
    CHECK_CUDA(cudaDeviceSynchronize());
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::printf("%-18s %s %4d checks, largest relative error %.2e, %.2f s%s\n", test.name, context.failures == 0 ? "ok    " : "FAILED",
                context.checks, context.largest, seconds, order);
    failures += context.failures;
    checks += context.checks;
  }
  std::printf("%d of %d checks failed (seed %llu)%s\n", failures, checks, static_cast<unsigned long long>(seed), order);
  return failures;
}

// Starts this program anew for each case; the number of those that did not pass.
int run_apart(const char* program, uint64_t seed) {
  std::string seed_text = std::to_string(seed);
  std::vector<std::string> failed;
  for (const Case& test : kCases) {
    std::string name = test.name, seed_option = "--seed", filter_option = "--filter", part_option = "--part";
    char* arguments[] = {const_cast<char*>(program), seed_option.data(), seed_text.data(), filter_option.data(), name.data(), part_option.data(), nullptr};
    pid_t child = 0;
    int status = 0;
    std::fflush(stdout);
    if (posix_spawn(&child, "/proc/self/exe", nullptr, nullptr, arguments, environ) != 0 || waitpid(child, &status, 0) != child ||
        !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
      failed.push_back(name);
      if (WIFSIGNALED(status)) std::printf("%-18s FAILED by signal %d\n", test.name, WTERMSIG(status));
    }
  }
  for (const std::string& name : failed) std::printf("FAILED: %s\n", name.c_str());
  std::printf("%zu of %zu kernels failed (seed %s)\n", failed.size(), std::size(kCases), seed_text.c_str());
  return static_cast<int>(failed.size());
}

}  // namespace
}  // namespace magicpig::test

int main(int argc, char** argv) {
  using namespace magicpig::test;
  uint64_t seed = std::random_device{}();
  std::string filter;
  bool quick = false, part = false;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--seed" && i + 1 < argc) {
      seed = std::strtoull(argv[++i], nullptr, 10);
    } else if (argument == "--filter" && i + 1 < argc) {
      filter = argv[++i];
    } else if (argument == "--quick") {
      quick = true;
    } else if (argument == "--part") {  // one case, started by run_apart
      part = true;
    } else {
      std::fprintf(stderr, "usage: kernels-test [--seed N] [--filter NAME] [--quick]\n");
      return 2;
    }
  }
  int failures = 0;
  if (!part) {
    failures = test_layout();
    std::printf("layout             %s\n", failures == 0 ? "ok" : "FAILED");
  }

  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess || devices == 0) {
    std::printf("no CUDA device (%s): only the layout was checked\n", status == cudaSuccess ? "none found" : cudaGetErrorString(status));
    return failures == 0 ? 77 : 1;
  }
  if (!part) {
    cudaDeviceProp properties;
    CHECK_CUDA(cudaGetDeviceProperties(&properties, 0));
    std::printf("device: %s, compute capability %d.%d\n", properties.name, properties.major, properties.minor);
    if (!quick && filter.empty()) return failures + run_apart(argv[0], seed) == 0 ? 0 : 1;
  }

#if defined(MAGICPIG_EMULATE)
  constexpr std::pair<emulator::Order, const char*> kOrders[] = {{emulator::Order::kForward, ", threads forward"},
                                                                 {emulator::Order::kReverse, ", threads in reverse"},
                                                                 {emulator::Order::kShuffled, ", threads shuffled"}};
  for (const auto& [order, text] : kOrders) {
    emulator::set_order(order, static_cast<uint32_t>(seed));
    failures += run_all(seed, filter, part, quick, text);
  }
#else
  failures += run_all(seed, filter, part, quick, "");
#endif
  return failures == 0 ? 0 : 1;
}
