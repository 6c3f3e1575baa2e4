#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace magicpig::lsh {
namespace {

const Kernels& Choose() {
  const char* wish = std::getenv("MAGICPIG_ISA");
  const auto allows = [wish](const char* isa) {
    // The variable only lowers: "avx2" rules out avx512, "portable" rules out all others.
    if (wish == nullptr || std::strcmp(wish, isa) == 0) return true;
    return std::strcmp(wish, "portable") != 0 && std::strcmp(wish, "avx2") != 0;
  };
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi2");
  if (avx512 && allows("avx512")) return kAvx512Kernels;
  if (__builtin_cpu_supports("avx2") && allows("avx2")) return kAvx2Kernels;
#elif defined(__aarch64__)
  if (allows("neon")) return kNeonKernels;
#endif
  return kPortableKernels;
}

}  // namespace

const Kernels& BestKernels() {
  static const Kernels& best = Choose();
  return best;
}

}  // namespace magicpig::lsh
