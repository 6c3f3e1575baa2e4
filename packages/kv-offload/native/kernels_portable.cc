#include "attention_kernels.h"
#include "simd_portable.h"

namespace magicpig::kv {

extern const Kernels kPortable[4] = {  // (Dtype)
    MakeKernels<FloatCore<Portable, Bf16Elements<Portable>>>(),
    MakeKernels<FloatCore<Portable, F16Elements<Portable>>>(),
    MakeKernels<FloatCore<Portable, F32Elements<Portable>>>(),
    MakeKernels<FloatCore<Portable, Int8Elements<Portable>>>(),
};

}  // namespace magicpig::kv
