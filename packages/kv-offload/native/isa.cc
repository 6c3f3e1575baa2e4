#include "isa.h"

#include <cstdlib>
#include <cstring>

namespace magicpig::kv {
namespace {

constexpr Isa kAll[] = {Isa::kPortable, Isa::kNeon, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16};

Isa Detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c")) {
    return Isa::kPortable;
  }
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) {
    return Isa::kAvx2;
  }
  return __builtin_cpu_supports("avx512bf16") ? Isa::kAvx512Bf16 : Isa::kAvx512;
#elif defined(__aarch64__)
  return Isa::kNeon;  // part of the architecture
#else
  return Isa::kPortable;
#endif
}

Isa Choose() {
  const Isa detected = Detect();
  const char* limit = std::getenv("MAGICPIG_ISA");
  if (limit == nullptr) return detected;
  for (const Isa isa : kAll) {
    if (std::strcmp(limit, IsaName(isa)) != 0 || isa > detected) continue;
    // Not a path of another architecture, which the order of the names would allow.
    return isa == Isa::kNeon && detected != Isa::kNeon ? detected : isa;
  }
  return detected;
}

}  // namespace

Isa ActiveIsa() {
  static const Isa isa = Choose();
  return isa;
}

const char* IsaName(Isa isa) {
  switch (isa) {
    case Isa::kPortable: return "portable";
    case Isa::kNeon: return "neon";
    case Isa::kAvx2: return "avx2";
    case Isa::kAvx512: return "avx512";
    case Isa::kAvx512Bf16: return "avx512bf16";
  }
  return "portable";
}

}  // namespace magicpig::kv
