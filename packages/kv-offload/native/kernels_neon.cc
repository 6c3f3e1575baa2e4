#include "attention_kernels.h"
#include "simd_neon.h"

namespace magicpig::kv {

extern const Kernels kNeon[4] = {  // (Dtype)
    MakeKernels<FloatCore<Neon, Bf16Elements<Neon>>>(),
    MakeKernels<FloatCore<Neon, F16Elements<Neon>>>(),
    MakeKernels<FloatCore<Neon, F32Elements<Neon>>>(),
    MakeKernels<FloatCore<Neon, Int8Elements<Neon>>>(),
};

}  // namespace magicpig::kv
