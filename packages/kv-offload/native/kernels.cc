#include "kernels.h"

namespace magicpig::kv {

extern const Kernels kPortableF32, kPortableBf16;
#if defined(__x86_64__)
extern const Kernels kAvx2F32, kAvx2Bf16, kAvx512F32, kAvx512Bf16, kAvx512DotBf16;
#endif

const Kernels& KernelsFor(Isa isa, Dtype dtype) {
  const bool f32 = dtype == Dtype::kF32;
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx512Bf16: return f32 ? kAvx512F32 : kAvx512DotBf16;
    case Isa::kAvx512: return f32 ? kAvx512F32 : kAvx512Bf16;
    case Isa::kAvx2: return f32 ? kAvx2F32 : kAvx2Bf16;
#endif
    default: return f32 ? kPortableF32 : kPortableBf16;
  }
}

}  // namespace magicpig::kv
