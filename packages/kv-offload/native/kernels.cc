#include "kernels.h"

namespace magicpig::kv {

extern const Kernels kPortable[4];
#if defined(__aarch64__)
extern const Kernels kNeon[4];
#elif defined(__x86_64__)
extern const Kernels kAvx2[4], kAvx512[4];
extern const Kernels kAvx512DotBf16;
#endif

const Kernels& KernelsFor(Isa isa, Dtype dtype) {
  const auto index = static_cast<uint32_t>(dtype);
  switch (isa) {
#if defined(__aarch64__)
    case Isa::kNeon: return kNeon[index];
#elif defined(__x86_64__)
    case Isa::kAvx512Bf16: return dtype == Dtype::kBf16 ? kAvx512DotBf16 : kAvx512[index];
    case Isa::kAvx512: return kAvx512[index];
    case Isa::kAvx2: return kAvx2[index];
#endif
    default: return kPortable[index];
  }
}

}  // namespace magicpig::kv
