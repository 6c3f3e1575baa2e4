#include "attention_kernels.h"
#include "simd_portable.h"

namespace magicpig::kv {

extern const Kernels kPortableF32 = MakeKernels<FloatCore<Portable, F32Elements<Portable>>>();
extern const Kernels kPortableBf16 = MakeKernels<FloatCore<Portable, Bf16Elements<Portable>>>();

}  // namespace magicpig::kv
