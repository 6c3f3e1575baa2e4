#include "attention_kernels.h"
#include "simd_avx512.h"

namespace magicpig::kv {

extern const Kernels kAvx512[4] = {  // (Dtype)
    MakeKernels<FloatCore<Avx512, Bf16Elements<Avx512>>>(),
    MakeKernels<FloatCore<Avx512, F16Elements<Avx512>>>(),
    MakeKernels<FloatCore<Avx512, F32Elements<Avx512>>>(),
    MakeKernels<FloatCore<Avx512, Int8Elements<Avx512>>>(),
};

}  // namespace magicpig::kv
