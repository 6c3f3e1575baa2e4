#include "cpu_features.h"

#include <string.h>

#include <iterator>

namespace magicpig::cpu {

std::vector<Path> AvailablePaths() {
  std::vector<Path> paths = {{kPathNames[0], &kPortableKernels}};
#if defined(MAGICPIG_X86)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c")) return paths;
  paths.push_back({kPathNames[1], &kAvx2Kernels});
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq") ||
      !__builtin_cpu_supports("avx512vl")) {
    return paths;
  }
  paths.push_back({kPathNames[2], &kAvx512Kernels});
  if (!__builtin_cpu_supports("avx512vnni")) return paths;
  paths.push_back({kPathNames[3], &kAvx512VnniKernels});
  if (!__builtin_cpu_supports("avx512bf16")) return paths;
  paths.push_back({kPathNames[4], &kAvx512Bf16Kernels});
#endif
  return paths;
}

const Path* FindPath(const std::vector<Path>& paths, const char* name) {
  for (const Path& path : paths) {
    if (strcmp(path.name, name) == 0) return &path;
  }
  return nullptr;
}

const Path* ChoosePath(const std::vector<Path>& paths, const char* limit) {
  if (!limit || !*limit) return &paths.back();
  for (size_t i = 0; i < std::size(kPathNames); ++i) {
    // paths holds the first paths.size() of kPathNames.
    if (strcmp(kPathNames[i], limit) == 0) return &paths[i < paths.size() ? i : paths.size() - 1];
  }
  return nullptr;
}

std::vector<const char*> CpuFeatures() {
  std::vector<const char*> features;
#if defined(MAGICPIG_X86)
  __builtin_cpu_init();
#define MAGICPIG_FEATURE(gcc_name, name) \
  if (__builtin_cpu_supports(gcc_name)) features.push_back(name)
  MAGICPIG_FEATURE("sse4.2", "sse4_2");
  MAGICPIG_FEATURE("avx2", "avx2");
  MAGICPIG_FEATURE("fma", "fma");
  MAGICPIG_FEATURE("f16c", "f16c");
  MAGICPIG_FEATURE("avx512f", "avx512f");
  MAGICPIG_FEATURE("avx512bw", "avx512bw");
  MAGICPIG_FEATURE("avx512dq", "avx512dq");
  MAGICPIG_FEATURE("avx512vl", "avx512vl");
  MAGICPIG_FEATURE("avx512vnni", "avx512_vnni");
  MAGICPIG_FEATURE("avx512bf16", "avx512_bf16");
#undef MAGICPIG_FEATURE
#elif defined(__aarch64__)
  features.push_back("asimd");
#endif
  return features;
}

}  // namespace magicpig::cpu
