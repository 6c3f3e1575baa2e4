// Which code paths this processor can take, and which one to take.
#ifndef MAGICPIG_CPU_CPU_FEATURES_H_
#define MAGICPIG_CPU_CPU_FEATURES_H_

#include <vector>

#include "kernels.h"

namespace magicpig::cpu {

// One code path.
struct Path {
  const char* name;  // one of kPathNames
  const Kernels* kernels;
};

// Names of all paths of all processors.
inline constexpr const char* kPathNames[] = {"portable", "avx2", "avx512", "avx512-vnni", "avx512-bf16"};

// Paths this processor can take, slowest first; the first is `portable`.
std::vector<Path> AvailablePaths();

// The path of that name, or null.
const Path* FindPath(const std::vector<Path>& paths, const char* name);

// The fastest available path that is not faster than the one named by `limit` (MAGICPIG_ISA; null or empty for no limit).
// Null when there is no path of that name on any processor.
const Path* ChoosePath(const std::vector<Path>& paths, const char* limit);

// Extensions that matter here and are present, by the names of /proc/cpuinfo.
std::vector<const char*> CpuFeatures();

}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_CPU_FEATURES_H_
