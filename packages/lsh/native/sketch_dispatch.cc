#include <cstring>

#include "kernels.h"
#include "sketch_kernels.h"

namespace magicpig::lsh {
namespace {

const SketchKernels& Choose() {
  [[maybe_unused]] const char* isa = BestKernels().isa;
#if defined(__x86_64__)
  const bool avx512 = std::strcmp(isa, kAvx512SketchKernels.isa) == 0;
  if (avx512 && __builtin_cpu_supports("avx512vbmi")) return kAvx512SketchKernels;
  if (avx512 || std::strcmp(isa, kAvx2SketchKernels.isa) == 0) return kAvx2SketchKernels;
#elif defined(__aarch64__)
  if (std::strcmp(isa, kNeonSketchKernels.isa) == 0) return kNeonSketchKernels;
#endif
  return kPortableSketchKernels;
}

}  // namespace

const SketchKernels& BestSketchKernels() {
  static const SketchKernels& best = Choose();
  return best;
}

}  // namespace magicpig::lsh
